//! Chooses the devices.

use std::num::NonZeroU32;

use candle_core::{DType, Device};
use stic_contract::recipe::Precision;

use crate::error::Result;

/// The device of a command: the first GPU in builds with CUDA, the CPU in all others.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) where the build has CUDA and there is no usable GPU.
pub fn first() -> Result<Device> {
    #[cfg(feature = "cuda")]
    return Ok(cuda::gpus(NonZeroU32::MIN)?.remove(0));
    #[cfg(not(feature = "cuda"))]
    Ok(Device::Cpu)
}

/// The devices of a step whose pod requests `gpus`: as many GPUs, or the one of [`first`] for a step without a request.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) where there are fewer, or they cannot be used.
pub fn of_step(gpus: Option<NonZeroU32>, precision: Precision) -> Result<Vec<Device>> {
    let Some(gpus) = gpus else {
        if !cfg!(feature = "cuda") {
            warn_of_slow(precision);
        }
        return Ok(vec![first()?]);
    };
    #[cfg(feature = "cuda")]
    return cuda::gpus(gpus);
    #[cfg(not(feature = "cuda"))]
    Err(crate::Error::Config(format!(
        "the pod of this step requests {}, but this trainer is built without CUDA; use a trainer image with CUDA \
         (stic-trainer-cuda), or request no GPU and set training.precision: F32",
        count(gpus.get())
    )))
}

/// Warns of a number format that is slow on CPUs.
pub fn warn_of_slow(precision: Precision) {
    if precision == Precision::Bf16 {
        tracing::warn!(
            "computing in BF16 on a CPU is many times slower than in F32; on CPUs, set precision: F32"
        );
    }
}

fn count(gpus: u32) -> String {
    if gpus == 1 { "a GPU".to_owned() } else { format!("{gpus} GPUs") }
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
    use std::num::NonZeroU32;

    use candle_core::Device;
    use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result, sys};

    use crate::error::{Error, Result};

    pub(super) fn gpus(wanted: NonZeroU32) -> Result<Vec<Device>> {
        check_driver()?;
        let found = match CudaContext::device_count() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            counted => counted.map_err(failed)?,
        };
        super::require_devices(u32::try_from(found).unwrap_or_default(), wanted.get())?;
        (0..wanted.get() as usize).map(gpu).collect()
    }

    fn gpu(index: usize) -> Result<Device> {
        let context = CudaContext::new(index).map_err(failed)?;
        let (major, minor) = context.compute_capability().map_err(failed)?;
        super::require_capability(major, minor)?;
        retain_freed_memory(&context);
        Ok(Device::new_cuda(index)?)
    }

    /// Lets the device's memory pool keep what is freed: every layer frees and allocates the same sizes again, and returning
    /// them to the driver waits for the device. A device without a pool works without.
    fn retain_freed_memory(context: &CudaContext) {
        let mut all = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is that of the context, the pool is its own, and the attribute is a `u64`.
        #[expect(unsafe_code, reason = "cudarc has no safe form of it")]
        let retained = unsafe {
            result::device::get_default_mem_pool(context.cu_device())
                .and_then(|pool| result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast()))
        };
        if let Err(error) = retained {
            tracing::debug!(%error, "the device returns freed memory to the driver");
        }
    }

    fn failed(error: DriverError) -> Error {
        use sys::CUresult::{
            CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, CUDA_ERROR_OUT_OF_MEMORY,
            CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
        };
        match error.0 {
            CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(error.to_string()),
            CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
                Error::Config(format!("the node's driver cannot be used: {error}; install it again"))
            }
            _ => Error::DeviceFailed(error.to_string()),
        }
    }

    fn check_driver() -> Result<()> {
        let mut version = 0;
        // SAFETY: it writes one int to `version`. Where there is no driver, the stub in trainer/cuda/driver.c
        // returns an error.
        #[expect(unsafe_code, reason = "cudarc has no safe form of it")]
        let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        super::require_driver(status.result().is_ok().then_some(version), sys::CUDA_VERSION)
    }
}

/// Checks that a GPU is not older than those that the kernels are compiled for (`trainer/cuda/build.sh`).
#[cfg(any(feature = "cuda", test))]
fn require_capability(major: i32, minor: i32) -> Result<()> {
    if major >= 8 {
        return Ok(());
    }
    Err(crate::Error::Config(format!(
        "the GPU has compute capability {major}.{minor}, and this trainer needs 8.0 (A100) or later; keep its pods on other \
         nodes with spec.pod.nodeSelector"
    )))
}

/// Checks that there are as many GPUs as the step needs.
#[cfg(any(feature = "cuda", test))]
fn require_devices(found: u32, wanted: u32) -> Result<()> {
    if found >= wanted {
        return Ok(());
    }
    let found = if found == 0 { "none".to_owned() } else { format!("only {found}") };
    Err(crate::Error::Config(format!(
        "this step needs {}, but {found} can be seen; request it in the pod's resources (nvidia.com/gpu) and check the node's \
         device plugin, or use the trainer image without CUDA",
        count(wanted)
    )))
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
    use std::num::NonZeroU32;

    use stic_contract::recipe::Precision;

    use super::{of_step, require_capability, require_devices, require_driver};

    #[test]
    fn gpus_need_a_build_with_cuda() {
        for precision in [Precision::F32, Precision::Bf16] {
            if !cfg!(feature = "cuda") {
                assert_eq!(of_step(None, precision).expect("the CPU").len(), 1);
                let refused = of_step(NonZeroU32::new(2), precision).expect_err("it has no CUDA").to_string();
                assert!(
                    refused.contains("requests 2 GPUs, but this trainer is built without CUDA"),
                    "{refused}"
                );
            }
        }
    }

    #[test]
    fn fewer_gpus_than_requested_are_refused() {
        assert!(require_devices(2, 2).is_ok() && require_devices(8, 1).is_ok());
        let refusal = |found, wanted| require_devices(found, wanted).expect_err("too few").to_string();
        assert!(refusal(1, 2).contains("needs 2 GPUs, but only 1 can be seen"));
        assert!(refusal(0, 1).contains("needs a GPU, but none can be seen"));
    }

    #[test]
    fn older_gpus_are_refused() {
        assert!(require_capability(8, 0).is_ok() && require_capability(10, 0).is_ok());
        let refused = require_capability(7, 5).expect_err("too old").to_string();
        assert!(refused.contains("compute capability 7.5"), "{refused}");
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
