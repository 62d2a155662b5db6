//! Artifacts: folders that are complete once `_SUCCESS.json` is in them.

mod marker;
mod output;
mod provenance;

pub use self::marker::{inspect, open_input, read_marker, verify};
pub use self::output::{Draft, Output};
