//! The one place where the device is chosen.

use candle_core::{DType, Device};
use stic_contract::recipe::Precision;

use crate::error::Result;

/// The first GPU where the build has CUDA, otherwise the CPU.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) when the build has CUDA and no GPU can be used: what is missing, and the mend.
pub fn choose() -> Result<Device> {
    #[cfg(feature = "cuda")]
    return cuda::first_gpu();
    #[cfg(not(feature = "cuda"))]
    Ok(Device::Cpu)
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
        // SAFETY: it writes one int, and `version` is one. Where there is no driver it is the function of
        // trainer/cuda/driver.c that says so.
        #[expect(unsafe_code, reason = "cudarc has no safe form of it")]
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        super::require_driver(asked.result().is_ok().then_some(version), sys::CUDA_VERSION)?;
        Device::new_cuda(0).map_err(|e| {
            Error::Config(format!(
                "no GPU can be used: {e}; give the process one (nvidia.com/gpu in the pod's resources), or use the \
                 trainer that is compiled without CUDA"
            ))
        })
    }
}

/// Whether a driver for CUDA `found` runs what was compiled with CUDA `needed`; 13000 is CUDA 13.0.
#[cfg(any(feature = "cuda", test))]
fn require_driver(found: Option<i32>, needed: u32) -> Result<()> {
    let needed = i32::try_from(needed).unwrap_or(i32::MAX);
    let name = |version: i32| format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    let missing = match found {
        Some(found) if found >= needed => return Ok(()),
        Some(found) => format!("the driver of this machine is for {}", name(found)),
        None => "there is no NVIDIA driver (libcuda.so.1 cannot be loaded)".to_owned(),
    };
    Err(crate::Error::Config(format!(
        "this trainer was compiled with {needed}, and {missing}; install a driver for {needed} or later, or use the \
         trainer that is compiled without CUDA",
        needed = name(needed)
    )))
}

#[cfg(test)]
mod tests {
    use super::require_driver;

    fn refusal(found: Option<i32>) -> String {
        require_driver(found, 13000).expect_err("is not enough").to_string()
    }

    #[test]
    fn a_driver_of_the_same_or_a_later_version_will_do() {
        assert!(require_driver(Some(13000), 13000).is_ok());
        assert!(require_driver(Some(14010), 13000).is_ok());
    }

    #[test]
    fn what_is_missing_is_named_with_both_versions() {
        let old = refusal(Some(12080));
        assert!(
            old.contains("compiled with CUDA 13.0")
                && old.contains("driver of this machine is for CUDA 12.8")
        );
        assert!(refusal(None).contains("no NVIDIA driver"));
    }
}
