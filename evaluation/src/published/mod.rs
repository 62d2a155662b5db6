//! The forms in which benchmarks are published: Hugging Face parquet, VLMEvalKit's TSV, and the original files.
//!
//! [`find()`] says which form a folder holds, and [`digests()`] whether its files are the published ones.

mod digests;
mod find;
mod form;
mod found;
mod image;
mod listing;
mod record;
mod rows;

pub use self::digests::{FileDigest, Identity, digests};
pub use self::find::find;
pub use self::form::{Form, FormKind, Format, ImageSource, KEY_FIELD};
pub use self::found::FoundForm;
pub use self::record::{Image, Record};

pub(crate) use self::image::{Content, Images, RowAt};
pub(crate) use self::rows::{ImageCell, Row, RowFile};
