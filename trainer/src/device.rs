//! The one place where the device is chosen.

use candle_core::{DType, Device};
use stic_contract::recipe::Precision;

use crate::error::{Error, Result};

/// The first GPU where the build has CUDA and one is there, otherwise the CPU.
///
/// # Errors
/// [`Error::Config`] when a GPU is there and cannot be used.
pub fn choose() -> Result<Device> {
    Device::cuda_if_available(0).map_err(|e| {
        Error::Config(format!("the GPU cannot be used: {e}; check the driver and the trainer image"))
    })
}

/// The type of frozen weights and activations.
#[must_use]
pub const fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}
