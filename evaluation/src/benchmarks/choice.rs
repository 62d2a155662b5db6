//! Which option an answer chose, by VLMEvalKit's rules (`can_infer` in `vlmeval/utils/matching_util.py`).

use std::sync::LazyLock;

use regex::Regex;

use crate::python;

/// An option of a multiple-choice question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    pub letter: char,
    /// `None` if the form does not tell the texts of the options apart.
    pub text: Option<&'a str>,
}

/// The letter that was chosen, `Z` if the answer declines, or `None` if no rule tells.
///
/// First the rules for letters: exactly one of the letters is a word of the answer, among its last four. Or none is, but `Z`
/// is. Or `answer is` is followed by a to d, in either case, be it the article. Else, if the answer is at most twice as long as
/// all options together, the one option that it contains.
#[must_use]
pub fn infer(answer: &str, choices: &[Choice<'_>]) -> Option<char> {
    by_letter(answer, choices).or_else(|| by_text(answer, choices))
}

const DECLINED: [&str; 4] = [
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
];

fn by_letter(answer: &str, choices: &[Choice<'_>]) -> Option<char> {
    if answer.contains("Failed to obtain answer via API") {
        return None;
    }
    if DECLINED.iter().any(|phrase| answer.contains(phrase)) {
        return Some('Z');
    }
    let spaced = answer.replace(['.', '(', ')', '[', ']', ',', ':', ';', '!', '*', '#', '{', '}'], " ");
    let words: Vec<_> = python::split(&spaced).collect();
    let place = |letter: char| words.iter().position(|word| word.chars().eq([letter]));
    let mut named = choices.iter().filter_map(|choice| Some((choice.letter, place(choice.letter)?)));
    match (named.next(), named.next()) {
        (Some((letter, place)), None) if place + 5 > words.len() => return Some(letter),
        (None, _) if place('Z').is_some() => return Some('Z'),
        _ => {}
    }
    let found = ANSWER_IS.captures(answer)?.get(1)?.as_str().chars().next()?.to_ascii_uppercase();
    choices.iter().any(|choice| choice.letter == found).then_some(found)
}

#[expect(clippy::expect_used, reason = "the pattern is a constant")]
static ANSWER_IS: LazyLock<Regex> = LazyLock::new(|| {
    // Python's `(?i)i` is also the dotted capital and the dotless small i.
    Regex::new(r"(?i)answer[\s\x1c-\x1f]+[i\x{130}\x{131}]s[\s\x1c-\x1f]+\**([ABCD])")
        .expect("a valid pattern")
});

fn by_text(answer: &str, choices: &[Choice<'_>]) -> Option<char> {
    let texts: Vec<_> = choices.iter().map(|choice| choice.text).collect::<Option<_>>()?;
    let answer = answer.to_lowercase();
    if answer.chars().count() > 2 * texts.iter().map(|text| text.chars().count()).sum::<usize>() {
        return None;
    }
    let mut contained = choices.iter().zip(texts).filter(|(_, text)| answer.contains(&text.to_lowercase()));
    match (contained.next(), contained.next()) {
        (Some((choice, _)), None) => Some(choice.letter),
        _ => None,
    }
}
