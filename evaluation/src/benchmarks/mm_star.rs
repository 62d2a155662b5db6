//! MMStar: multiple-choice questions that need the image.

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::choice::{self, Choice};
use super::columns;
use super::mm_bench::extract_lmms_eval;
use super::{Answered, Benchmark, Options, Sample};
use crate::error::Result;
use crate::metric::{Aggregate, Metric, Unit, in_group};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::python;
use crate::scorer::{Mark, Scorer};

/// MMStar.
#[derive(Debug)]
pub struct MmStar;

/// A question of MMStar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// With the options.
    pub question: String,
    /// A to D, as far as their texts can be told apart.
    pub options: Option<Vec<String>>,
    /// From A to D.
    pub answer: char,
    /// `coarse perception`, or another of six.
    pub category: String,
    /// One of three in each category.
    pub subcategory: String,
}

impl Benchmark for MmStar {
    const NAME: BenchmarkName = BenchmarkName::MmStar;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (Lin-Chen/MMStar)",
            rows: &["mmstar.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["index", "question", "answer", "category", "l2_category"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Tsv,
            title: "VLMEvalKit's MMStar.tsv",
            rows: &["MMStar.tsv"],
            format: Format::Tsv,
            companions: &[],
            columns: &["index", "question", "answer", "category"],
            image: ImageSource::Column("image"),
            known: &[("MMStar.tsv", "e1ecd2140806c1b1bbf54b43372efb9e")],
        },
    ];
    type Item = Item;

    fn open(_found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self)
    }

    /// The id is the published index.
    fn sample(&self, _form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let subcategory = match columns::optional_text(record, "l2_category")? {
            Some(subcategory) => subcategory,
            None => columns::text(record, "l2-category")?,
        };
        let answer = columns::text(record, "answer")?.trim().to_uppercase();
        let (question, options) = question_and_options(record)?;
        let item = Item {
            question,
            options,
            answer: LETTERS
                .into_iter()
                .find(|letter| answer.chars().eq([*letter]))
                .ok_or_else(|| columns::error(record, "answer", "is none of A, B, C and D"))?,
            category: columns::text(record, "category")?,
            subcategory,
        };
        Ok(Some(Sample { id: columns::text(record, "index")?, item }))
    }

    fn prompt(&self, item: &Item) -> String {
        format!("{}\nAnswer with the option's letter from the given choices directly.", item.question)
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let marked: Vec<_> = answers.iter().map(|answer| (answer, mark(scorer, answer))).collect();
        let mut metrics = vec![metric(scorer, "accuracy", &marked)];
        for (category, name) in CATEGORIES {
            let members: Vec<_> =
                marked.iter().copied().filter(|(answer, _)| answer.item.category == category).collect();
            metrics.push(metric(scorer, name, &members));
        }
        metrics
    }
}

const LETTERS: [char; 4] = ['A', 'B', 'C', 'D'];

const CATEGORIES: [(&str, &str); 6] = [
    ("coarse perception", "coarsePerceptionAccuracy"),
    ("fine-grained perception", "fineGrainedPerceptionAccuracy"),
    ("instance reasoning", "instanceReasoningAccuracy"),
    ("logical reasoning", "logicalReasoningAccuracy"),
    ("math", "mathAccuracy"),
    ("science & technology", "scienceAndTechnologyAccuracy"),
];

/// The parquet's question ends in `Options: A: x, B: y, C: z, D: w`; VLMEvalKit's table has a column for each option. The
/// question is made the same, so that a model is asked the same.
fn question_and_options(record: &Record) -> Result<(String, Option<Vec<String>>)> {
    let question = columns::text(record, "question")?;
    let columns = ["A", "B", "C", "D"].map(|letter| columns::optional_text(record, letter));
    let columns = columns.into_iter().collect::<Result<Option<Vec<_>>>>()?;
    let Some(options) = columns else {
        let options = options_in(&question);
        return Ok((question, options));
    };
    if question.contains("Options:") {
        return Ok((question, Some(options)));
    }
    let listed = LETTERS.iter().zip(&options).map(|(letter, option)| format!("{letter}: {option}"));
    Ok((format!("{question}\nOptions: {}", listed.collect::<Vec<_>>().join(", ")), Some(options)))
}

/// The options of `... Options: A: x, B: y, C: z, D: w`.
fn options_in(question: &str) -> Option<Vec<String>> {
    let (_, mut rest) = question.rsplit_once("Options: A: ")?;
    let mut options = Vec::new();
    for next in [", B: ", ", C: ", ", D: "] {
        let (option, after) = rest.split_once(next)?;
        options.push(option.to_owned());
        rest = after;
    }
    options.push(rest.trim_end_matches(['.', '\n']).to_owned());
    Some(options)
}

fn mark(scorer: Scorer, answer: &Answered<'_, Item>) -> Mark {
    let Some(text) = answer.answer else { return Mark::UNRESOLVED };
    let right = answer.item.answer;
    match scorer {
        Scorer::Llava if LETTERS.iter().any(|letter| is_answer_mmstar(text, *letter)) => {
            Mark::correct(is_answer_mmstar(text, right))
        }
        Scorer::Llava => Mark::UNRESOLVED,
        Scorer::LmmsEval => extract_lmms_eval(text, &LETTERS)
            .map_or(Mark::UNRESOLVED, |letter| Mark::correct(letter == right)),
        Scorer::VlmEvalKit => {
            let texts = answer.item.options.as_deref();
            let text_of = |place| texts.and_then(|texts| texts.get(place)).map(String::as_str);
            let choices: Vec<_> = LETTERS
                .into_iter()
                .enumerate()
                .map(|(place, letter)| Choice { letter, text: text_of(place) })
                .collect();
            choice::infer(text, &choices).map_or(Mark::UNRESOLVED, |letter| Mark::correct(letter == right))
        }
    }
}

/// lmms-eval's score is the mean of the subcategories' accuracies (`mmstar_aggregate_results`), the others' is the accuracy.
fn metric(scorer: Scorer, name: &str, marked: &[(&Answered<'_, Item>, Mark)]) -> Metric {
    let mut groups: Vec<&str> = marked.iter().map(|(answer, _)| answer.item.subcategory.as_str()).collect();
    groups.sort_unstable();
    groups.dedup();
    let unit = |(answer, mark): &(&Answered<'_, Item>, Mark)| {
        let sums = [mark.value, 1.0];
        let group = groups.binary_search(&answer.item.subcategory.as_str()).unwrap_or_default();
        let sums =
            if scorer == Scorer::LmmsEval { in_group(&sums, group, groups.len()) } else { sums.to_vec() };
        Unit::of(answer, sums, mark.unresolved)
    };
    let aggregate =
        if scorer == Scorer::LmmsEval { Aggregate::MeanOfPercentages } else { Aggregate::Percentage };
    Metric { name: name.to_owned(), aggregate, units: marked.iter().map(unit).collect() }
}

/// Whether the answer names the letter by the rule of MMStar's own program (`MMStar_eval` in
/// `eval/vlmeval/evaluate/mmstar.py`): in either case, it begins with the letter, be it of a word, or has it after `(`,
/// `option ` or `the answer is `.
#[must_use]
pub fn is_answer_mmstar(answer: &str, letter: char) -> bool {
    let answer = python::strip(&answer.to_lowercase()).replace('\n', " ");
    let letter = letter.to_ascii_lowercase();
    let after = |phrase: &str| answer.strip_prefix(phrase).is_some_and(|text| text.starts_with(letter));
    ["", "(", "option ", "the answer is "].into_iter().any(after)
}
