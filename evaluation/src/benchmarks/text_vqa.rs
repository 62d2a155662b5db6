//! TextVQA: questions about text in images, with ten answers by people each.

mod normalize;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

pub(crate) use self::normalize::without_punctuation_vlmevalkit;
pub use self::normalize::{normalize, normalize_vlmevalkit};

use super::{Answered, Benchmark, Options, Sample, columns};
use crate::error::{Error, Result};
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::python;
use crate::scorer::Scorer;

const ANNOTATIONS: &str = "TextVQA_0.5.1_val.json";
const TOKENS: &str = "TextVQA_Rosetta_OCR_v0.2_val.json";
const TOKENS_LINE: &str = "Reference OCR token: ";

/// TextVQA, validation split.
#[derive(Debug)]
pub struct TextVqa {
    with_tokens: bool,
    source: Source,
}

/// What the rows of the original form need besides themselves.
#[derive(Debug)]
enum Source {
    /// Rows are complete.
    Rows,
    /// Rows have the question and its image, and lack the OCR tokens of the image, which are here.
    Tokens(HashMap<String, Vec<String>>),
    /// Rows are LLaVA's prompts: annotations by image and [`question_key`].
    Annotations(HashMap<(String, String), Annotation>),
}

/// A question of TextVQA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// As it is asked: the first letter is a capital.
    pub question: String,
    /// Ten, as they were given.
    pub answers: Vec<String>,
    /// What an OCR program read in the image. Empty if prompts do not list it.
    pub ocr_tokens: Vec<String>,
}

impl Benchmark for TextVqa {
    const NAME: BenchmarkName = BenchmarkName::TextVqa;
    const MAX_NEW_TOKENS: u32 = 128;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (lmms-lab-encoder/textvqa)",
            rows: &["validation-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["question_id", "question", "answers", "ocr_tokens"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Original,
            title: "LLaVA's llava_textvqa_val_v051_ocr.jsonl with TextVQA_0.5.1_val.json",
            rows: &["llava_textvqa_val_v051_ocr.jsonl"],
            format: Format::JsonLines,
            companions: &[ANNOTATIONS],
            columns: &["question_id", "image", "text"],
            image: ImageSource::Folder(&["train_images"]),
            known: &[],
        },
        Form {
            kind: FormKind::Original,
            title: "TextVQA_0.5.1_val.json with the OCR tokens of TextVQA_Rosetta_OCR_v0.2_val.json",
            rows: &[ANNOTATIONS],
            format: Format::JsonArray,
            companions: &[TOKENS],
            columns: &["question_id", "question", "answers", "image_id"],
            image: ImageSource::Folder(&["train_images"]),
            known: &[],
        },
        Form {
            kind: FormKind::Original,
            title: "TextVQA_0.5.1_val.json",
            rows: &[ANNOTATIONS],
            format: Format::JsonArray,
            companions: &[],
            columns: &["question_id", "question", "answers", "image_id"],
            image: ImageSource::Folder(&["train_images"]),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's TextVQA_VAL.tsv",
            rows: &["TextVQA_VAL.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer"],
            image: ImageSource::Column("image"),
            known: &[("TextVQA_VAL.tsv", "b233b31f551bbf4056f2f955da3a92cd")],
        },
    ];
    type Item = Item;

    fn open(found: &FoundForm, options: Options) -> Result<Self> {
        let source = match (found.companion(ANNOTATIONS), found.companion(TOKENS)) {
            (Some(path), _) => Source::Annotations(annotations(path)?),
            (None, Some(path)) if options.ocr_tokens => Source::Tokens(tokens(path)?),
            (None, _) => Source::Rows,
        };
        let has_tokens = match source {
            Source::Rows => found.form.columns.contains(&"ocr_tokens"),
            Source::Tokens(_) | Source::Annotations(_) => true,
        };
        if options.ocr_tokens && !has_tokens {
            return Err(Error::Folder {
                folder: found.folder.clone(),
                message: format!(
                    "{} has no OCR tokens; add {TOKENS}, mount another form, or ask without OCR tokens",
                    found.form.title
                ),
            });
        }
        Ok(Self { with_tokens: options.ocr_tokens, source })
    }

    /// The id is `question_id`, which VLMEvalKit calls `index`.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let (id, mut item) = match (form, &self.source) {
            (FormKind::Tsv, _) => (columns::text(record, "index")?, from_table(record)?),
            (_, Source::Annotations(annotations)) => from_prompt(annotations, record)?,
            _ => (columns::text(record, "question_id")?, from_row(record)?),
        };
        if item.answers.is_empty() {
            return Err(columns::error(record, "answers", "holds no answer"));
        }
        if let Source::Tokens(tokens) = &self.source {
            let image = columns::text(record, "image_id")?;
            item.ocr_tokens = tokens.get(&image).cloned().ok_or_else(|| {
                columns::error(
                    record,
                    "image_id",
                    &format!("names an image of which {TOKENS} has no OCR tokens"),
                )
            })?;
        }
        if !self.with_tokens {
            item.ocr_tokens.clear();
        }
        Ok(Some(Sample { id, item }))
    }

    fn image_path(record: &Record) -> Option<String> {
        match columns::optional_text(record, "image").ok()? {
            Some(name) => Some(name),
            None => Some(format!("{}.jpg", columns::text(record, "image_id").ok()?)),
        }
    }

    /// The lines of `llava_textvqa_val_v051_ocr.jsonl`, which lmms-eval makes too (`textvqa_doc_to_text` in
    /// `lmms_eval/tasks/textvqa/utils.py`). Where there are no tokens, the line with them is still there.
    fn prompt(&self, item: &Item) -> String {
        let tokens = match self.with_tokens {
            true => format!("\n{TOKENS_LINE}{}", item.ocr_tokens.join(", ")),
            false => String::new(),
        };
        format!("{}{tokens}\nAnswer the question using a single word or phrase.", item.question)
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let unit = |answer: &Answered<'_, Item>| {
            let value = answer.answer.map_or(0.0, |text| accuracy(scorer, text, &answer.item.answers));
            Unit::of(answer, vec![value, 1.0], false)
        };
        let units = answers.iter().map(unit).collect();
        vec![Metric { name: "accuracy".to_owned(), aggregate: Aggregate::Percentage, units }]
    }
}

fn from_row(record: &Record) -> Result<Item> {
    Ok(Item {
        question: capitalized(&columns::text(record, "question")?),
        answers: columns::texts(record, "answers")?,
        ocr_tokens: columns::texts(record, "ocr_tokens")?,
    })
}

fn from_table(record: &Record) -> Result<Item> {
    let answers = python::list(&columns::text(record, "answer")?)
        .ok_or_else(|| columns::error(record, "answer", "holds no list as Python writes it"))?;
    Ok(Item { question: capitalized(&columns::text(record, "question")?), answers, ocr_tokens: Vec::new() })
}

/// The id and the item of a prompt that LLaVA made. Its `question_id` is that of the image.
fn from_prompt(
    annotations: &HashMap<(String, String), Annotation>,
    record: &Record,
) -> Result<(String, Item)> {
    let text = columns::text(record, "text")?;
    let key =
        question_key(&text).ok_or_else(|| columns::error(record, "text", "is no prompt with a question"))?;
    let annotation = annotations.get(&(columns::text(record, "question_id")?, key)).ok_or_else(|| {
        columns::error(
            record,
            "text",
            &format!("asks a question about the image that {ANNOTATIONS} does not have"),
        )
    })?;
    let line = |start: &str| text.split('\n').find_map(|line| line.strip_prefix(start));
    let tokens = line(TOKENS_LINE).filter(|tokens| !tokens.is_empty());
    let question = text.split('\n').find(|line| !line.starts_with(TOKENS_LINE)).unwrap_or_default();
    let item = Item {
        question: question.to_owned(),
        answers: annotation.answers.clone(),
        ocr_tokens: tokens.map(|tokens| tokens.split(", ").map(str::to_owned).collect()).unwrap_or_default(),
    };
    Ok((annotation.question_id.to_string(), item))
}

/// The question of a prompt in lower case, by which LLaVA finds its annotation (`prompt_processor` in
/// `llava/eval/eval_textvqa.py`); `None` where that program stops.
#[must_use]
pub fn question_key(prompt: &str) -> Option<String> {
    let lines: Vec<_> = prompt.split('\n').collect();
    let question = if prompt.starts_with("OCR tokens: ") {
        let (_, rest) = prompt.split_once("Question: ")?;
        rest.split_once(" Short answer:")?.0
    } else {
        match (prompt.contains(TOKENS_LINE), lines.as_slice()) {
            (true, [first, second, _]) if first.starts_with(TOKENS_LINE.trim_end()) => second,
            (true, [first, _, _]) | (_, [first, _]) => first,
            _ => return None,
        }
    };
    Some(question.to_lowercase())
}

/// `str.capitalize`, but for a digraph or an iota subscript in front, which it would give a form between the cases.
fn capitalized(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // In context: the case of a sigma depends on what is before it.
    let lower = text.to_lowercase();
    let rest = lower.get(first.to_lowercase().map(char::len_utf8).sum()..).unwrap_or_default();
    let mut upper = first.to_uppercase();
    let initial = upper.next().unwrap_or(first);
    format!("{initial}{}{rest}", upper.to_string().to_lowercase())
}

/// A question in [`ANNOTATIONS`].
#[derive(Debug, Deserialize)]
struct Annotation {
    image_id: String,
    question: String,
    question_id: u64,
    answers: Vec<String>,
}

/// The tokens of an image in [`TOKENS`].
#[derive(Deserialize)]
struct ImageTokens {
    image_id: String,
    ocr_tokens: Vec<String>,
}

fn annotations(path: &Path) -> Result<HashMap<(String, String), Annotation>> {
    let annotations: Vec<Annotation> = data(path)?;
    let key = |annotation: &Annotation| (annotation.image_id.clone(), annotation.question.to_lowercase());
    Ok(annotations.into_iter().map(|annotation| (key(&annotation), annotation)).collect())
}

fn tokens(path: &Path) -> Result<HashMap<String, Vec<String>>> {
    let images: Vec<ImageTokens> = data(path)?;
    Ok(images.into_iter().map(|image| (image.image_id, image.ocr_tokens)).collect())
}

/// What TextVQA's files have in their field `data`.
fn data<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    #[derive(Deserialize)]
    struct File<T> {
        data: Vec<T>,
    }
    let error = |message: String| Error::File { file: path.into(), message };
    let text = fs::read_to_string(path).map_err(|source| {
        error(format!("cannot read the file ({source}); check that it is there and readable"))
    })?;
    let file: File<T> = serde_json::from_str(&text)
        .map_err(|source| error(format!("this is none of TextVQA's files ({source}); download it again")))?;
    Ok(file.data)
}

/// How far `answer` agrees with the people's answers: the mean, over leaving out one of them, of a third of the number of
/// equal ones among the others, at most 1. With ten answers and k equal ones that is `min(1, 0.3 k)`.
///
/// Rounding is that of LLaVA's sum; lmms-eval and VLMEvalKit differ in the last bit.
#[must_use]
pub fn accuracy(scorer: Scorer, answer: &str, references: &[String]) -> f64 {
    let (answer, normalize): (_, fn(&str) -> String) = match scorer {
        Scorer::Llava | Scorer::LmmsEval => (answer, normalize),
        Scorer::VlmEvalKit => (python::from_table(answer), normalize_vlmevalkit),
    };
    let answer = normalize(answer);
    let equal: Vec<bool> = references.iter().map(|reference| normalize(reference) == answer).collect();
    let matches = equal.iter().filter(|equal| **equal).count();
    let scores = equal.iter().map(|equal| ((matches - usize::from(*equal)) as f64 / 3.0).min(1.0));
    scores.sum::<f64>() / equal.len() as f64
}
