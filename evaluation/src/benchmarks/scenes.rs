//! The quickstart's scenes: questions with one right answer, and descriptions that are compared with the objects in the
//! scene.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::{Answered, Benchmark, Options, Sample, columns};
use crate::error::{Error, Result};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::scorer::Scorer;

/// `questions.jsonl`, and beside it `scenes.jsonl` if descriptions are scored.
#[derive(Debug)]
pub struct Scenes {
    /// The phrases of each scene, by its image.
    phrases: BTreeMap<String, Vec<String>>,
}

/// A question, and the objects in the scene that it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    question: String,
    /// An answer is right if it equals this, ignoring case and a full stop.
    answer: String,
    /// Each as often as it occurs, such as `red circle`; `None` if descriptions are not scored.
    phrases: Option<Vec<String>>,
}

/// A line of `scenes.jsonl`.
#[derive(Deserialize)]
struct Scene {
    /// Relative to the folder.
    image: String,
    phrases: Vec<String>,
}

impl Benchmark for Scenes {
    const NAME: BenchmarkName = BenchmarkName::Scenes;
    const MAX_NEW_TOKENS: u32 = 16;
    const FORMS: &'static [Form] = &[Form {
        kind: FormKind::Original,
        title: "questions about scenes",
        rows: &["questions.jsonl"],
        format: Format::JsonLines,
        companions: &[],
        columns: &["id", "image", "question", "answer"],
        image: ImageSource::Folder(&["."]),
        known: &[],
    }];
    type Item = Item;

    fn open(found: &FoundForm, _: Options) -> Result<Self> {
        let file = found.folder.join("scenes.jsonl");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::File { file, message: error.to_string() }),
        };
        let mut phrases = BTreeMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let scene: Scene = serde_json::from_str(line).map_err(|error| Error::Row {
                place: format!("{}:{}", file.display(), index + 1),
                message: format!("{error}; a scene has an image and a list of phrases"),
            })?;
            phrases.insert(scene.image, scene.phrases);
        }
        Ok(Self { phrases })
    }

    fn sample(&self, _: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let [id, image, question, answer] =
            ["id", "image", "question", "answer"].map(|column| columns::text(record, column));
        let item = Item { question: question?, answer: answer?, phrases: self.phrases.get(&image?).cloned() };
        for (column, text) in [("question", &item.question), ("answer", &item.answer)] {
            if text.trim().is_empty() {
                return Err(columns::error(record, column, "is blank"));
            }
        }
        Ok(Some(Sample { id: id?, item }))
    }

    fn image_path(record: &Record) -> Option<String> {
        columns::text(record, "image").ok()
    }

    fn prompt(&self, item: &Item) -> String {
        item.question.clone()
    }

    fn metrics(_: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let units = answers.iter().map(|answered| {
            let correct = answered.answer.is_some_and(|answer| is_right(answer, &answered.item.answer));
            Unit {
                id: answered.id.to_owned(),
                cluster: answered.cluster.to_owned(),
                sums: Some(vec![f64::from(u8::from(correct)), 1.0]),
                unresolved: false,
            }
        });
        let accuracy =
            Metric { name: "accuracy".into(), aggregate: Aggregate::Percentage, units: units.collect() };
        [Some(accuracy), descriptions(answers)].into_iter().flatten().collect()
    }
}

/// The mean F1 of descriptions; `None` where there are none, or no scenes to compare them with.
fn descriptions(answers: &[Answered<'_, Item>]) -> Option<Metric> {
    let phrases = |answered: &Answered<'_, Item>| answered.item.phrases.clone().unwrap_or_default();
    let vocabulary: BTreeSet<String> = answers.iter().flat_map(phrases).collect();
    let mut units = BTreeMap::new();
    for answered in answers {
        if let (Some(description), Some(phrases)) = (answered.description, &answered.item.phrases) {
            units.entry(answered.cluster.to_owned()).or_insert_with(|| Unit {
                id: answered.cluster.to_owned(),
                cluster: answered.cluster.to_owned(),
                sums: Some(vec![f1(&count(description, &vocabulary), phrases), 1.0]),
                unresolved: false,
            });
        }
    }
    (!units.is_empty()).then(|| Metric {
        name: "descriptionF1".into(),
        aggregate: Aggregate::Percentage,
        units: units.into_values().collect(),
    })
}

fn is_right(answer: &str, expected: &str) -> bool {
    let fold = |text: &str| text.trim().trim_end_matches('.').to_lowercase();
    fold(answer) == fold(expected)
}

/// How often each of `phrases` occurs in `text` as whole words, ignoring case.
#[must_use]
fn count(text: &str, phrases: &BTreeSet<String>) -> BTreeMap<String, usize> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let mut found = BTreeMap::new();
    for phrase in phrases {
        let parts: Vec<&str> = phrase.split_whitespace().collect();
        let times = words
            .windows(parts.len().max(1))
            .filter(|window| window.iter().zip(&parts).all(|(w, p)| w == p))
            .count();
        if times > 0 && !parts.is_empty() {
            found.insert(phrase.clone(), times);
        }
    }
    found
}

/// The harmonic mean of precision and recall of `found` against `expected`; 1 if both are empty.
#[must_use]
fn f1(found: &BTreeMap<String, usize>, expected: &[String]) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for phrase in expected {
        *left.entry(phrase).or_default() += 1;
    }
    let named: usize = found.values().sum();
    if named + expected.len() == 0 {
        return 1.0;
    }
    let right: usize = found
        .iter()
        .map(|(phrase, times)| (*times).min(left.get(phrase.as_str()).copied().unwrap_or(0)))
        .sum();
    2.0 * right as f64 / (named + expected.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_counted_as_multisets_of_whole_words() {
        let phrases: BTreeSet<String> = ["red circle", "blue square"].map(str::to_owned).into();
        let found = count("A Red circle, a red circle and a blue squares.", &phrases);
        assert_eq!(found, BTreeMap::from([("red circle".to_owned(), 2)]));
        let expected = ["red circle", "blue square"].map(str::to_owned);
        // 1 of 2 named is right, 1 of 2 expected is found.
        assert!((f1(&found, &expected) - 0.5).abs() < 1e-12);
        assert_eq!(f1(&BTreeMap::new(), &expected), 0.0);
        assert_eq!(f1(&BTreeMap::new(), &[]), 1.0);
    }
}
