//! Asks every question directly and with describe-and-respond, describes every scene, and compares policies in pairs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stic_contract::Digest;

use super::answers::{Asked, Said, Speaker, said_id};
use super::intervals::{Estimate, mean, paired_difference};
use super::phrases;
use crate::data::encode::Encoder;
use crate::data::image::{self, Limits};
use crate::data::images_dir;
use crate::data::jsonl;
use crate::error::{Error, Result};
use crate::io::atomic;
use crate::io::journal::{self, Journal};
use crate::io::stop::Stop;
use crate::model::lora::LoraAdapter;
use crate::stages::Vlm;
use crate::stages::desk::Desk;

/// A line of the questions.
#[derive(Debug, Clone, Deserialize)]
pub struct Question {
    /// Unique.
    pub id: String,
    /// Relative to the image folder.
    pub image: String,
    /// What is asked.
    pub question: String,
    /// Right if the model's answer is this, case folded and without a full stop.
    pub answer: String,
}

/// A line of the scenes.
#[derive(Debug, Clone, Deserialize)]
pub struct Scene {
    /// Unique.
    pub id: String,
    /// Relative to the image folder.
    pub image: String,
    /// What is in it, with multiplicity.
    pub phrases: Vec<String>,
}

/// What every policy is evaluated under.
#[derive(Clone, Copy)]
pub struct Conditions<'a> {
    /// The base model.
    pub vlm: &'a Vlm,
    /// Its tokenizer and template.
    pub encoder: &'a Encoder,
    /// The folder images are in.
    pub images: &'a Path,
    /// A description ends here at the latest.
    pub max_description_tokens: u32,
}

/// What is evaluated.
pub struct Benchmark {
    questions: Vec<Question>,
    scenes: Vec<Scene>,
    /// Where the images are named: each, and the file and line.
    images: Vec<(String, String)>,
}

/// One policy's row of the table.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// The policy.
    pub policy: String,
    /// Accuracy, asked directly.
    pub direct: Estimate,
    /// Accuracy with describe-and-respond.
    pub describe_and_respond: Estimate,
    /// F1 of the description that it responded with.
    pub description_f1: Estimate,
    /// Differences to the first policy on the same questions and scenes; absent on the first.
    pub against_first: Option<[Estimate; 3]>,
}

impl Benchmark {
    /// Reads questions and scenes.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and line.
    pub fn read(questions: &Path, scenes: &Path) -> Result<Self> {
        let mut images = Vec::new();
        Ok(Self {
            questions: read_unique(questions, |q: &Question| (&q.id, &q.image), &mut images)?,
            scenes: read_unique(scenes, |s: &Scene| (&s.id, &s.image), &mut images)?,
            images,
        })
    }

    /// Refuses what names an image that is not under `root`: before hours of answers, not after them.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and line.
    pub fn require_images(&self, root: &Path) -> Result<()> {
        self.images.iter().try_for_each(|(image, place)| {
            images_dir::resolve(root, image).map(|_| ()).map_err(|e| Error::from(e).in_row(place))
        })
    }

    /// Runs every policy over every image, going on from what `output` holds, and returns the table. What decides the
    /// answers is `made_from`: those that were given under anything else are not taken over.
    ///
    /// # Errors
    /// [`Error::Data`] for an image that cannot be read; [`Error::Interrupted`], after which the next call goes on.
    pub fn run(
        &self,
        conditions: Conditions<'_>,
        policies: &[(String, Option<LoraAdapter>)],
        made_from: &Value,
        output: &Path,
        stop: &Stop,
    ) -> Result<Vec<PolicyRow>> {
        atomic::create_dir(output)?;
        let path = output.join(format!("answers-{}.jsonl", Digest::of_json(made_from).short(16)));
        let mut done = HashSet::new();
        let mut log = Journal::open::<Said>(&path, |id| {
            done.insert(id.to_owned());
            Ok(())
        })?;
        let by_image = self.by_image();
        let Conditions { vlm, encoder, images, max_description_tokens } = conditions;
        let at_once = vlm.responses_at_once(0, max_description_tokens);
        for (policy, adapter) in policies {
            let todo: Vec<(&str, &Vec<&Question>)> = by_image
                .iter()
                .filter(|(image, _)| !done.contains(&said_id(policy, image)))
                .map(|(image, questions)| (*image, questions))
                .collect();
            tracing::info!(policy, images = todo.len(), "evaluates");
            let desk = Desk { vlm, adapter: adapter.as_ref(), encoder, seed: 0, at_once, stop };
            let items = todo.into_iter().map(|(image, questions)| {
                let path = images_dir::resolve(images, image)?;
                let opened = image::open(&path, &Limits::default())
                    .map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
                Ok((Asked { image, questions }, opened))
            });
            desk.write(&Speaker { policy, max_description_tokens }, items, |said| log.append(&said))?;
        }
        let said: BTreeMap<String, Said> = journal::read::<Said>(&path)?
            .map(|said| said.map(|said| (said.id.clone(), said)))
            .collect::<Result<_>>()?;
        let table = self.table(policies.iter().map(|(name, _)| name.as_str()), &said)?;
        let json = serde_json::to_vec_pretty(&table).map_err(|e| Error::Data(e.to_string()))?;
        atomic::write(&output.join("table.json"), &json)?;
        Ok(table)
    }

    fn by_image(&self) -> BTreeMap<&str, Vec<&Question>> {
        let mut by_image: BTreeMap<&str, Vec<&Question>> = BTreeMap::new();
        for scene in &self.scenes {
            by_image.entry(&scene.image).or_default();
        }
        for question in &self.questions {
            by_image.entry(&question.image).or_default().push(question);
        }
        by_image
    }

    fn table<'p>(
        &self,
        policies: impl Iterator<Item = &'p str>,
        said: &BTreeMap<String, Said>,
    ) -> Result<Vec<PolicyRow>> {
        let vocabulary: BTreeSet<String> =
            self.scenes.iter().flat_map(|s| s.phrases.iter().cloned()).collect();
        let mut first: Option<[Vec<f64>; 3]> = None;
        policies
            .map(|policy| {
                let of = |image: &str| {
                    said.get(&said_id(policy, image)).ok_or_else(|| {
                        Error::Data(format!("{policy} said nothing of {image}; run the evaluation again"))
                    })
                };
                let (mut direct, mut dar, mut f1) = (Vec::new(), Vec::new(), Vec::new());
                for question in &self.questions {
                    let said = of(&question.image)?;
                    let answers = said.answers.iter().find(|(id, ..)| *id == question.id);
                    let right = |answer: Option<&String>| {
                        f64::from(answer.is_some_and(|a| is_right(a, &question.answer)))
                    };
                    direct.push(right(answers.map(|(_, direct, _)| direct)));
                    dar.push(right(answers.map(|(.., dar)| dar)));
                }
                for scene in &self.scenes {
                    let found = phrases::count(&of(&scene.image)?.description, &vocabulary);
                    f1.push(phrases::f1(&found, &scene.phrases));
                }
                let values = [direct, dar, f1];
                let against_first = first
                    .as_ref()
                    .map(|first| std::array::from_fn(|i| paired_difference(&values[i], &first[i])));
                let row = PolicyRow {
                    policy: policy.to_owned(),
                    direct: mean(&values[0]),
                    describe_and_respond: mean(&values[1]),
                    description_f1: mean(&values[2]),
                    against_first,
                };
                first.get_or_insert(values);
                Ok(row)
            })
            .collect()
    }

    /// The table as text.
    #[must_use]
    pub fn render(&self, table: &[PolicyRow]) -> String {
        let headers = ["model", "asked directly", "describe and respond", "description F1"];
        let mut rows = vec![headers.map(str::to_owned)];
        for row in table {
            let of = |e: &Estimate| format!("{:.3} ±{:.3}", e.mean, e.half_width);
            rows.push([
                row.policy.clone(),
                of(&row.direct),
                of(&row.describe_and_respond),
                of(&row.description_f1),
            ]);
            if let Some([direct, dar, f1]) = &row.against_first {
                let of = |e: &Estimate| format!("{:+.3} ±{:.3}", e.mean, e.half_width);
                rows.push([format!("  against {}", table[0].policy), of(direct), of(dar), of(f1)]);
            }
        }
        let widths: [usize; 4] =
            std::array::from_fn(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0));
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "{}", cells.join("  ").trim_end());
            if number == 0 {
                let _ = writeln!(text, "{}", widths.map(|w| "-".repeat(w)).join("  "));
            }
        }
        let _ = writeln!(
            text,
            "\n{} questions and {} scenes, greedy; ± is half of a 95% interval, of a paired difference on the lines below.",
            self.questions.len(),
            self.scenes.len()
        );
        text
    }
}

fn is_right(answer: &str, expected: &str) -> bool {
    let fold = |text: &str| text.trim().trim_end_matches('.').to_lowercase();
    fold(answer) == fold(expected)
}

/// The rows of `path`, whose ids and images `names` tells.
fn read_unique<T: for<'de> Deserialize<'de>>(
    path: &Path,
    names: impl Fn(&T) -> (&String, &String),
    images: &mut Vec<(String, String)>,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for row in jsonl::read::<T>(path)? {
        let (line, row) = row?;
        let (id, image) = names(&row);
        if !seen.insert(id.clone()) {
            return Err(Error::Data(format!(
                "{}:{line}: id {id:?} is there twice; give each row its own",
                path.display()
            )));
        }
        images.push((image.clone(), format!("{}:{line}", path.display())));
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(Error::Data(format!("{}: holds no row; add some or correct the path", path.display())));
    }
    Ok(rows)
}
