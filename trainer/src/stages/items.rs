//! The items that `prepare` writes for later steps.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stic_contract::{ArtifactKind, ArtifactRef, Digest, VolumePath};

use crate::algorithm::infusion::infuse;
use crate::data::image::{self, ImageError, ImageLimits};
use crate::data::images_dir;
use crate::data::template::{Role, Turn};
use crate::error::{Error, Result};
use crate::io::artifact::open_input;
use crate::io::journal::{Indexed, Row};
use crate::io::volumes::Volumes;

/// An image, or a conversation about an image, that can be read and fits the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// The image's path under its folder, or the conversation's id.
    pub id: String,
    /// Relative to the image folder.
    pub image: String,
    /// (height, width) in pixels, after EXIF orientation.
    pub size: (u32, u32),
    /// Of the image file.
    pub digest: Digest,
    /// Without the image placeholder; empty for a plain image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conversation: Vec<Message>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<GivenPair>,
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    Human(String),
    Gpt(String),
}

impl Message {
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

/// A preference pair from the input data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenPair {
    /// Both responses are trained under it.
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
}

impl Item {
    /// The conversation as turns, the first infused with the description of the image if there is a template for it.
    pub(super) fn turns(&self, infusion: Option<&str>, description: &str) -> Vec<Turn> {
        self.conversation
            .iter()
            .enumerate()
            .map(|(i, message)| {
                let text = match infusion {
                    Some(template) if i == 0 => infuse(template, description, message.text()),
                    _ => message.text().to_owned(),
                };
                let role = match message {
                    Message::Human(_) => Role::User,
                    Message::Gpt(_) => Role::Assistant,
                };
                Turn { role, text, image: i == 0 }
            })
            .collect()
    }
}

impl Row for Item {
    fn id(&self) -> &str {
        &self.id
    }
}

/// All items, sorted by id and read on demand, and the folder of their images.
#[derive(Debug)]
pub struct PreparedItems {
    items: Indexed<Item>,
    images: PathBuf,
}

impl PreparedItems {
    /// Opens the artifact after verifying its digest.
    ///
    /// # Errors
    /// [`Error::Data`] if it does not match.
    pub fn open(volumes: &Volumes, reference: &ArtifactRef, images: &VolumePath) -> Result<Self> {
        let dir = open_input(volumes, reference)?;
        Ok(Self {
            items: Indexed::open(&dir.join(ArtifactKind::Prepared.payload_file()))?,
            images: volumes.resolve(images)?,
        })
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The rows of `items.jsonl`.
    pub(super) const fn indexed(&self) -> &Indexed<Item> {
        &self.items
    }

    /// The index of the item with this id.
    ///
    /// # Errors
    /// [`Error::Data`] if there is none; [`Error::Storage`].
    pub fn index_of(&self, id: &str) -> Result<usize> {
        self.items.index_of(id)
    }

    /// Item `index` in the order of ids.
    ///
    /// # Errors
    /// [`Error::Data`] for a damaged row; [`Error::Storage`].
    pub fn get(&self, index: usize) -> Result<Item> {
        self.items.get(index)
    }

    /// The indexes of the items of shard `index` of `count`: every `count`-th.
    pub fn share(&self, index: u32, count: u32) -> impl ExactSizeIterator<Item = usize> + use<> {
        (index as usize..self.len()).step_by(count.max(1) as usize)
    }

    /// The item's image, which must not have changed since it was prepared.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file.
    pub fn open_image(&self, item: &Item) -> Result<::image::RgbImage> {
        let path = images_dir::resolve(&self.images, &item.image)?;
        let bytes = read_image(&path)?;
        if Digest::of(&bytes) != item.digest {
            return Err(Error::Data(format!(
                "{}: the image was changed after it was prepared; restore it, or start a new run",
                path.display()
            )));
        }
        decode(&path, &bytes)
    }
}

/// The bytes of an image file. A failing disk is [`Error::Storage`], anything else the image's fault.
pub(super) fn read_image(path: &Path) -> Result<Vec<u8>> {
    image::read_file(path).map_err(|error| match error {
        ImageError::Io(source) if source.kind() != ErrorKind::PermissionDenied => {
            Error::storage(path)(source)
        }
        other => Error::Data(format!("{}: {other}", path.display())),
    })
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<::image::RgbImage> {
    image::decode(bytes, &ImageLimits::default()).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}
