//! The rows of a journal.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A row that belongs to one item.
pub trait Row: Serialize + DeserializeOwned {
    /// The item's id.
    fn id(&self) -> &str;
}
