//! How much of the forward pass is kept in memory for the backward pass.

use candle_core::Device;

use crate::memory;

/// Trades memory for time: a layer whose graph is not kept is run a second time. The gradients are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationCheckpointing {
    /// Keeps the graph of every layer: fastest, and takes the most memory.
    None,
    /// Keeps only the input of every layer.
    EveryLayer,
    /// Keeps as many graphs as there is memory for when training begins.
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
