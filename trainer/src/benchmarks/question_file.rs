//! The questions of an evaluation in a file, those about one image side by side.

use std::path::{Path, PathBuf};

use image::RgbImage;
use stic_evaluation::registry::Question;

use super::image_store::ImageStore;
use crate::error::{Error, Result};
use crate::io::journal::{self, Row};

/// Questions about one image that are answered together.
const QUESTIONS_AT_ONCE: usize = 64;

impl Row for Question {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The questions, and the store of their images.
#[derive(Debug, Clone)]
pub struct QuestionFile {
    path: PathBuf,
    images: ImageStore,
}

impl QuestionFile {
    /// The questions in the file at `path`.
    #[must_use]
    pub fn new(path: &Path, images: ImageStore) -> Self {
        Self { path: path.to_owned(), images }
    }

    /// All questions, one at a time. A file that cannot be opened is the error of the first one.
    pub fn read(&self) -> impl Iterator<Item = Result<Question>> + Send + use<> {
        let (questions, error) = match journal::read(&self.path) {
            Ok(questions) => (Some(questions), None),
            Err(error) => (None, Some(Err(error))),
        };
        error.into_iter().chain(questions.into_iter().flatten())
    }

    /// The same in groups of questions about one image. A question without an image is a group of its own.
    pub fn groups(&self) -> impl Iterator<Item = Result<Vec<Question>>> + Send + use<> {
        group_by_image(self.read())
    }

    /// The image of a question, if it has one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the question's row.
    pub fn open_image(&self, question: &Question) -> Result<Option<RgbImage>> {
        let Some(digest) = &question.image else { return Ok(None) };
        self.images.open(digest).map(Some).map_err(|error| match error {
            Error::Data(reason) => {
                Error::Data(format!("{}: its image cannot be used: {reason}", question.place))
            }
            other => other,
        })
    }
}

fn group_by_image(
    questions: impl Iterator<Item = Result<Question>>,
) -> impl Iterator<Item = Result<Vec<Question>>> {
    let mut questions = questions.peekable();
    std::iter::from_fn(move || {
        let first = match questions.next()? {
            Ok(question) => question,
            Err(error) => return Some(Err(error)),
        };
        let image = first.image.clone();
        let mut group = vec![first];
        while image.is_some() && group.len() < QUESTIONS_AT_ONCE {
            let same = |next: &Result<Question>| next.as_ref().is_ok_and(|question| question.image == image);
            let Some(Ok(question)) = questions.next_if(same) else { break };
            group.push(question);
        }
        Some(Ok(group))
    })
}
