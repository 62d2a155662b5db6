//! Which thread a pass runs on.

use candle_core::Device;

/// Runs a pass over the model on a thread of rayon's pool. From any other thread, each kernel of the pass
/// would wake a thread of the pool and wait for it, and a decoding step has a hundred kernels. Passes on a
/// GPU stay on their thread. `pass` must not wait for anything that itself needs the pool.
pub(crate) fn on_pool<R: Send>(device: &Device, pass: impl FnOnce() -> R + Send) -> R {
    if device.is_cpu() { rayon::scope(|_| pass()) } else { pass() }
}
