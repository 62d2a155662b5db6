//! What a matrix product does with its destination.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// Overwrites it.
    Store,
    /// Adds to it.
    Accumulate,
}
