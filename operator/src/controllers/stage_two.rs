//! `StageTwoRun`.

pub mod validate;

pub use validate::validate;
