//! CHAIR: how many of the objects that a caption mentions are not in the image, and how many captions mention such a one.
//!
//! The lower the better. No judge is needed: objects are found by a list of synonyms for MSCOCO's categories (see [`words`]).
//! VLMEvalKit does not score it.

mod coco;
pub mod singular;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use self::words::{Singular, objects};

use super::columns;
use super::{Answered, Benchmark, Options, Sample};
use crate::error::Result;
use crate::metric::{Aggregate, Metric, Unit};
use crate::published::{Form, FormKind, Format, FoundForm, ImageSource, Record};
use crate::scorer::Scorer;

/// CHAIR, with MSCOCO's objects where the rows do not have them.
#[derive(Debug)]
pub struct Chair {
    /// By image.
    objects: BTreeMap<u64, BTreeSet<&'static str>>,
}

/// An image to describe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The MSCOCO categories of what is in the image.
    pub objects: BTreeSet<String>,
}

const INSTANCES: &str = "instances_val2014.json";
const CAPTIONS: &str = "captions_val2014.json";

impl Benchmark for Chair {
    const NAME: BenchmarkName = BenchmarkName::Chair;
    const MAX_NEW_TOKENS: u32 = 1024;
    const FORMS: &'static [Form] = &[
        Form {
            kind: FormKind::Parquet,
            title: "Hugging Face parquet (tsunghanwu/mscoco_chair)",
            rows: &["test-*.parquet"],
            format: Format::Parquet,
            companions: &[],
            columns: &["question_id", "gt_object"],
            image: ImageSource::Column("image"),
            known: &[],
        },
        Form {
            kind: FormKind::Original,
            title: "the 300 images of Object HalBench with MSCOCO's annotations",
            rows: &["obj_halbench_300_with_image.jsonl"],
            format: Format::JsonLines,
            companions: &[INSTANCES, CAPTIONS],
            columns: &["image_id"],
            image: ImageSource::Column("image"),
            known: &[],
        },
    ];
    type Item = Item;

    fn open(found: &FoundForm, _options: Options) -> Result<Self> {
        let objects = match (found.companion(INSTANCES), found.companion(CAPTIONS)) {
            (Some(instances), Some(captions)) => coco::objects(instances, captions)?,
            _ => BTreeMap::new(),
        };
        Ok(Self { objects })
    }

    /// The id is the number of the image in MSCOCO.
    fn sample(&self, form: FormKind, record: &Record) -> Result<Option<Sample<Item>>> {
        let column = if form == FormKind::Parquet { "question_id" } else { "image_id" };
        let id = columns::text(record, column)?;
        let number = id.trim_start_matches('0').parse::<u64>();
        let number =
            number.map_err(|_| columns::error(record, column, "is not the number of an MSCOCO image"))?;
        let objects = match form {
            FormKind::Parquet => columns::texts(record, "gt_object")?.into_iter().collect(),
            FormKind::Original | FormKind::Tsv => {
                let objects = self.objects.get(&number);
                let objects =
                    objects.ok_or_else(|| columns::error(record, column, "is not in MSCOCO's val2014"))?;
                objects.iter().map(|&object| object.to_owned()).collect()
            }
        };
        Ok(Some(Sample { id: number.to_string(), item: Item { objects } }))
    }

    /// As lmms-eval asks; CHAIR itself takes captions.
    fn prompt(&self, _item: &Item) -> String {
        "Please describe this image in detail.".to_owned()
    }

    fn metrics(scorer: Scorer, answers: &[Answered<'_, Item>]) -> Vec<Metric> {
        let singular = match scorer {
            Scorer::Llava => Singular::Pattern,
            Scorer::LmmsEval => Singular::WordNet,
            Scorer::VlmEvalKit => return Vec::new(),
        };
        let counted: Vec<_> = answers
            .iter()
            .map(|answer| (answer, answer.answer.map(|text| count(answer.item, text, singular))))
            .collect();
        let of = |name: &str, sums: fn(&Counts) -> [u32; 2]| {
            let unit = |(answer, counts): &(&Answered<'_, Item>, Option<Counts>)| match counts {
                Some(counts) => Unit::of(answer, sums(counts).map(f64::from).to_vec(), false),
                // No caption mentions nothing that is not there, which is no merit.
                None => Unit::without_score(answer),
            };
            Metric {
                name: name.to_owned(),
                aggregate: Aggregate::Percentage,
                units: counted.iter().map(unit).collect(),
            }
        };
        vec![
            of("chairS", |counts| [u32::from(counts.hallucinated > 0), 1]),
            of("chairI", |counts| [counts.hallucinated, counts.mentioned]),
            of("recall", |counts| [counts.found, counts.present]),
        ]
    }
}

/// What a caption mentions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Mentions of objects, and how many of these are of an object that is not in the image.
    pub mentioned: u32,
    pub hallucinated: u32,
    /// Objects in the image, and how many of these are mentioned.
    pub present: u32,
    pub found: u32,
}

/// Counts the objects of a caption (`compute_chair`; the recall is lmms-eval's).
#[must_use]
pub fn count(item: &Item, caption: &str, singular: Singular) -> Counts {
    let mentions = objects(caption, singular);
    let (there, not_there): (Vec<&str>, Vec<&str>) =
        mentions.iter().partition(|object| item.objects.contains(**object));
    let found: BTreeSet<_> = there.into_iter().collect();
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Counts {
        mentioned: length(mentions.len()),
        hallucinated: length(not_there.len()),
        present: length(item.objects.len()),
        found: length(found.len()),
    }
}
