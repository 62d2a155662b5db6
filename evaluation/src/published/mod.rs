//! The forms in which benchmarks are published: Hugging Face parquet, VLMEvalKit's TSV, and the original files.

mod form;
mod record;

pub use self::form::{Form, FormKind, Format, ImageSource, KEY_FIELD};
pub use self::record::{Image, Record};

use std::path::{Path, PathBuf};

/// A form that was found in a folder.
#[derive(Debug)]
pub struct FoundForm {
    pub form: &'static Form,
    pub folder: PathBuf,
    /// The files with rows, in the order of their names.
    pub rows: Vec<PathBuf>,
    /// One file for each of [`Form::companions`].
    pub companions: Vec<PathBuf>,
}

impl FoundForm {
    /// The companion with this file name.
    #[must_use]
    pub fn companion(&self, name: &str) -> Option<&Path> {
        self.companions.iter().map(PathBuf::as_path).find(|path| path.ends_with(name))
    }
}
