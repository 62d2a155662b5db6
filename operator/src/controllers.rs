//! One file per kind. What the kinds share lies beside them.

pub mod act;
mod claims;
pub mod driver;
mod finished;
mod look_up;
mod not_understood;
pub mod observe;
pub mod recorded;
pub mod run;
pub mod stage_one;
pub mod stage_two;
mod timing;
mod train;
