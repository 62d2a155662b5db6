//! The programs whose rules an answer is scored by.

pub use stic_contract::evaluation::Scorer;

/// What a scorer says about one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// What the answer contributes to the score by the scorer's rules, usually 0 or 1.
    pub value: f64,
    /// Whether no rule could tell what was answered. The references count that as wrong (`value` is 0), so that scores stay
    /// comparable; we report the number of such answers beside the score.
    pub unresolved: bool,
}

impl Mark {
    /// A right or a wrong answer.
    #[must_use]
    pub fn correct(correct: bool) -> Self {
        Self { value: f64::from(u8::from(correct)), unresolved: false }
    }

    /// Worth `value`.
    #[must_use]
    pub const fn worth(value: f64) -> Self {
        Self { value, unresolved: false }
    }

    /// No rule tells what was answered.
    pub const UNRESOLVED: Self = Self { value: 0.0, unresolved: true };
}
