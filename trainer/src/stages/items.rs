//! The items `prepare` leaves for later steps.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stic_contract::{ArtifactKind, ArtifactRef, Digest, VolumePath};

use crate::data::image::{self, ImageError, Limits};
use crate::data::images_dir;
use crate::data::template::{Role, Turn};
use crate::error::{Error, Result};
use crate::io::artifact::open_input;
use crate::io::journal::{Indexed, Row};
use crate::io::volumes::Volumes;

/// One image, or one conversation about an image, that was read and fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// The image's path under its folder, or the conversation's id.
    pub id: String,
    /// The image, relative to its folder.
    pub image: String,
    /// (height, width) in pixels, EXIF orientation applied.
    pub size: (u32, u32),
    /// The digest of the image file.
    pub digest: Digest,
    /// The conversation, its image placeholder stripped; empty for a plain image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conversation: Vec<Message>,
    /// A pair made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<GivenPair>,
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// The user's.
    Human(String),
    /// The answer.
    Gpt(String),
}

impl Message {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Human(text) | Self::Gpt(text) => text,
        }
    }
}

impl From<Turn> for Message {
    fn from(turn: Turn) -> Self {
        match turn.role {
            Role::User => Self::Human(turn.text),
            Role::Assistant => Self::Gpt(turn.text),
        }
    }
}

/// A pair made elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenPair {
    /// The prompt both are trained under.
    pub prompt: String,
    /// The better response.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
}

impl Row for Item {
    fn id(&self) -> &str {
        &self.id
    }
}

/// Every item, sorted by id and read when it is asked for, and where its image is.
#[derive(Debug)]
pub struct PreparedItems {
    items: Indexed<Item>,
    images: PathBuf,
}

impl PreparedItems {
    /// Opens the artifact, its digest verified.
    ///
    /// # Errors
    /// [`Error::Data`] when it is not what was recorded.
    pub fn open(volumes: &Volumes, reference: &ArtifactRef, images: &VolumePath) -> Result<Self> {
        let dir = open_input(volumes, reference)?;
        Ok(Self {
            items: Indexed::open(&dir.join(ArtifactKind::Prepared.payload_file()))?,
            images: volumes.resolve(images)?,
        })
    }

    /// How many items there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items as rows of a file.
    #[must_use]
    pub const fn rows(&self) -> &Indexed<Item> {
        &self.items
    }

    /// Item `index`, in the order of ids.
    ///
    /// # Errors
    /// [`Error::Data`] where it cannot be read; [`Error::Storage`].
    pub fn get(&self, index: usize) -> Result<Item> {
        self.items.get(index)
    }

    /// The indexes of the items of shard `index` of `count`: every `count`-th one.
    pub fn share(&self, index: u32, count: u32) -> impl ExactSizeIterator<Item = usize> + use<> {
        (index as usize..self.len()).step_by(count.max(1) as usize)
    }

    /// The item's image, which must still be the one that was prepared.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file.
    pub fn open_image(&self, item: &Item) -> Result<::image::RgbImage> {
        let path = images_dir::resolve(&self.images, &item.image)?;
        let bytes = read_image(&path)?;
        if Digest::of(&bytes) != item.digest {
            return Err(Error::Data(format!(
                "{}: the image was changed after it was prepared; restore it, or start again under a new name",
                path.display()
            )));
        }
        decode(&path, &bytes)
    }
}

/// The bytes of an image file; a disk that fails is not an image that cannot be read.
pub(super) fn read_image(path: &Path) -> Result<Vec<u8>> {
    image::read_file(path).map_err(|error| match error {
        ImageError::Io(source) if source.kind() != ErrorKind::PermissionDenied => {
            Error::storage(path)(source)
        }
        other => Error::Data(format!("{}: {other}", path.display())),
    })
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<::image::RgbImage> {
    image::decode(bytes, &Limits::default()).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}
