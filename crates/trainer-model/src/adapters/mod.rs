//! LoRA (arXiv 2106.09685): a low-rank product beside frozen weights.
//!
//! [`LoraConfig`] holds the settings under PEFT's names, [`targets`] finds the
//! maps they speak of, [`lora`] and [`dora`] are the arithmetic, [`peft`] the files, and
//! [`LoraAdapter`] what is known of the adapter of a model: how to attach, save,
//! switch off and merge it.
//!
//! Invariants: the factors of a [`Linear`](crate::Linear) are both present or
//! both absent, and a magnitude is there only with them. While an adapter is attached, exactly its factors and magnitudes
//! and the modules of `modules_to_save` are trainable. Everything that is drawn at random, the
//! first values as well as dropout, is a function of a seed and a module's place,
//! never of a generator's state.

mod adapter;
mod config;
mod decompose;
mod dora;
mod dropout;
mod init;
mod lora;
mod merge;
mod peft;
pub(crate) mod random;
mod targets;

pub use adapter::LoraAdapter;
pub use config::{LoraConfig, LoraInit, TargetModules};
pub(crate) use dropout::DropoutScope;
pub use lora::Factor;
pub(crate) use lora::{Factors, LoraSettings, Start};
pub use targets::Linears;
pub(crate) use targets::linears;

use burn::Tensor;

/// `x` off the autodiff graph.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}
