//! How much of a forward pass stays in memory for the backward pass.

use candle_core::Device;

use crate::memory;

/// Memory against time: a layer whose graph is not kept is run a second time. Gradients are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationCheckpointing {
    /// Every layer's graph is kept: the fastest, and the largest.
    None,
    /// Only every layer's input is kept.
    EveryLayer,
    /// As many graphs are kept as there is memory for when training begins.
    #[default]
    Auto,
}

impl ActivationCheckpointing {
    /// Bytes that kept graphs may take on `device`.
    #[must_use]
    pub fn graph_bytes(self, device: &Device) -> u64 {
        match self {
            Self::None => u64::MAX,
            Self::EveryLayer => 0,
            Self::Auto => memory::budget_bytes_on(device),
        }
    }
}
