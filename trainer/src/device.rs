//! Chooses the device.

use std::num::NonZeroU64;

use candle_core::{DType, Device};
use stic_contract::recipe::Precision;

use crate::error::Result;

/// The first GPU in builds with CUDA, the CPU in all others.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) where the build has CUDA and there is no usable GPU.
pub fn choose() -> Result<Device> {
    #[cfg(feature = "cuda")]
    return cuda::first_gpu();
    #[cfg(not(feature = "cuda"))]
    Ok(Device::Cpu)
}

/// That this build of the trainer can use the `gpus` of the pods of a run that computes in `precision`; which devices they
/// will have is not known before one starts.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for GPUs without CUDA.
pub fn require_support(precision: Precision, gpus: Option<NonZeroU64>) -> Result<()> {
    if precision == Precision::F32 || cfg!(feature = "cuda") {
        return Ok(());
    }
    if gpus.is_none() {
        tracing::warn!(
            "computing in BF16 on a CPU is many times slower than in F32; training.precision: F32 is for CPUs"
        );
        return Ok(());
    }
    Err(crate::Error::Config(
        "the pods of the run request GPUs, but this trainer is built without CUDA; set training.precision: F32 and request no GPUs, or use a trainer image with CUDA"
            .into(),
    ))
}

/// The type of frozen weights and activations.
#[must_use]
pub const fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::Device;
    use candle_core::cuda::cudarc::driver::sys;

    use crate::error::{Error, Result};

    pub(super) fn first_gpu() -> Result<Device> {
        let mut version = 0;
        // SAFETY: it writes one int to `version`. Where there is no driver, the stub in trainer/cuda/driver.c
        // returns an error.
        #[expect(unsafe_code, reason = "cudarc has no safe form of it")]
        let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        super::require_driver(status.result().is_ok().then_some(version), sys::CUDA_VERSION)?;
        Device::new_cuda(0).map_err(|e| {
            Error::Config(format!(
                "no usable GPU: {e}; give the pod one (nvidia.com/gpu in its resources), or use the trainer image \
                 without CUDA"
            ))
        })
    }
}

/// Checks that a driver for CUDA `found` runs code compiled with CUDA `needed`; 13000 is CUDA 13.0.
#[cfg(any(feature = "cuda", test))]
fn require_driver(found: Option<i32>, needed: u32) -> Result<()> {
    let needed = i32::try_from(needed).unwrap_or(i32::MAX);
    let name = |version: i32| format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    let missing = match found {
        Some(found) if found >= needed => return Ok(()),
        Some(found) => format!("the machine's driver is for {}", name(found)),
        None => "there is no NVIDIA driver (libcuda.so.1 cannot be loaded)".to_owned(),
    };
    Err(crate::Error::Config(format!(
        "this trainer needs {needed}, but {missing}; install a driver for {needed} or later, or use the trainer image \
         without CUDA",
        needed = name(needed)
    )))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use stic_contract::recipe::Precision;

    use super::{require_driver, require_support};

    #[test]
    fn gpus_need_a_build_with_cuda() {
        let one = Some(NonZeroU64::MIN);
        assert!(require_support(Precision::F32, one).is_ok());
        assert!(require_support(Precision::Bf16, None).is_ok());
        assert_eq!(require_support(Precision::Bf16, one).is_ok(), cfg!(feature = "cuda"));
    }

    fn refusal(found: Option<i32>) -> String {
        require_driver(found, 13000).expect_err("is not new enough").to_string()
    }

    #[test]
    fn accepts_a_driver_of_the_same_or_a_later_version() {
        assert!(require_driver(Some(13000), 13000).is_ok());
        assert!(require_driver(Some(14010), 13000).is_ok());
    }

    #[test]
    fn rejects_an_older_or_missing_driver_and_names_both_versions() {
        let old = refusal(Some(12080));
        assert!(old.contains("needs CUDA 13.0") && old.contains("driver is for CUDA 12.8"));
        assert!(refusal(None).contains("no NVIDIA driver"));
    }
}
