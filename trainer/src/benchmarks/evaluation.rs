//! Runs a benchmark: every policy answers every question, and the policies are compared on the same answers.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_contract::Digest;
use stic_contract::recipe::{ChatTemplate, ImageLayout, Precision};

use super::answer_plan::AnswerPlan;
use super::answers::{ImageAnswers, PolicyAnswers, answers_id};
use super::benchmark::{Benchmark, BenchmarkOptions};
use super::questions::ImageQuestions;
use super::score_table::ScoreTable;
use crate::cancellation::CancellationToken;
use crate::checkpoint::adapter::{self, TrainedProjector};
use crate::data::encode::Encoder;
use crate::data::image::{self, ImageLimits};
use crate::data::images_dir;
use crate::data::template::Turn;
use crate::device;
use crate::error::{Error, Result};
use crate::inference::{GenerationPlan, ModelFiles, Policy, ResponseWriter, Vlm};
use crate::io::atomic;
use crate::io::journal::{self, Journal};
use crate::model::digest::DigestedFiles;
use crate::model::lora::LoraAdapter;

/// Counted for a question when memory is planned.
const PROMPT_TOKENS: usize = 512;

/// What to evaluate, and where.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub options: BenchmarkOptions<'a>,
    pub model: &'a Path,
    /// Adapters to compare with the base model, by name.
    pub adapters: &'a [(String, PathBuf)],
    /// The folder of the images.
    pub images: &'a Path,
    /// The folder of answers and table. Answers that are there already are kept.
    pub output: &'a Path,
    pub chat_template: ChatTemplate,
    /// The number format of weights and activations.
    pub precision: Precision,
    pub max_description_tokens: u32,
    pub cancellation: &'a CancellationToken,
}

/// A benchmark by name.
#[derive(Debug, Clone, Copy)]
pub struct RegisteredBenchmark {
    pub name: &'static str,
    /// Runs it and returns the report.
    pub evaluate: fn(&Evaluation<'_>) -> Result<String>,
}

impl RegisteredBenchmark {
    pub(super) const fn of<B: Benchmark>() -> Self {
        Self { name: B::NAME, evaluate: evaluate::<B> }
    }
}

fn evaluate<B: Benchmark>(evaluation: &Evaluation<'_>) -> Result<String> {
    evaluation.run::<B>()
}

/// A policy's name, and its adapter unless it is the base model.
type NamedPolicy<'a> = (&'a str, Option<LoraAdapter>);

impl Evaluation<'_> {
    /// Asks all policies everything that `output` has no answers to yet, writes `table.json` and returns the report.
    ///
    /// # Errors
    /// [`Error::Data`] for a row or image that cannot be used; [`Error::Interrupted`], after which the next run resumes.
    fn run<B: Benchmark>(&self) -> Result<String> {
        let benchmark = B::read(&self.options)?;
        let requests = benchmark.requests();
        let files = ModelFiles::open(self.model, ImageLayout::Model)?;
        let encoder = files.encoder(self.chat_template)?;
        self.check_rows(&requests, &files, &encoder)?;
        let vlm = Vlm::with_files(files, self.precision, &device::first()?)?;
        let mut policies: Vec<NamedPolicy<'_>> = vec![("base", None)];
        for (name, dir) in self.adapters {
            policies.push((name, Some(vlm.load_adapter(dir, TrainedProjector::Refuse)?)));
        }
        let key = self.key(&benchmark)?;

        atomic::create_dir(self.output)?;
        let path = self.output.join(format!("answers-{}.jsonl", Digest::of_json(&key).short(16)));
        self.answer(&requests, &policies, &vlm, &encoder, &path)?;

        let by_id: BTreeMap<String, ImageAnswers> = journal::read::<ImageAnswers>(&path)?
            .map(|answers| answers.map(|answers| (journal::Row::id(&answers).to_owned(), answers)))
            .collect::<Result<_>>()?;
        let scores = policies
            .iter()
            .map(|(policy, _)| Ok((*policy, benchmark.score(&PolicyAnswers { policy, by_id: &by_id })?)))
            .collect::<Result<Vec<_>>>()?;
        let table = ScoreTable::of(scores);
        let json = serde_json::to_vec_pretty(&table).map_err(|e| Error::Data(e.to_string()))?;
        atomic::write(&self.output.join("table.json"), &json)?;
        Ok(benchmark.render(&table))
    }

    /// Refuses an image that cannot be read and a question that the model cannot be asked before hours of answering, not
    /// after.
    fn check_rows(
        &self,
        requests: &[ImageQuestions<'_>],
        files: &ModelFiles,
        encoder: &Encoder,
    ) -> Result<()> {
        for request in requests {
            self.cancellation.check()?;
            let image = self.open_image(request.image).map_err(|e| e.in_row(&request.place))?;
            let image_tokens = files.processor.image_tokens((image.height(), image.width()));
            for question in &request.questions {
                let turns = [Turn::user_with_image(question.text.as_ref())];
                let prompt = encoder.encode_prompt(&turns, Some(image_tokens));
                let tokens = prompt.map_err(|e| e.in_row(&question.place))?.ids.len();
                let limit = files.max_tokens();
                if tokens >= limit {
                    return Err(Error::Data(format!(
                        "{}: its question needs {tokens} tokens, {image_tokens} of them for the image, but the model is limited to {limit}; shorten it or remove the row",
                        question.place
                    )));
                }
            }
        }
        Ok(())
    }

    fn open_image(&self, image: &str) -> Result<::image::RgbImage> {
        let path = images_dir::resolve(self.images, image)?;
        image::open(&path, &ImageLimits::default())
            .map_err(|e| Error::Data(format!("{}: {e}", path.display())))
    }

    /// What decides the answers: those that were given under anything else are not used.
    fn key(&self, benchmark: &impl Benchmark) -> Result<Value> {
        let mut adapters = Vec::new();
        for (name, dir) in self.adapters {
            adapters.push(json!({"name": name, "weights": adapter::digest(dir)?}));
        }
        let mut key = benchmark.key()?;
        key.extend([
            ("trainer".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
            (
                "model".to_owned(),
                json!(DigestedFiles::find(self.model)?.digest(|_| self.cancellation.check())?),
            ),
            ("adapters".to_owned(), json!(adapters)),
            ("chatTemplate".to_owned(), json!(self.chat_template)),
            ("precision".to_owned(), json!(self.precision)),
            ("maxDescriptionTokens".to_owned(), json!(self.max_description_tokens)),
        ]);
        Ok(Value::Object(key))
    }

    /// Appends the answers that the journal at `path` lacks.
    fn answer(
        &self,
        requests: &[ImageQuestions<'_>],
        policies: &[NamedPolicy<'_>],
        vlm: &Vlm,
        encoder: &Encoder,
        path: &Path,
    ) -> Result<()> {
        let mut done = HashSet::new();
        let mut journal = Journal::open::<ImageAnswers>(path, |id| {
            done.insert(id.to_owned());
            Ok(())
        })?;
        let batch_size = vlm.batch_size(&GenerationPlan {
            requested: 0,
            // A description and the answers to some questions.
            responses: requests.iter().map(|request| 2 * request.questions.len() + 1).sum(),
            prompt_tokens: PROMPT_TOKENS,
            max_new_tokens: self.max_description_tokens,
            adapter_bytes: policies
                .iter()
                .filter_map(|(_, adapter)| adapter.as_ref())
                .map(LoraAdapter::bytes)
                .sum(),
            reduced: false,
        })?;
        for (name, adapter) in policies {
            let missing: Vec<_> =
                requests.iter().filter(|request| !done.contains(&answers_id(name, request.image))).collect();
            tracing::info!(policy = name, images = missing.len(), "evaluating");
            let writer = ResponseWriter {
                policy: Policy { vlm, adapter: adapter.as_ref(), encoder },
                seed: 0,
                batch_size,
                cancellation: self.cancellation,
            };
            let items = missing.into_iter().map(|request| Ok((request, self.open_image(request.image)?)));
            let plan = AnswerPlan { policy: name, max_description_tokens: self.max_description_tokens };
            writer.write(&plan, items, |answers| journal.append(&answers))?;
        }
        Ok(())
    }
}
