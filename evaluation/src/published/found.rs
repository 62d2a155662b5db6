//! A published form in a folder.

use std::path::{Path, PathBuf};

use super::form::Form;
use super::rows::RowFile;
use crate::error::Result;

/// A form that was found in a folder.
#[derive(Debug)]
pub struct FoundForm {
    pub form: &'static Form,
    pub folder: PathBuf,
    /// The files with rows, in the order of their names.
    pub rows: Vec<PathBuf>,
    /// One file for each of [`Form::companions`].
    pub companions: Vec<PathBuf>,
    /// Where images are, if they are files.
    pub image_folders: Vec<PathBuf>,
    /// What else the folder holds of the benchmark and is not read: other forms, and copies of the same files.
    pub ignored: Vec<String>,
}

impl FoundForm {
    /// A form without files yet.
    #[must_use]
    pub fn new(form: &'static Form, folder: impl Into<PathBuf>) -> Self {
        Self {
            form,
            folder: folder.into(),
            rows: Vec::new(),
            companions: Vec::new(),
            image_folders: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// The companion with this file name.
    #[must_use]
    pub fn companion(&self, name: &str) -> Option<&Path> {
        self.companions.iter().map(PathBuf::as_path).find(|path| path.ends_with(name))
    }

    /// The file with rows, as messages call it.
    pub(crate) fn name(&self, index: usize) -> String {
        let path = self.rows.get(index).map(PathBuf::as_path).unwrap_or_else(|| Path::new(""));
        path.strip_prefix(&self.folder).unwrap_or(path).display().to_string()
    }

    /// Opens a file with rows.
    pub(crate) fn open(&self, index: usize) -> Result<RowFile> {
        let path = self.rows.get(index).map(PathBuf::as_path).unwrap_or_else(|| Path::new(""));
        RowFile::open(path, &self.name(index), self.form)
    }
}
