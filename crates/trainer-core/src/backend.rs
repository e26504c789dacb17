//! Which backend tensors live on, chosen at run time among those compiled in.
//!
//! A device is handed out only after a small computation on it gave the right
//! answer, so that a missing driver is an error here and not a crash later.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::prelude::*;
use burn::tensor::FloatDType;
use trainer_config::{AutoBool, Backend, Config};

use crate::error::{Result, TrainerError};

/// A device that works, and the backend it belongs to.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Never [`Backend::Auto`].
    pub backend: Backend,
    /// The device; operations on it record no gradients.
    pub device: Device,
}

/// The order in which `auto` tries: CUDA if a GPU is there, then the CPU
/// backends from the fastest measured to the slowest (docs/performance.md).
/// wgpu is never chosen unasked: software drivers answer to it.
const AUTO: &[Backend] = &[Backend::Cuda, Backend::Flex, Backend::Ndarray];

/// Finds a working device of the backend; `auto` takes the first that works.
///
/// # Errors
/// When the backend is not compiled in or has no working device.
pub fn select(backend: Backend) -> Result<Selected> {
    if backend != Backend::Auto {
        let device = open(backend)?;
        return Ok(Selected { backend, device });
    }
    for &candidate in AUTO {
        if let Ok(device) = open(candidate) {
            return Ok(Selected {
                backend: candidate,
                device,
            });
        }
    }
    Err(TrainerError::Backend {
        name: Backend::Auto.to_string(),
        message: "no backend is compiled in; build with --features flex".into(),
    })
}

/// The backends of this build, by name.
#[must_use]
pub fn compiled() -> Vec<&'static str> {
    let all = [
        (cfg!(feature = "cuda"), Backend::Cuda),
        (cfg!(feature = "flex"), Backend::Flex),
        (cfg!(feature = "ndarray"), Backend::Ndarray),
        (cfg!(feature = "wgpu"), Backend::Wgpu),
    ];
    all.into_iter()
        .filter(|(compiled, _)| *compiled)
        .map(|(_, backend)| backend.as_str())
        .collect()
}

/// Whether tensors of this device are in the memory of this process, so that
/// their values can be had as slices without a copy.
#[must_use]
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
pub fn in_host_memory(device: &Device) -> bool {
    let device = device.clone().without_autodiff();
    let hosts = [
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ];
    hosts.contains(&device)
}

/// The number format that a run computes in; weights are `f32` in any case. `tf32` asks
/// for less than `f32`, which a device without it computes.
///
/// # Errors
/// When the device lacks what the configuration asks for.
pub fn compute_format(config: &Config, device: &Device) -> Result<FloatDType> {
    let compute = &config.compute;
    let has_bf16 = device.supports_dtype(FloatDType::BF16);
    let on_cpu = in_host_memory(device);
    match compute.bf16 {
        AutoBool::Bool(true) if !has_bf16 => Err(TrainerError::setting(
            "bf16",
            "the backend of this run computes in float32 only: write `backend: flex` or `backend: \
             cuda`, which have bfloat16, or `bf16: auto`"
                .into(),
        )),
        AutoBool::Bool(true) => Ok(FloatDType::BF16),
        // On a CPU, numbers are converted for every product.
        AutoBool::Auto(_) if has_bf16 && !on_cpu => Ok(FloatDType::BF16),
        AutoBool::Auto(_) | AutoBool::Bool(false) => Ok(FloatDType::F32),
    }
}

fn open(backend: Backend) -> Result<Device> {
    let failed = |message: String| TrainerError::Backend {
        name: backend.to_string(),
        message,
    };
    let device = device(backend).ok_or_else(|| {
        let have = compiled();
        failed(format!(
            "not compiled into this build (it has {}); build with --features {backend}",
            if have.is_empty() {
                "none".into()
            } else {
                have.join(", ")
            }
        ))
    })?;
    let device =
        device.ok_or_else(|| failed("no device found; is the driver installed?".into()))?;
    probe(&device).map_err(|why| failed(format!("the device does not work: {why}")))?;
    Ok(device)
}

/// `None`: not compiled in; `Some(None)`: no such hardware.
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
fn device(backend: Backend) -> Option<Option<Device>> {
    match backend {
        #[cfg(feature = "flex")]
        Backend::Flex => Some(Some(Device::flex())),
        #[cfg(feature = "ndarray")]
        Backend::Ndarray => Some(Some(Device::ndarray())),
        #[cfg(feature = "cuda")]
        Backend::Cuda => {
            let found = Device::enumerate(burn::tensor::DeviceType::Cuda);
            Some((!found.is_empty()).then(|| Device::cuda(0)))
        }
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Some(Some(Device::wgpu(Default::default()))),
        _ => None,
    }
}

fn probe(device: &Device) -> Result<(), String> {
    let sum = catch_unwind(AssertUnwindSafe(|| {
        Tensor::<1>::ones([4], device)
            .sum()
            .try_into_data()
            .map(|data| data.iter::<f32>().sum())
    }));
    match sum {
        Ok(Ok(4.0)) => Ok(()),
        Ok(Ok(other)) => Err(format!("1 + 1 + 1 + 1 gave {}", other)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "the driver failed".into())),
    }
}
