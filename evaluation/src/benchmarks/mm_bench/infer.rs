//! Which option an answer chose, by the rules of MMBench's first program and by those that lmms-eval adds.

use std::collections::BTreeMap;

use crate::python;

/// The letters that the rules for letters know, whatever the options.
const LETTERS: [char; 5] = ['A', 'B', 'C', 'D', 'E'];

/// What may stand around a letter, in the order in which it is looked for.
const AROUND: [(&str, &str); 12] = [
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
];

/// The letter that was chosen by the rules of 2023 (`can_infer` in `lmms_eval/tasks/mmbench/mmbench_evals.py`), or `None`.
///
/// Exactly one of A to E is a word, though not if `A` is one of more than three words. Else exactly one is a word with one
/// of the pairs of marks around it. Else the answer contains the text of exactly one option.
#[must_use]
pub fn infer_2023(answer: &str, options: &BTreeMap<char, String>) -> Option<char> {
    by_letter(answer).or_else(|| by_text(answer, options))
}

fn by_letter(answer: &str) -> Option<char> {
    if answer.contains("Failed to obtain answer via API") {
        return None;
    }
    let words: Vec<_> = python::split(answer).collect();
    let only = |(before, after): (&str, &str)| {
        let mut named =
            LETTERS.into_iter().filter(|letter| words.contains(&format!("{before}{letter}{after}").as_str()));
        named.next().filter(|_| named.next().is_none())
    };
    // "A cat" is about a cat.
    let is_article = words.contains(&"A") && words.len() > 3;
    let bare = only(("", "")).filter(|_| !is_article);
    bare.or_else(|| AROUND.into_iter().find_map(only))
}

fn by_text(answer: &str, options: &BTreeMap<char, String>) -> Option<char> {
    let answer = answer.to_lowercase();
    let mut contained = options.iter().filter(|(_, text)| answer.contains(&text.to_lowercase()));
    match (contained.next(), contained.next()) {
        (Some((letter, _)), None) => Some(*letter),
        _ => None,
    }
}

/// How a letter was found. A later one prevails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Anywhere,
    BeforeSpace,
    BeforeParenthesis,
    BeforeColon,
    BeforeFullStop,
    InParentheses,
    AfterPhrase,
    AtEnd,
    AtStart,
}

/// In lower case.
const PHRASES: [&str; 27] = [
    "the answer is",
    "answer is",
    "the correct answer is",
    "correct answer is",
    "the best answer is",
    "best answer is",
    "the correct option is",
    "correct option is",
    "the best option is",
    "best option is",
    "the choice is",
    "choice is",
    "the correct choice is",
    "correct choice is",
    "i choose",
    "i select",
    "i pick",
    "my answer is",
    "my choice is",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
];

/// The letter that was chosen by lmms-eval's further rules (`extract_mcq_answer` in
/// `lmms_eval/tasks/_task_utils/mcq_extract.py`), or `None`.
///
/// Every occurrence of a letter is a candidate. The best `Place` wins, then the last position, then the order in which the
/// candidates are made here.
#[must_use]
pub fn extract_lmms_eval(answer: &str, letters: &[char]) -> Option<char> {
    let mut text = python::strip(answer);
    if text.is_empty() {
        return None;
    }
    for mark in [',', '.', '!', '?', ';', ':', '\'', '"'] {
        text = text.trim_matches(mark);
    }
    let stripped: Vec<char> = python::strip(text).chars().collect();
    let text: Vec<char> = format!(" {text} ").chars().collect();
    let mut candidates: Vec<(Place, usize, char)> = Vec::new();
    let around = [
        (Place::InParentheses, "(", ")"),
        (Place::BeforeFullStop, "", "."),
        (Place::BeforeColon, "", ":"),
        (Place::BeforeParenthesis, "", ")"),
        (Place::BeforeSpace, "", " "),
    ];
    for (place, before, after) in around {
        let last = |letter: &char| Some((place, last(&text, &format!("{before}{letter}{after}"))?, *letter));
        candidates.extend(letters.iter().filter_map(last));
    }
    candidates.extend(after_phrases(&text, letters));
    let is_letter = |character: Option<&char>| character.copied().is_some_and(python::is_alpha);
    let starts = |letter: &&char| stripped.first() == Some(*letter) && !is_letter(stripped.get(1));
    let ends = |letter: &&char| stripped.last() == Some(*letter) && !is_letter(stripped.iter().rev().nth(1));
    candidates.extend(letters.iter().filter(starts).map(|letter| (Place::AtStart, 0, *letter)));
    candidates.extend(letters.iter().filter(ends).map(|letter| (Place::AtEnd, 0, *letter)));
    if candidates.is_empty() {
        let last = |letter: &char| Some((Place::Anywhere, last(&text, &letter.to_string())?, *letter));
        candidates.extend(letters.iter().filter_map(last));
    }
    // `max_by_key` would take the last of equal ones.
    let best = candidates.iter().map(|(place, position, _)| (*place, *position)).max()?;
    candidates.iter().find(|(place, position, _)| (*place, *position) == best).map(|(_, _, letter)| *letter)
}

/// For each phrase, the first of each letter after it. Positions count characters: those of the text in lower case are used in
/// the text itself, also where lower case is longer.
fn after_phrases(text: &[char], letters: &[char]) -> Vec<(Place, usize, char)> {
    let lower: Vec<char> = text.iter().collect::<String>().to_lowercase().chars().collect();
    let mut found = Vec::new();
    for phrase in PHRASES {
        let phrase: Vec<char> = phrase.chars().collect();
        let Some(start) = lower.windows(phrase.len()).position(|window| *window == phrase) else { continue };
        let after = start + phrase.len();
        let first = |letter: &char| {
            let offset = text.get(after..)?.iter().position(|character| character == letter)?;
            Some((Place::AfterPhrase, after + offset, *letter))
        };
        found.extend(letters.iter().filter_map(first));
    }
    found
}

/// Where `needle` begins last.
fn last(text: &[char], needle: &str) -> Option<usize> {
    let needle: Vec<char> = needle.chars().collect();
    text.windows(needle.len()).rposition(|window| *window == needle)
}
