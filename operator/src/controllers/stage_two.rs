//! `StageTwoRun`.

pub mod upstream;
pub mod validate;

pub use upstream::Upstream;
pub use validate::validate;
