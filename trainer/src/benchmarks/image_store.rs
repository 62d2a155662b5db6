//! A folder of images by their digests, which evaluations share.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use image::RgbImage;
use stic_contract::Digest;
use stic_evaluation::questions::LoadedImage;

use crate::data::image::{self as image_file, ImageLimits};
use crate::error::{Error, Result};
use crate::io::atomic;

/// Images by their digests.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    /// The images in `dir`.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// The image with this digest.
    ///
    /// # Errors
    /// [`Error::Data`] if it is missing, damaged, or cannot be decoded.
    pub fn open(&self, digest: &Digest) -> Result<RgbImage> {
        let path = self.path(digest);
        let unusable = |error: &dyn std::fmt::Display| Error::Data(format!("{}: {error}", path.display()));
        let bytes = image_file::read_file(&path).map_err(|error| unusable(&error))?;
        if Digest::of(&bytes) != *digest {
            return Err(unusable(
                &"the image was changed after it was prepared; delete it and run prepare again",
            ));
        }
        image_file::decode(&bytes, &ImageLimits::default()).map_err(|error| unusable(&error))
    }
}

/// Adds images to a store that other processes may add to as well.
#[derive(Debug)]
pub struct ImageWriter {
    store: ImageStore,
    /// Ends the names of files that are being written; no other process has it.
    name: String,
    written: HashSet<Digest>,
}

impl ImageWriter {
    /// # Errors
    /// [`Error::Storage`].
    pub fn new(store: ImageStore, name: String) -> Result<Self> {
        atomic::create_dir(&store.dir)?;
        Ok(Self { store, name, written: HashSet::new() })
    }

    /// Adds an image, if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn add(&mut self, image: &LoadedImage) -> Result<()> {
        let LoadedImage { bytes, digest } = image;
        let path = self.store.path(digest);
        // What is there is compared: a crash of the machine may have torn it.
        if !self.written.insert(digest.clone()) || fs::read(&path).is_ok_and(|there| there == *bytes) {
            return Ok(());
        }
        let partial = self.store.dir.join(format!("{}.{}", digest.hex(), self.name));
        write(&partial, bytes)?;
        atomic::rename(&partial, &path)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
        Error::storage(path)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_image_is_written_again_and_a_whole_one_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ImageStore::new(dir.path().join("images"));
        let image = LoadedImage { bytes: vec![1, 2, 3], digest: Digest::of(&[1, 2, 3]) };
        let add = || {
            let mut writer = ImageWriter::new(store.clone(), "u-0".into()).expect("a folder");
            writer.add(&image).expect("written");
            fs::metadata(store.path(&image.digest)).expect("a file").modified().expect("a time")
        };
        let first = add();
        assert_eq!(add(), first);
        fs::write(store.path(&image.digest), [1]).expect("torn");
        add();
        assert_eq!(fs::read(store.path(&image.digest)).expect("a file"), image.bytes);
        assert_eq!(fs::read_dir(&store.dir).expect("a folder").count(), 1);
    }
}
