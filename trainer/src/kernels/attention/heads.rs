/// The shape of grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads: a divisor of the query heads.
    pub keys: usize,
    /// The width of each head.
    pub dim: usize,
}

impl Heads {
    /// The factor of the scores.
    pub(super) fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Query heads per key head.
    pub(super) const fn group(self) -> usize {
        self.queries / self.keys
    }
}
