//! Intervals of scores and of paired differences, and the smallest difference that data can show.
//!
//! `docs/evaluation-statistics.md` has the formulas, what they assume, and the coverage that was measured.

mod difference;
mod estimate;
mod expectation;
mod limits;
mod linear;
mod overall;
mod score;
mod student;

pub use self::difference::{Difference, difference};
pub use self::estimate::{Estimate, Method};
pub use self::expectation::{Detectable, Expectation, Spread, smallest_detectable_difference};
pub use self::overall::overall;
pub use self::score::{Score, score};
