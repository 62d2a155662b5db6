//! The questions of a benchmark.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// An image and the questions about it.
pub struct ImageQuestions<'b> {
    /// Relative to the image folder.
    pub image: &'b str,
    /// The file, line and id that name it, for messages.
    pub place: String,
    pub questions: Vec<Question<'b>>,
}

/// A question as the policy reads it.
pub struct Question<'b> {
    /// Unique in the benchmark.
    pub id: &'b str,
    /// Its file, line and id, for messages.
    pub place: String,
    pub text: Cow<'b, str>,
    /// The most tokens of an answer.
    pub max_new_tokens: u32,
}

/// Groups the rows of a benchmark by image, in the order of images.
pub(super) fn by_image<'b>(
    rows: impl IntoIterator<Item = (&'b str, String, Option<Question<'b>>)>,
) -> Vec<ImageQuestions<'b>> {
    let mut images: BTreeMap<&str, ImageQuestions<'b>> = BTreeMap::new();
    for (image, place, question) in rows {
        let group = images.entry(image).or_insert(ImageQuestions { image, place, questions: Vec::new() });
        group.questions.extend(question);
    }
    images.into_values().collect()
}
