//! The image of a row: a path, or a list of one path.

use serde::Deserialize;

/// The field as it stands in the file.
#[derive(Deserialize)]
#[serde(untagged, expecting = "an image must be a path, or a list of one path")]
pub(super) enum ImageField {
    Path(String),
    Paths(Vec<String>),
}

impl ImageField {
    /// The path, empty if the list is.
    pub(super) fn path(self) -> Result<String, String> {
        match self {
            Self::Path(path) => Ok(path),
            Self::Paths(mut paths) if paths.len() < 2 => Ok(paths.pop().unwrap_or_default()),
            Self::Paths(paths) => Err(format!(
                "image lists {} paths: an item shows one image; keep one path, or split the item into one per image",
                paths.len()
            )),
        }
    }
}
