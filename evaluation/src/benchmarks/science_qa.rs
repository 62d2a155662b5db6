//! ScienceQA: school questions with two to five choices, half of them with an image.

mod images;

use std::collections::HashMap;
use std::fs;

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::choice::{self, Choice};
use super::{Answered, Benchmark, Options, Sample, columns};
use crate::error::{Error, Result};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, KEY_FIELD, Record};
use crate::python;
use crate::scorer::{Mark, Scorer};

/// The letters of the choices.
const LETTERS: [char; 5] = ['A', 'B', 'C', 'D', 'E'];

const SPLITS: &str = "pid_splits.json";
const IMG_ROWS: &str = "ScienceQA-IMG/test-*.parquet";

/// ScienceQA, test split.
#[derive(Debug)]
pub struct ScienceQa {
    /// The original form: the position of each id in the test split, from 1.
    positions: HashMap<String, u64>,
    /// Whether rows are the questions with an image only, without an id.
    images_only: bool,
}

/// A question of ScienceQA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub question: String,
    /// Empty where there is none.
    pub hint: String,
    /// At most five.
    pub choices: Vec<String>,
    /// Which choice is right, from 0.
    pub answer: usize,
    pub has_image: bool,
}

impl Benchmark for ScienceQa {
    const NAME: BenchmarkName = BenchmarkName::ScienceQa;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Original,
            title: "ScienceQA's problems.json",
            rows: &["problems.json"],
            format: Format::JsonByKey,
            companions: &[SPLITS],
            columns: &["question", "choices", "answer", "hint", "image"],
            image: ImageSource::Folder(&["images/test", "test"]),
            known: &[],
        },
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/ScienceQA, ScienceQA-FULL)",
            rows: &["ScienceQA-FULL/test-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["question", "choices", "answer", "hint"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/ScienceQA, ScienceQA-IMG: questions with an image)",
            rows: &[IMG_ROWS],
            format: Format::Parquet,
            companions: &[],
            columns: &["question", "choices", "answer", "hint"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's ScienceQA_TEST.tsv (questions with an image)",
            rows: &["ScienceQA_TEST.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "hint", "A", "B", "answer"],
            image: ImageSource::Column("image"),
            known: &[("ScienceQA_TEST.tsv", "e42e9e00f9c59a80d8a5db35bc32b71f")],
        },
    ];
    type Item = Item;

    fn open(found: &FoundForm, _options: Options) -> Result<Self> {
        let positions = match found.companion(SPLITS) {
            Some(path) => {
                let error = |message: String| Error::File { file: path.into(), message };
                let text = fs::read_to_string(path).map_err(|source| {
                    error(format!("cannot read the file ({source}); check that it is there and readable"))
                })?;
                let splits: Splits = serde_json::from_str(&text).map_err(|source| {
                    error(format!(
                        "this is no object with the ids of the split `test` ({source}); download it again"
                    ))
                })?;
                splits.test.into_iter().zip(1..).collect()
            }
            None => HashMap::new(),
        };
        Ok(Self { positions, images_only: found.form.rows.contains(&IMG_ROWS) })
    }

    /// The id is the position in the whole test split, from 1: VLMEvalKit's index. The parquet files have the order of
    /// `pid_splits.json`.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let position = match form {
            FormKind::Original => {
                let Some(position) = self.positions.get(&columns::text(record, KEY_FIELD)?) else {
                    return Ok(None);
                };
                position.to_string()
            }
            FormKind::Parquet if self.images_only => images::position_of_image(record.row)
                .ok_or_else(|| {
                    columns::error(record, "image", "is of more questions than ScienceQA-IMG has")
                })?
                .to_string(),
            FormKind::Parquet => record.row.to_string(),
            FormKind::Tsv => columns::text(record, "index")?,
        };
        let choices = match form {
            FormKind::Original | FormKind::Parquet => columns::texts(record, "choices")?,
            FormKind::Tsv => choices_in_columns(record)?,
        };
        if choices.len() > LETTERS.len() {
            return Err(columns::error(record, "choices", "holds more than five choices"));
        }
        let item = Item {
            question: columns::text(record, "question")?,
            hint: columns::optional_text(record, "hint")?.unwrap_or_default(),
            answer: right_choice(form, record, choices.len())?,
            choices,
            has_image: record.image.is_some(),
        };
        Ok(Some(Sample { id: position, item }))
    }

    fn image_path(record: &Record) -> Option<String> {
        let name = columns::optional_text(record, "image").ok()??;
        Some(format!("{}/{name}", columns::text(record, KEY_FIELD).ok()?))
    }

    /// The question as `create_one_example_chatbot` in LLaVA's `scripts/convert_sqa_to_llava_base_prompt.py` writes it in its
    /// format `CQM`, and the suffix of `llava/eval/model_vqa_science.py`. Two spaces become one in one pass.
    fn prompt(&self, item: &Item) -> String {
        prompt(item)
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let with_image = answers.iter().filter(|answer| answer.item.has_image);
        let unit = |answer: &Answered<'_, Item>| {
            let mark = answer.answer.map_or(Mark::correct(false), |text| mark(scorer, text, answer.item));
            Unit::of(answer, vec![mark.value, 1.0], mark.unresolved)
        };
        // LLaVA's program knows questions with an image by the prompts beside the answers.
        let image_unit = |answer: &Answered<'_, Item>| match (scorer, answer.answer) {
            (Scorer::Llava, None) => Unit::without_score(answer),
            _ => unit(answer),
        };
        let metric =
            |name: &str, units| Metric { name: name.to_owned(), aggregate: Aggregate::Percentage, units };
        vec![
            metric("imageAccuracy", with_image.map(image_unit).collect()),
            metric("accuracy", answers.iter().map(unit).collect()),
        ]
    }
}

/// `pid_splits.json`, of which only the test split is read.
#[derive(Deserialize)]
struct Splits {
    test: Vec<String>,
}

fn choices_in_columns(record: &Record) -> Result<Vec<String>> {
    let mut choices = Vec::new();
    for letter in LETTERS {
        choices.extend(columns::optional_text(record, &letter.to_string())?);
    }
    Ok(choices)
}

fn right_choice(form: FormKind, record: &Record, choices: usize) -> Result<usize> {
    let answer = columns::text(record, "answer")?;
    let index = match form {
        FormKind::Original | FormKind::Parquet => answer.parse().ok(),
        FormKind::Tsv => LETTERS.iter().position(|letter| answer.chars().eq([*letter])),
    };
    index
        .filter(|index| *index < choices)
        .ok_or_else(|| columns::error(record, "answer", "names none of the choices"))
}

fn prompt(item: &Item) -> String {
    let context = match python::strip(&item.hint) {
        "" => "N/A",
        hint => hint,
    };
    let choices: Vec<_> =
        LETTERS.iter().zip(&item.choices).map(|(letter, choice)| format!("({letter}) {choice}")).collect();
    let question =
        format!("Context: {context}\nQuestion: {}\nOptions: {}\n", item.question, choices.join(" "));
    let question = question.replace("  ", " ");
    format!("{}\nAnswer with the option's letter from the given choices directly.", python::strip(&question))
}

/// What `answer` is worth.
#[must_use]
pub fn mark(scorer: Scorer, answer: &str, item: &Item) -> Mark {
    let letter = match scorer {
        Scorer::Llava => letter_llava(answer),
        Scorer::LmmsEval => letter_lmms_eval(answer),
        Scorer::VlmEvalKit => choice::infer(python::from_table(answer), &choices_in_table(item)),
    };
    letter.map_or(Mark::UNRESOLVED, |letter| {
        Mark::correct(choice_of(letter, item.choices.len()) == Some(item.answer))
    })
}

/// The choice with this letter.
#[must_use]
pub fn choice_of(letter: char, choices: usize) -> Option<usize> {
    LETTERS.iter().take(choices).position(|other| *other == letter)
}

/// The letter that was answered, by LLaVA's rules (`llava/eval/eval_science_qa.py`): the whole answer, or followed by a full
/// stop and a space, or in the only `The answer is X.` in the answer. The last character of that is any but a line feed.
#[must_use]
pub fn letter_llava(answer: &str) -> Option<char> {
    let mut characters = answer.chars();
    let first = characters.next().filter(|first| LETTERS.contains(first));
    let rest = characters.as_str();
    if first.is_some() && (rest.is_empty() || rest.starts_with(". ")) {
        return first;
    }
    let mut stated = stated_letters(answer);
    match (stated.next(), stated.next()) {
        (Some(letter), None) => Some(letter),
        _ => None,
    }
}

/// The letters in the matches of `The answer is ([A-Z]).`, which do not overlap.
fn stated_letters(answer: &str) -> impl Iterator<Item = char> {
    const STATEMENT: &str = "The answer is ";
    let mut rest = answer;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(STATEMENT)? + STATEMENT.len();
            rest = rest.get(start..)?;
            let mut characters = rest.chars();
            if let (Some(letter @ 'A'..='Z'), Some(last)) = (characters.next(), characters.next())
                && last != '\n'
            {
                rest = characters.as_str();
                return Some(letter);
            }
        }
    })
}

/// The letter that was answered, by lmms-eval's rules (`sqa_process_results` in `lmms_eval/tasks/scienceqa/utils.py`): the
/// whole answer, in either case, or a capital followed by a full stop.
#[must_use]
pub fn letter_lmms_eval(answer: &str) -> Option<char> {
    let mut characters = python::strip(answer).chars();
    let first = characters.next()?;
    match characters.next() {
        None if first.is_ascii_alphabetic() => Some(first.to_ascii_uppercase()),
        Some('.') if first.is_uppercase() => Some(first),
        _ => None,
    }
}

/// The choices as VLMEvalKit reads them from its table: without those that pandas takes for empty cells.
fn choices_in_table(item: &Item) -> Vec<Choice<'_>> {
    let choices = LETTERS.into_iter().zip(&item.choices).filter(|(_, text)| !python::is_missing(text));
    choices.map(|(letter, text)| Choice { letter, text: Some(text) }).collect()
}
