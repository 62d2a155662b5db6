//! What a forward pass is for.

/// On a CPU in f32, [`Mode::Inference`] and [`Mode::Training`] compute the same bits, so a layer that the backward pass
/// runs again has the values of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Many tokens at once, without a graph.
    Inference,
    /// Many tokens at once, with the graph that gradients are computed from.
    Training,
    /// One token of each of a few sequences. The bits of a row do not depend on the other rows, nor on their number.
    Decoding,
}
