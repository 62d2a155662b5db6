//! The MSCOCO objects that a caption mentions: `caption_to_words` in LisaAnne/Hallucination `utils/chair.py`, and in lmms-eval
//! `lmms_eval/tasks/coco_cap_chair/utils.py`.
//!
//! Both split captions with NLTK. [`tokens`] does so as far as objects can tell: it splits the sentence's full stop from every
//! word, where NLTK's Punkt spares its 156 abbreviations, none of which is an object; and it leaves contractions such as
//! `gonna` whole.
//!
//! CHAIR then makes each word singular with pattern's rules. lmms-eval takes WordNet's lemma for the part of speech that a
//! tagger finds; here every word is taken for a noun. On 401 captions of MSCOCO with 587 mentions, a perceptron tagger made a
//! difference to three.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::singular::singularize;
use crate::python;

/// How words are made singular.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Singular {
    /// CHAIR's own program.
    Pattern,
    /// lmms-eval, but without a tagger.
    WordNet,
}

/// The objects in a caption, by the name of their MSCOCO category, in order and as often as they occur.
#[must_use]
pub fn objects(caption: &str, singular: Singular) -> Vec<&'static str> {
    let words: Vec<String> = tokens(&caption.to_lowercase())
        .iter()
        .map(|word| match singular {
            Singular::Pattern => singularize(word),
            Singular::WordNet => {
                LEMMAS.get(word.as_str()).map_or_else(|| word.clone(), |&lemma| lemma.to_owned())
            }
        })
        .collect();
    let words = join_double_words(words);
    // The seat of a toilet is no chair.
    let toilet = words.iter().any(|word| word == "toilet");
    let counted = words.iter().filter(|word| !(toilet && *word == "seat"));
    counted.filter_map(|word| category(word)).collect()
}

/// The MSCOCO category of an object's name.
#[must_use]
pub fn category(name: &str) -> Option<&'static str> {
    CATEGORIES.get(name).copied()
}

/// CHAIR's list, a category and its synonyms in each line. A name that occurs twice is the later one's.
static CATEGORIES: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let lines = include_str!("synonyms.txt").lines();
    let names = lines.flat_map(|line| {
        let category = line.split(", ").next().unwrap_or(line);
        line.trim().split(", ").map(move |name| (name, category.trim()))
    });
    names.collect()
});

/// WordNet 3.0's lemma of each form of a noun that is in [`CATEGORIES`], or part of a double word, where it is not the form
/// itself. Of several lemmas NLTK takes the shortest, so that `vases` is not `vase` but `vas`.
static LEMMAS: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| include_str!("lemmas.txt").lines().filter_map(|line| line.split_once(' ')).collect());

/// Two words that are one object, or one of them an object with the other a mere qualifier.
fn join_double_words(words: Vec<String>) -> Vec<String> {
    let mut joined = Vec::with_capacity(words.len());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let double = words.peek().map(|next| format!("{word} {next}"));
        match double.as_deref().and_then(double_word) {
            Some(object) => {
                words.next();
                joined.push(object.to_owned());
            }
            None => joined.push(word),
        }
    }
    joined
}

fn double_word(double: &str) -> Option<&str> {
    if DOUBLE_WORDS.contains(double) {
        return Some(double);
    }
    match double {
        "bow tie" => return Some("tie"),
        "toilet seat" => return Some("toilet"),
        "wine glas" => return Some("wine glass"),
        _ => {}
    }
    let (qualifier, object) = double.split_once(' ')?;
    let objects: &[&str] = match qualifier {
        "baby" | "adult" => &ANIMALS,
        "passenger" => &["jet", "train"],
        _ => &[],
    };
    objects.contains(&object).then_some(object)
}

const ANIMALS: [&str; 12] =
    ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub"];

static DOUBLE_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    HashSet::from([
        "motor bike",
        "motor cycle",
        "air plane",
        "traffic light",
        "street light",
        "traffic signal",
        "stop light",
        "fire hydrant",
        "stop sign",
        "parking meter",
        "suit case",
        "sports ball",
        "baseball bat",
        "baseball glove",
        "tennis racket",
        "wine glass",
        "hot dog",
        "cell phone",
        "mobile phone",
        "teddy bear",
        "hair drier",
        "potted plant",
        "laptop computer",
        "home plate",
        "train track",
    ])
});

/// The words of a text and the punctuation between them.
///
/// Spaces part tokens. So do these marks, each a token of its own: brackets, quotes other than `'`, `; @ # $ % & ? ! *` and the
/// longer dashes. A comma or colon is one unless a digit follows; `--`, `''` and runs of full stops are one; so is a full stop with
/// nothing but closing marks between it and the next space. A single quote is split off before a word, and with a clitic such as
/// `'s` after it.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut words = python::split(text).peekable();
    while let Some(word) = words.next() {
        let chars: Vec<char> = word.chars().collect();
        let mut start = 0;
        let mut at = 0;
        while at < chars.len() {
            let mark = mark_length(&chars, at);
            if mark > 0 {
                push_word(&mut tokens, chars.get(start..at).unwrap_or_default(), false);
                tokens.extend(chars.get(at..at + mark).map(String::from_iter));
                start = at + mark;
            }
            at += mark.max(1);
        }
        push_word(&mut tokens, chars.get(start..).unwrap_or_default(), words.peek().is_none());
    }
    tokens
}

/// How many characters from here on are punctuation of their own.
fn mark_length(chars: &[char], at: usize) -> usize {
    let rest = chars.get(at..).unwrap_or_default();
    let next = rest.get(1).copied();
    match rest.first() {
        Some(',' | ':') => usize::from(next.is_none_or(|char| python::decimal(char).is_none())),
        Some('-' | '\'') if next == rest.first().copied() => 2,
        Some('.') => {
            let run = rest.iter().take_while(|char| **char == '.').count();
            let closed = rest.iter().skip(1).all(|char| CLOSING.contains(*char));
            if run > 1 { run } else { usize::from(closed) }
        }
        Some(char) => usize::from(MARKS.contains(*char)),
        None => 0,
    }
}

const MARKS: &str = ";@#$%&?!*[](){}<>\"`\u{ab}\u{bb}\u{2018}\u{2019}\u{201c}\u{201d}\u{201e}\u{2012}\u{2013}\u{2014}\u{2015}";

/// What may stand between the full stop of a sentence and the next space.
const CLOSING: &str = ")]}>\"'?!*;:,\u{bb}\u{201d}\u{2019}";

/// Pushes a word without the single quotes around it, and these. NLTK tries each of its patterns once; that for a quote alone
/// needs a space after it, which the `last` word of the text has not.
fn push_word(tokens: &mut Vec<String>, word: &[char], last: bool) {
    let mut word: String = word.iter().collect();
    if let Some(rest) = word.strip_prefix('\'') {
        let quoted =
            rest.split(|char: char| !(char.is_alphanumeric() || char == '_')).next().unwrap_or_default();
        if !quoted.is_empty() && !UNQUOTED.contains(&quoted) {
            tokens.push("'".to_owned());
            word = rest.to_owned();
        }
    }
    let mut after = Vec::new();
    let spaced: &[&str] = if last { &[] } else { &["'"] };
    for clitics in [spaced, &["'s", "'m", "'d", "'"], &["'ll", "'re", "'ve", "n't"]] {
        let clitic = clitics.iter().find(|clitic| word.len() > clitic.len() && word.ends_with(**clitic));
        if let Some(clitic) = clitic {
            word.truncate(word.len() - clitic.len());
            after.push((*clitic).to_owned());
        }
    }
    if !word.is_empty() {
        tokens.push(word);
    }
    tokens.extend(after.into_iter().rev());
}

/// What is no quoted word after a single quote.
const UNQUOTED: [&str; 8] = ["re", "ve", "ll", "m", "t", "s", "d", "n"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nothing but space is lost, and no token is empty or holds space.
        #[test]
        fn tokens_are_the_text_without_its_space(text in "([a-z]{1,4}|[ \n.,:'\"()*-]|n't|'s|\u{2019}|\\PC){0,20}") {
            let tokens = tokens(&text);
            prop_assert_eq!(tokens.concat(), text.chars().filter(|char| !python::is_space(*char)).collect::<String>());
            prop_assert!(tokens.iter().all(|token| !token.is_empty()));
        }
    }

    #[test]
    fn every_category_of_mscoco_names_itself() {
        let names: HashSet<_> = CATEGORIES.values().collect();
        assert_eq!(names.len(), 80);
        assert!(names.iter().all(|name| category(name) == Some(name)));
    }
}
