//! What identifies a form of a benchmark in a folder.

/// Who published a form; it decides what its columns mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FormKind {
    /// Hugging Face parquet, as lmms-eval reads it.
    Parquet,
    /// VLMEvalKit's TSV.
    Tsv,
    /// The authors' files.
    Original,
}

/// The format of the files with the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Parquet,
    Tsv,
    JsonArray,
    JsonLines,
    /// One object whose values are the rows; the key of each is added as the field [`KEY_FIELD`].
    JsonByKey,
}

/// See [`Format::JsonByKey`].
pub const KEY_FIELD: &str = "_key";

/// Where the image of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// In this column: bytes in parquet, base64 or the index of another row (up to 64 characters) in TSV. It may be empty if
    /// a question needs no image.
    Column(&'static str),
    /// In the file that [`crate::benchmarks::Benchmark::image_path`] names, below one of these folders.
    Folder(&'static [&'static str]),
}

/// A form in which a benchmark is published.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub kind: FormKind,
    /// For messages: `Hugging Face parquet (lmms-lab-encoder/ScienceQA)`.
    pub title: &'static str,
    /// Globs of the files with rows, matched against paths relative to the folder, at any depth (`test-*.parquet` also
    /// finds `data/test-00000-of-00001.parquet`).
    pub rows: &'static [&'static str],
    pub format: Format,
    /// Further files that are needed, found in the same way.
    pub companions: &'static [&'static str],
    /// The columns or fields that every row must have.
    pub columns: &'static [&'static str],
    pub image: ImageSource,
    /// MD5 digests of published files by file name. Any other digest is a warning, not an error.
    pub known: &'static [(&'static str, &'static str)],
}
