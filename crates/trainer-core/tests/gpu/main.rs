//! What runs on GPUs, CUDA's included, against flex: operations with their gradients,
//! steps of training, generation, and optimizers, on wgpu.
//!
//! Any Vulkan driver will do, Mesa's in software too:
//! `cargo test --profile gpu -p trainer-core --no-default-features --features flex,wgpu
//! --test gpu`.

mod models;
mod operations;
mod optimizers;

use burn::prelude::*;
use burn::tensor::TensorData;
use trainer_config::Backend;
use trainer_core::backend;

fn gpu() -> Device {
    let selected = backend::select(Backend::Wgpu);
    selected.unwrap_or_else(|error| panic!("{error}")).device
}

/// Numbers of mean 0 and variance 1, the same for every device.
fn numbers<const D: usize>(shape: [usize; D], seed: u64) -> TensorData {
    let number = |i: u64| {
        let word = (i ^ seed.rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let word = (word ^ (word >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
        (word as f32 / (1 << 23) as f32 - 1.0) * 3_f32.sqrt()
    };
    let n = shape.iter().product::<usize>() as u64;
    TensorData::new((0..n).map(number).collect::<Vec<f32>>(), shape)
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter().collect()
}

/// `got` within `tolerance` of `want`, in units of the largest value, or of 1 where all
/// are smaller.
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    for (place, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * scale,
            "{what}, element {place}: {got}, flex {want}, of {scale}"
        );
    }
}
