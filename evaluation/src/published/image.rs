//! The bytes of images, wherever a form has them.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use stic_contract::Digest;

use super::form::ImageSource;
use super::found::FoundForm;
use super::record::Image;
use super::rows::{ImageCell, RowFile, is_pointer};

/// A larger file is none of an image that a benchmark has. It bounds memory.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// What is wrong with an image, without the row's place.
pub(crate) type Problem = String;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowAt {
    /// The index of the file in [`FoundForm::rows`].
    pub(crate) file: usize,
    /// From 1.
    pub(crate) number: u64,
    pub(crate) offset: u64,
}

/// Finds and loads the images of rows.
pub(crate) struct Images<'a> {
    found: &'a FoundForm,
    /// The rows that have an image themselves, by their `index`.
    owners: HashMap<String, RowAt>,
    /// The file that rows are referred to in, open.
    file: Option<(usize, RowFile)>,
    /// The image of the row that was last referred to: the next row often refers to the same.
    last: Option<(String, Vec<u8>)>,
    /// Digests of image files by path.
    digests: HashMap<PathBuf, Digest>,
}

/// What the image cell of a row says.
pub(crate) enum Content {
    None,
    Image(Image),
    /// It refers to a row that has not been read yet, or does not exist.
    Unknown(String),
}

impl<'a> Images<'a> {
    pub(crate) fn new(found: &'a FoundForm) -> Self {
        Self { found, owners: HashMap::new(), file: None, last: None, digests: HashMap::new() }
    }

    /// Remembers that a row has an image that others may refer to.
    pub(crate) fn add_owner(&mut self, index: String, at: RowAt) {
        self.owners.entry(index).or_insert(at);
    }

    /// The image that a cell holds or refers to.
    pub(crate) fn content(&mut self, cell: ImageCell) -> Result<Content, Problem> {
        Ok(match cell {
            ImageCell::None => Content::None,
            ImageCell::Bytes(bytes) => Content::Image(Image::Bytes(bytes)),
            ImageCell::Base64(text) => Content::Image(Image::Bytes(decode(&text)?)),
            ImageCell::Reference(index) => match self.owners.get(&index).copied() {
                Some(at) => Content::Image(Image::Bytes(self.referenced(index, at)?)),
                None => Content::Unknown(index),
            },
        })
    }

    fn referenced(&mut self, index: String, at: RowAt) -> Result<Vec<u8>, Problem> {
        if let Some((_, bytes)) = self.last.as_ref().filter(|(last, _)| *last == index) {
            return Ok(bytes.clone());
        }
        let bytes =
            self.read_owner(at).map_err(|problem| format!("the image is that of row {index}: {problem}"))?;
        self.last = Some((index, bytes.clone()));
        Ok(bytes)
    }

    fn read_owner(&mut self, at: RowAt) -> Result<Vec<u8>, Problem> {
        let file = match self.file.take_if(|(file, _)| *file == at.file) {
            Some((_, file)) => file,
            None => self.found.open(at.file).map_err(|error| error.to_string())?,
        };
        let (_, file) = self.file.insert((at.file, file));
        file.seek(at.number, at.offset).map_err(|error| error.to_string())?;
        match file.next() {
            Some(Ok(row)) => match row.image {
                ImageCell::Base64(text) => decode(&text),
                _ => Err("the row no longer has an image".into()),
            },
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the file has become shorter".into()),
        }
    }

    /// The digest of an image. Files are read once.
    pub(crate) fn digest(&mut self, image: &Image) -> Result<Digest, Problem> {
        let path = match image {
            Image::Bytes(bytes) => return Ok(Digest::of(check(bytes)?)),
            Image::File(path) => path,
        };
        if let Some(digest) = self.digests.get(path) {
            return Ok(digest.clone());
        }
        let digest = Digest::of(&read(&self.resolve(path)?)?);
        self.digests.insert(path.clone(), digest.clone());
        Ok(digest)
    }

    /// The bytes of an image whose digest is known.
    pub(crate) fn bytes(&self, image: Image) -> Result<Vec<u8>, Problem> {
        match image {
            Image::Bytes(bytes) => Ok(bytes),
            Image::File(path) => read(&self.resolve(&path)?),
        }
    }

    /// Where an image file is, whose path is relative to one of the form's folders.
    fn resolve(&self, path: &Path) -> Result<PathBuf, Problem> {
        if !path.components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(format!(
                "the image {path:?} is not a path below the folder of images; correct the row"
            ));
        }
        let candidates = self.found.image_folders.iter().map(|folder| folder.join(path));
        candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
            let ImageSource::Folder(folders) = self.found.form.image else { return "no image folder".into() };
            format!(
                "the image {} is missing below {} in {}; download the images again",
                path.display(),
                folders.join(" and "),
                self.found.folder.display()
            )
        })
    }
}

/// Decodes the base64 of an image cell.
fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    let lines: String;
    let text = if text.contains(char::is_whitespace) {
        lines = text.split_whitespace().collect();
        &lines
    } else {
        text
    };
    BASE64_STANDARD.decode(text).map_err(|error| {
        let start: String = text.chars().take(16).collect();
        format!("the image is not base64 ({error}; it begins with {start:?}); download the file again")
    })
}

fn check(bytes: &[u8]) -> Result<&[u8], Problem> {
    if bytes.is_empty() {
        return Err("the image is empty; download it again".into());
    }
    if is_pointer(bytes) {
        return Err(
            "the image is a Git LFS pointer; run `git lfs pull` where the repository was cloned".into()
        );
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| format!("cannot read the image {} ({source})", path.display()))?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        return Err(format!("the image {} is larger than {} MiB", path.display(), MAX_IMAGE_BYTES >> 20));
    }
    check(&bytes).map_err(|problem| format!("{}: {problem}", path.display()))?;
    Ok(bytes)
}
