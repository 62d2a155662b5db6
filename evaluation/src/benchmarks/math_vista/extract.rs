//! MathVista's rules: `evaluation/{build_query,extract_answer,calculate_score}.py` in lupantech/MathVista.

use serde::{Deserialize, Serialize};

use crate::python;
use crate::python::numbers::{float_text, integer_text, round, truncated_text};

/// What a right answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnswerType {
    /// One of the options; the only type of a multiple-choice question.
    Choice,
    Integer,
    Float,
    List,
}

/// What the rules need of a question.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    pub choices: &'a [String],
    pub answer_type: AnswerType,
    pub precision: Option<u32>,
}

/// The prompt without examples, captions and OCR (`create_one_query`, shot type `solution`).
#[must_use]
pub fn query(question: &str, unit: Option<&str>, problem: Problem<'_>) -> String {
    let mut query = format!("Question: {question}");
    if let Some(unit) = unit.filter(|unit| !unit.is_empty()) {
        query += &format!(" (Unit: {unit})");
    }
    if !problem.choices.is_empty() {
        query += "\nChoices:";
        for (letter, choice) in letters().zip(problem.choices) {
            query += &format!("\n({letter}) {choice}");
        }
    }
    let hint = match (problem.answer_type, problem.precision) {
        (AnswerType::Choice, _) => Some("and provide the correct option letter, e.g., A, B, C, D,"),
        (AnswerType::Integer, _) => {
            Some("requiring an integer answer and provide the final value, e.g., 1, 2, 3,")
        }
        (AnswerType::Float, Some(1)) => Some(
            "requiring a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4,",
        ),
        (AnswerType::Float, Some(2)) => Some(
            "requiring a floating-point number with two decimal places and provide the final value, e.g., 1.23, 1.34, 1.45,",
        ),
        (AnswerType::Float, _) => None,
        (AnswerType::List, _) => Some(
            "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4],",
        ),
    };
    if let Some(hint) = hint {
        query += &format!("\nHint: Please answer the question {hint} at the end.");
    }
    query + "\nSolution:"
}

/// What rules extract from a response; `None` where a judge has to. `quick` adds the rule for `The answer is "...".`.
#[must_use]
pub fn extract(response: &str, problem: Problem<'_>, quick: bool) -> Option<String> {
    if response.is_empty() {
        return Some(String::new());
    }
    let whole = match problem.answer_type {
        AnswerType::Choice => {
            problem.choices.iter().any(|choice| choice == response).then(|| response.to_owned())
        }
        AnswerType::Integer => integer_text(response),
        AnswerType::Float => python::float(response).map(float_text),
        AnswerType::List => None,
    };
    whole.or_else(|| quick.then(|| quoted(response)).flatten())
}

/// `The answer is "(.*)"\.`, whose dot stops at the end of a line.
fn quoted(response: &str) -> Option<String> {
    response.split('\n').find_map(|line| {
        let (_, rest) = line.split_once("The answer is \"")?;
        rest.rsplit_once("\".").map(|(text, _)| text.to_owned())
    })
}

/// The extraction as the right answer would be written; `None` if it cannot be. `ignore_empty` is
/// `--ignore_empty_extractions`; without it, nothing extracted is as similar to an option as any other text.
#[must_use]
pub fn normalize(extraction: &str, problem: Problem<'_>, ignore_empty: bool) -> Option<String> {
    match problem.answer_type {
        AnswerType::Choice => {
            let extraction = python::strip(extraction);
            if ignore_empty && extraction.is_empty() {
                return None;
            }
            choose(extraction, problem.choices).map(str::to_owned)
        }
        AnswerType::Integer => python::float(extraction).and_then(truncated_text),
        AnswerType::Float => Some(float_text(round(python::float(extraction)?, problem.precision?))),
        AnswerType::List => Some(extraction.to_owned()),
    }
}

/// The option named by the first letter in parentheses, or by the whole text, or else the most similar one.
fn choose<'a>(extraction: &str, choices: &'a [String]) -> Option<&'a str> {
    let letter = parenthesized(extraction).map(|letter| letter.to_ascii_uppercase());
    let named = letter.map_or_else(|| extraction.to_owned(), |letter| letter.to_string());
    let place = letters().take(choices.len()).position(|letter| named.chars().eq([letter]));
    match place.and_then(|place| choices.get(place)) {
        Some(choice) => Some(choice),
        None => most_similar(&named, choices),
    }
}

/// The first match of `\(([a-zA-Z])\)`.
fn parenthesized(text: &str) -> Option<char> {
    text.match_indices('(').find_map(|(open, _)| {
        let mut chars = text.get(open + 1..)?.chars();
        let letter = chars.next().filter(char::is_ascii_alphabetic)?;
        (chars.next() == Some(')')).then_some(letter)
    })
}

/// `A`, `B` and so on, and what follows `Z` in ASCII, as `chr(ord('A') + i)` does.
fn letters() -> impl Iterator<Item = char> {
    'A'..
}

/// The option with the smallest Levenshtein distance, the first of several; `None` without options.
#[must_use]
pub fn most_similar<'a>(prediction: &str, choices: &'a [String]) -> Option<&'a str> {
    choices.iter().min_by_key(|choice| levenshtein(prediction, choice)).map(String::as_str)
}

/// In characters.
fn levenshtein(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (deleted, from) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], deleted + 1);
        for (place, to) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[place + 1];
            row[place + 1] = substituted.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[to.len()]
}
