//! MMBench: multiple-choice questions that are asked once for each rotation of their options.

mod infer;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

pub use self::infer::{extract_lmms_eval, infer_2023};

use super::choice::{self, Choice};
use super::{Answered, Benchmark, Options, Sample, columns};
use crate::error::Result;
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::python;
use crate::scorer::{Mark, Scorer};

/// The rotations of a question have its index plus multiples of this.
const ROTATION: u64 = 1_000_000;

/// The letters of the options of all published questions.
const LETTERS: [char; 4] = ['A', 'B', 'C', 'D'];

/// MMBench, development or test split.
#[derive(Debug)]
pub struct MmBench {
    is_chinese: bool,
}

/// A question of MMBench, or one of its rotations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub index: u64,
    pub question: String,
    pub hint: Option<String>,
    /// By letter, without those that pandas takes for empty cells, such as `None`.
    pub options: BTreeMap<char, String>,
    pub answer: char,
    /// `attribute_reasoning`, and five others.
    pub ability: Option<String>,
}

impl Benchmark for MmBench {
    const NAME: BenchmarkName = BenchmarkName::MmBench;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        tsv("VLMEvalKit's MMBench_DEV_EN.tsv", &[DEV_EN.0], &[DEV_EN]),
        parquet("Hugging Face parquet (lmms-lab-encoder/MMBench, en, dev)", &["en/dev-*.parquet"]),
        Form {
            kind: FormKind::Original,
            ..tsv("MMBench's mmbench_dev_20230712.tsv", &["mmbench_dev_20230712.tsv"], &[])
        },
        tsv("VLMEvalKit's MMBench_DEV_EN_V11.tsv", &[DEV_EN_V11.0], &[DEV_EN_V11]),
        tsv("VLMEvalKit's MMBench_TEST_EN.tsv", &[TEST_EN.0], &[TEST_EN]),
        tsv("VLMEvalKit's MMBench_TEST_EN_V11.tsv", &[TEST_EN_V11.0], &[TEST_EN_V11]),
        parquet("Hugging Face parquet (lmms-lab-encoder/MMBench, en, test)", &["en/test-*.parquet"]),
        tsv("VLMEvalKit's MMBench_DEV_CN.tsv", &[DEV_CN.0], &[DEV_CN]),
        parquet("Hugging Face parquet (lmms-lab-encoder/MMBench, cn, dev)", &[CHINESE_DEV]),
        Form {
            kind: FormKind::Original,
            ..tsv("MMBench's mmbench_dev_cn_20231003.tsv", &[CHINESE_ORIGINAL], &[])
        },
        tsv("VLMEvalKit's MMBench_DEV_CN_V11.tsv", &[DEV_CN_V11.0], &[DEV_CN_V11]),
        tsv("VLMEvalKit's MMBench_TEST_CN.tsv", &[TEST_CN.0], &[TEST_CN]),
        tsv("VLMEvalKit's MMBench_TEST_CN_V11.tsv", &[TEST_CN_V11.0], &[TEST_CN_V11]),
    ];
    type Item = Item;

    fn open(found: &FoundForm, _options: Options) -> Result<Self> {
        Ok(Self { is_chinese: found.form.rows.iter().any(|rows| CHINESE.contains(rows)) })
    }

    /// The id is the index.
    fn sample(&self, _form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let cell = |column: &str| -> Result<Option<String>> {
            Ok(columns::optional_text(record, column)?.filter(|text| !python::is_missing(text)))
        };
        let index = columns::text(record, "index")?;
        let index = index.parse().map_err(|_| columns::error(record, "index", "is no whole number"))?;
        let mut options = BTreeMap::new();
        for letter in LETTERS {
            options.extend(cell(&letter.to_string())?.map(|text| (letter, text)));
        }
        let answer = cell("answer")?.ok_or_else(|| {
            columns::error(record, "answer", "is empty: this file was published without answers")
        })?;
        let mut letters = answer.chars();
        let (Some(answer @ 'A'..='Z'), None) = (letters.next(), letters.next()) else {
            return Err(columns::error(record, "answer", "is no letter of an option"));
        };
        let ability = match cell("l2-category")? {
            Some(ability) => Some(ability),
            None => cell("L2-category")?,
        };
        let item = Item {
            index,
            question: columns::text(record, "question")?,
            hint: cell("hint")?,
            options,
            answer,
            ability,
        };
        Ok(Some(Sample { id: index.to_string(), item }))
    }

    fn unit(sample: &Sample<Item>) -> String {
        group(&sample.item).to_string()
    }

    /// LLaVA's `llava/eval/model_vqa_mmbench.py`.
    fn prompt(&self, item: &Item) -> String {
        let suffix = match self.is_chinese {
            true => "请直接回答选项字母。",
            false => "Answer with the option's letter from the given choices directly.",
        };
        format!("{}\n{suffix}", question_block(item))
    }

    /// `circularAccuracy` counts questions whose rotations are all right, `accuracy` unrotated questions; then the former for
    /// each ability.
    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let groups = groups(scorer, answers);
        let metric = |name: String, units| Metric { name, aggregate: Aggregate::Percentage, units };
        let rotated = |group: &Group<'_>| group.unit(circular(&group.rotations));
        let unrotated = |group: &Group<'_>| group.unit(circular(&[group.unrotated]));
        let mut metrics = vec![
            metric("circularAccuracy".to_owned(), groups.iter().map(rotated).collect()),
            metric("accuracy".to_owned(), groups.iter().map(unrotated).collect()),
        ];
        let ability = |group: &Group<'_>| group.first.item.ability.clone();
        let abilities: BTreeSet<String> = groups.iter().filter_map(ability).collect();
        for name in abilities {
            let of_ability = groups.iter().filter(|group| group.first.item.ability.as_ref() == Some(&name));
            let units = of_ability.map(rotated).collect();
            metrics.push(metric(format!("circularAccuracy/{name}"), units));
        }
        metrics
    }
}

const DEV_EN: (&str, &str) = ("MMBench_DEV_EN.tsv", "b6caf1133a01c6bb705cf753bb527ed8");
const DEV_EN_V11: (&str, &str) = ("MMBench_DEV_EN_V11.tsv", "30c05be8f2f347a50be25aa067248184");
const TEST_EN: (&str, &str) = ("MMBench_TEST_EN.tsv", "6939fadb0ce626fefc0bdc9c64efc528");
const TEST_EN_V11: (&str, &str) = ("MMBench_TEST_EN_V11.tsv", "8d1a704e791df6f5d9fb3ef782b65365");
const DEV_CN: (&str, &str) = ("MMBench_DEV_CN.tsv", "08b8fc3324a5ed74155350f57be69fbd");
const DEV_CN_V11: (&str, &str) = ("MMBench_DEV_CN_V11.tsv", "593f9b5f6bea453d870a798b34ae4f37");
const TEST_CN: (&str, &str) = ("MMBench_TEST_CN.tsv", "7e1239baf0ee4c8b513e19705a0f317e");
const TEST_CN_V11: (&str, &str) = ("MMBench_TEST_CN_V11.tsv", "156e6569f9547afb16603eca16e85373");

const CHINESE_DEV: &str = "cn/dev-*.parquet";
const CHINESE_ORIGINAL: &str = "mmbench_dev_cn_20231003.tsv";

/// The files in Chinese.
const CHINESE: [&str; 6] = [DEV_CN.0, DEV_CN_V11.0, TEST_CN.0, TEST_CN_V11.0, CHINESE_DEV, CHINESE_ORIGINAL];

const COLUMNS: &[&str] = &["index", "question", "hint", "A", "B", "C", "D", "answer"];

const fn tsv(
    title: &'static str,
    rows: &'static [&'static str],
    known: &'static [(&'static str, &'static str)],
) -> Form {
    Form {
        kind: FormKind::Tsv,
        title,
        rows,
        format: Format::Tsv,
        companions: &[],
        columns: COLUMNS,
        image: ImageSource::Column("image"),
        known,
    }
}

const fn parquet(title: &'static str, rows: &'static [&'static str]) -> Form {
    Form { kind: FormKind::Parquet, format: Format::Parquet, ..tsv(title, rows, &[]) }
}

const fn group(item: &Item) -> u64 {
    item.index % ROTATION
}

/// The options in front of the first that is missing, as LLaVA lists them.
fn question_block(item: &Item) -> String {
    let present = |text: &&String| !matches!(text.to_lowercase().as_str(), "nan" | "none");
    let mut lines: Vec<String> = item.hint.iter().filter(present).cloned().collect();
    lines.push(item.question.clone());
    let options =
        LETTERS.iter().map_while(|letter| Some((letter, item.options.get(letter).filter(present)?)));
    lines.extend(options.map(|(letter, text)| format!("{letter}. {text}")));
    lines.join("\n")
}

/// The rotations of a question.
struct Group<'a> {
    /// The question without rotation.
    first: &'a Answered<'a, Item>,
    /// Whether each rotation was answered rightly; `None` where no rule tells.
    rotations: Vec<Option<bool>>,
    unrotated: Option<bool>,
}

impl Group<'_> {
    fn unit(&self, mark: Mark) -> Unit {
        Unit {
            id: group(self.first.item).to_string(),
            cluster: self.first.cluster.to_owned(),
            sums: Some(vec![mark.value, 1.0]),
            unresolved: mark.unresolved,
        }
    }
}

/// The groups in the order of their unrotated questions. Rotations without such a question do not count.
fn groups<'a>(scorer: Scorer, answers: &'a [Answered<'a, Item>]) -> Vec<Group<'a>> {
    let is_right = |answer: &Answered<'_, Item>| match answer.answer {
        None => Some(false),
        Some(text) => infer(scorer, text, &answer.item.options).map(|letter| letter == answer.item.answer),
    };
    let mut rotations: BTreeMap<u64, Vec<Option<bool>>> = BTreeMap::new();
    for answer in answers {
        rotations.entry(group(answer.item)).or_default().push(is_right(answer));
    }
    let unrotated = answers.iter().filter(|answer| answer.item.index < ROTATION);
    unrotated
        .map(|first| Group {
            first,
            rotations: rotations.get(&group(first.item)).cloned().unwrap_or_default(),
            unrotated: is_right(first),
        })
        .collect()
}

/// What a question is worth, given whether each of its rotations is right.
#[must_use]
pub fn circular(rotations: &[Option<bool>]) -> Mark {
    if rotations.contains(&Some(false)) {
        Mark::correct(false)
    } else if rotations.contains(&None) {
        Mark::UNRESOLVED
    } else {
        Mark::correct(true)
    }
}

/// The letter that was answered, `Z` if the answer declines, or `None` if no rule tells.
///
/// LLaVA leaves it to MMBench's server, whose rules lmms-eval has a copy of. lmms-eval goes on with rules of its own where
/// those do not tell, as its task `mmbench_en_dev_static` does.
#[must_use]
pub fn infer(scorer: Scorer, answer: &str, options: &BTreeMap<char, String>) -> Option<char> {
    match scorer {
        Scorer::Llava => infer_2023(answer, options),
        Scorer::LmmsEval => {
            let options = with_nan(options);
            let answer = python::strip(answer);
            let letters: Vec<char> = options.keys().copied().collect();
            infer_2023(answer, &options).or_else(|| extract_lmms_eval(answer, &letters))
        }
        Scorer::VlmEvalKit => {
            let choices: Vec<_> =
                options.iter().map(|(letter, text)| Choice { letter: *letter, text: Some(text) }).collect();
            choice::infer(python::from_table(answer), &choices)
        }
    }
}

/// The options as lmms-eval's files have them: the text of a missing one is `nan`, which counts as an option. So an answer
/// with `banana` in it chooses a missing option too.
fn with_nan(options: &BTreeMap<char, String>) -> BTreeMap<char, String> {
    let text = |letter| options.get(&letter).cloned().unwrap_or_else(|| "nan".to_owned());
    LETTERS.into_iter().map(|letter| (letter, text(letter))).collect()
}
