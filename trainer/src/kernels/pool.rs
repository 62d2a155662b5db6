//! Where a pass runs.

use candle_core::Device;

/// Runs a pass on a thread of the pool. Called from elsewhere, each kernel of it would wake a thread of the pool and wait
/// to be woken: a step of decoding has a hundred. A GPU's passes stay where they are. `pass` waits for nothing that
/// itself needs the pool.
pub(crate) fn on_pool<R: Send>(device: &Device, pass: impl FnOnce() -> R + Send) -> R {
    if device.is_cpu() { rayon::scope(|_| pass()) } else { pass() }
}
