//! How much memory a plan may take: of the container where there is one, of the machine otherwise.

use candle_core::Device;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Of what is free, for what can be planned; the rest is for what cannot.
const PLANNED_SHARE: f64 = 0.7;

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
