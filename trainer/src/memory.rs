//! How much memory a plan may take, of the container where there is one, of the machine otherwise; and what happens to
//! memory that is freed.

use candle_core::Device;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Of what is free, for what can be planned; the rest is for what cannot.
const PLANNED_SHARE: f64 = 0.7;

/// Has the allocator keep what is freed. A layer makes and frees the same large buffers as the one before it: given back
/// to the system each time, each of their pages has to be asked for and zeroed again, 5 to 10 per cent of a pass. So
/// threads share one arena as well: that of a second thread cannot keep what it frees.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the C library's own way to set it")]
    // SAFETY: called before there is a second thread. Where a setting is refused, the default holds.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 29);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Bytes that a plan may take beside what the process has already. No result may depend on it, only speed.
#[must_use]
pub fn budget_bytes() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind);
    let limited = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    (system.available_memory().min(limited) as f64 * PLANNED_SHARE) as u64
}

/// The same of the memory that tensors on `device` are in.
#[must_use]
pub fn budget_bytes_on(device: &Device) -> u64 {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            use candle_core::cuda_backend::cudarc::driver::result::mem_get_info;
            // Where the driver does not say, nothing can be planned with.
            let free = mem_get_info().map_or(0, |(free, _)| free);
            (free as f64 * PLANNED_SHARE) as u64
        }
        _ => budget_bytes(),
    }
}
