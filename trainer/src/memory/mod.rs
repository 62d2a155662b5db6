//! The memory budget of the container, or of the machine where there is no container; the allocator's settings; and what a step
//! takes of a GPU.

pub mod estimate;

use crate::error::{Error, Result};
use crate::io::human_bytes;
use candle_core::Device;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// The part of the free memory that can be planned with; the rest is for what is not counted.
const PLANNED_SHARE: f64 = 0.7;

/// Makes the allocator keep freed memory instead of returning it to the system. Every layer allocates and
/// frees the same large buffers; where they are returned each time, the kernel has to map and zero their
/// pages again, which takes 5 to 10 per cent of a pass. For the same reason all threads share one arena:
/// other arenas cannot keep what they free.
///
/// # Safety
/// Must be called while the process has a single thread: `mallopt` is not thread-safe.
#[expect(unsafe_code, reason = "mallopt is the C library's only interface to these settings")]
pub unsafe fn retain_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the caller promises that there is no other thread. Where a setting is refused, the default
    // stays.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 29);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Bytes that may still be allocated. Only speed may depend on it, never a result.
#[must_use]
pub fn budget_bytes() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind);
    let limited = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    (system.available_memory().min(limited) as f64 * PLANNED_SHARE) as u64
}

/// The memory of a GPU in bytes, whoever uses it; `None` for a CPU.
///
/// # Errors
/// [`Error::DeviceFailed`] if the driver does not tell.
pub fn gpu_bytes(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let total = cuda.cuda_stream().context().total_mem();
            Ok(Some(total.map_err(|error| Error::DeviceFailed(error.to_string()))? as u64))
        }
        _ => Ok(None),
    }
}

/// Refuses `subject`, which takes so many bytes of a GPU with `total`.
///
/// # Errors
/// [`Error::GpuTooSmall`].
pub fn require(subject: &str, needed: u64, total: u64) -> Result<()> {
    if needed <= total {
        return Ok(());
    }
    let [needed, total] = [needed, total].map(human_bytes);
    Err(Error::GpuTooSmall(format!("{subject} takes {needed} of memory, but the GPU has {total}")))
}
