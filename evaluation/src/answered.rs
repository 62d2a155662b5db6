//! An answer with what its scorers need.

/// An answer to score.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a, I> {
    pub id: &'a str,
    /// What identifies the question's image; questions with the same image are dependent. The id where there is no image.
    pub cluster: &'a str,
    pub item: &'a I,
    /// `None` if the model was not asked or did not answer.
    pub answer: Option<&'a str>,
    /// The description of the image that the answer was given after, if any.
    pub description: Option<&'a str>,
    /// What the judge replied, call by call; empty for a benchmark without judge.
    pub replies: &'a [String],
}
