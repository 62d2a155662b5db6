//! `StageOneRun`.

mod ineffective;
pub mod validate;

pub use validate::validate;
