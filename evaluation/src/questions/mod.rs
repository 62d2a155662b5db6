//! The questions of a published form with their images, one at a time.
//!
//! The files are read twice. The first pass makes every question and hashes every image, so that whatever is wrong with
//! them is known before a model is loaded; it keeps ids and places, no images. The second pass yields the questions.

mod entry;
mod index;
mod order;
mod read;
mod record;

pub use self::entry::{Entry, Summary};
pub use self::order::natural;
pub use self::read::{LoadedImage, Question, Questions, read};
