//! Asks every model every question, and compares the models on the same answers.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::json;
use stic_contract::Digest;
use stic_contract::prompts::DESCRIBE_AND_RESPOND;
use stic_contract::recipe::{ChatTemplate, ImageLayout, OnUnreadable, Precision};
use stic_evaluation::registry::{Question, RegisteredBenchmark, Selection, StoredAnswer};
use stic_evaluation::results::{self, ResultRow, SubjectMetrics};
use stic_evaluation::scorer::Scorer;

use super::answer::{self, Answer, answer_id};
use super::answer_plan::{AnswerPlan, ImageQuestions};
use super::prompting::Prompting;
use super::question_check::{LargestQuestion, QuestionCheck};
use super::question_file::QuestionFile;
use crate::cancellation::CancellationToken;
use crate::checkpoint::adapter::{self, TrainedProjector};
use crate::data::encode::Encoder;
use crate::device;
use crate::error::{Error, Result};
use crate::inference::{GenerationPlan, ModelFiles, Policy, ResponseWriter, Vlm};
use crate::io::atomic;
use crate::io::journal::Journal;
use crate::io::lock::StepLock;
use crate::model::digest::DigestedFiles;
use crate::model::lora::LoraAdapter;

/// Questions about one image that are answered together.
const QUESTIONS_AT_ONCE: usize = 64;
/// The name of the model without an adapter.
pub const BASE: &str = "base";

/// What to evaluate, and where.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// Each with the folder that holds it as published.
    pub benchmarks: &'a [(&'static RegisteredBenchmark, PathBuf)],
    pub selection: Selection,
    /// What becomes of rows that cannot be used.
    pub on_unreadable: OnUnreadable,
    pub prompting: &'a [Prompting],
    pub scorers: &'a [Scorer],
    pub model: &'a Path,
    /// Adapters to compare with the base model, by name.
    pub adapters: &'a [(String, PathBuf)],
    /// The folder of questions, answers and results. Answers that are there already are kept.
    pub output: &'a Path,
    pub chat_template: ChatTemplate,
    /// The number format of weights and activations.
    pub precision: Precision,
    pub max_description_tokens: u32,
    pub cancellation: &'a CancellationToken,
}

/// A model to evaluate: the base, or the base with an adapter.
struct Subject<'a> {
    name: &'a str,
    adapter: Option<LoraAdapter>,
    /// The journal of its answers. Its name contains the digest of all that decides them besides the questions.
    answers: PathBuf,
}

impl Evaluation<'_> {
    /// Asks everything that `output` has no answers to yet, writes `results.json` and `results.csv`, and returns the rows.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder, row or image that cannot be used; [`Error::Interrupted`], after which the next run
    /// resumes.
    pub fn run(&self) -> Result<Vec<ResultRow>> {
        for (benchmark, _) in self.benchmarks.iter().filter(|(benchmark, _)| benchmark.judged) {
            tracing::warn!(
                benchmark = benchmark.name,
                "its answers are kept, but those that only a judge can score have no score: no judge is asked yet"
            );
        }
        atomic::create_dir(self.output)?;
        let _lock = StepLock::acquire(&self.output.join("lock"), self.cancellation)?;
        let results = ["results.json", "results.csv"].map(|name| self.output.join(name));
        // Those of an earlier evaluation would stand beside other answers.
        for file in &results {
            remove_file(file)?;
        }
        let files = ModelFiles::open(self.model, ImageLayout::Model)?;
        let encoder = files.encoder(self.chat_template)?;
        let mut check = QuestionCheck {
            files: &files,
            encoder: &encoder,
            description_tokens: self.describes().then_some(self.max_description_tokens),
            largest: LargestQuestion::default(),
            images: HashMap::new(),
        };
        let leave_out = self.on_unreadable == OnUnreadable::Skip;
        let questions = QuestionFile::create(
            self.output,
            self.benchmarks,
            &self.selection,
            leave_out,
            &mut check,
            self.cancellation,
        )?;
        let largest = check.largest;
        let vlm = Vlm::with_files(files, self.precision, &device::first()?)?;
        let subjects = self.subjects(&vlm)?;
        self.write_subjects(&subjects)?;
        for subject in &subjects {
            self.answer(&questions, largest, subject, &vlm, &encoder)?;
        }
        let rows = self.score(&questions, &subjects)?;
        let json = serde_json::to_vec_pretty(&rows).map_err(|e| Error::Data(e.to_string()))?;
        let [json_file, csv_file] = &results;
        atomic::write(json_file, &json)?;
        atomic::write(csv_file, results::csv(&rows).as_bytes())?;
        Ok(rows)
    }

    /// Whether a description goes into some prompt.
    fn describes(&self) -> bool {
        self.prompting.iter().any(|prompting| *prompting != Prompting::Direct)
    }

    fn subjects(&self, vlm: &Vlm) -> Result<Vec<Subject<'_>>> {
        let model = DigestedFiles::find(self.model)?.digest(|_| self.cancellation.check())?;
        let subject = |name, dir: Option<&Path>| {
            let weights = dir.map(adapter::digest).transpose()?;
            let key = json!({
                "trainer": env!("CARGO_PKG_VERSION"),
                "model": model,
                "adapter": weights,
                "chatTemplate": self.chat_template,
                "precision": self.precision,
                "maxDescriptionTokens": self.max_description_tokens,
            });
            let answers = self.output.join(format!("answers-{}.jsonl", Digest::of_json(&key).short(16)));
            let adapter = dir.map(|dir| vlm.load_adapter(dir, TrainedProjector::Refuse)).transpose()?;
            Ok(Subject { name, adapter, answers })
        };
        let adapters = self.adapters.iter().map(|(name, dir)| (name.as_str(), Some(dir.as_path())));
        std::iter::once((BASE, None)).chain(adapters).map(|(name, dir)| subject(name, dir)).collect()
    }

    /// Says whose answers are in which file.
    fn write_subjects(&self, subjects: &[Subject<'_>]) -> Result<()> {
        let files = subjects.iter().map(|subject| {
            json!({"subject": subject.name, "answers": subject.answers.file_name().map(|name| name.to_string_lossy())})
        });
        let json =
            serde_json::to_vec_pretty(&files.collect::<Vec<_>>()).map_err(|e| Error::Data(e.to_string()))?;
        atomic::write(&self.output.join("subjects.json"), &json)
    }

    /// Appends the answers that the subject's journal lacks.
    fn answer(
        &self,
        questions: &QuestionFile,
        largest: LargestQuestion,
        subject: &Subject<'_>,
        vlm: &Vlm,
        encoder: &Encoder,
    ) -> Result<()> {
        let mut done = HashSet::new();
        let mut journal = Journal::open::<Answer>(&subject.answers, |id| {
            done.insert(fingerprint(id));
            Ok(())
        })?;
        let missing = questions.read()?.map(|question| {
            let question = question?;
            let of = |prompting| !done.contains(&fingerprint(&answer_id(&question, prompting)));
            let missing: Vec<Prompting> = self.prompting.iter().copied().filter(|p| of(*p)).collect();
            Ok((question, missing))
        });
        let missing = missing.filter(|read| !matches!(read, Ok((_, missing)) if missing.is_empty()));
        let mut missing = missing.peekable();
        if missing.peek().is_none() {
            return Ok(());
        }
        tracing::info!(subject = subject.name, "answering");
        let policy = Policy { vlm, adapter: subject.adapter.as_ref(), encoder };
        let batch_size = vlm.batch_size(&self.generation_plan(questions, largest, subject))?;
        let writer = ResponseWriter { policy, seed: 0, batch_size, cancellation: self.cancellation };
        let plan = AnswerPlan {
            max_description_tokens: self.max_description_tokens,
            blind_description: self.blind_description(&writer)?,
        };
        let items = by_image(missing).map(|item| {
            let item = item?;
            let image = match item.missing.first() {
                Some((question, _)) => questions.open_image(question)?,
                None => None,
            };
            Ok((item, image))
        });
        writer.write(&plan, items, |answers| answers.iter().try_for_each(|answer| journal.append(answer)))
    }

    fn generation_plan(
        &self,
        questions: &QuestionFile,
        largest: LargestQuestion,
        subject: &Subject<'_>,
    ) -> GenerationPlan {
        let description_tokens = if self.describes() { self.max_description_tokens } else { 0 };
        GenerationPlan {
            requested: 0,
            responses: usize::try_from(questions.count)
                .unwrap_or(usize::MAX)
                .saturating_mul(self.prompting.len()),
            prompt_tokens: largest.prompt_tokens,
            max_new_tokens: largest.max_new_tokens.max(description_tokens),
            adapter_bytes: subject.adapter.as_ref().map_or(0, LoraAdapter::bytes),
            reduced: false,
        }
    }

    /// What the model describes where there is no image. It takes as long as one answer, so it is not stored.
    fn blind_description(&self, writer: &ResponseWriter<'_>) -> Result<Option<String>> {
        if !self.prompting.contains(&Prompting::DescribeAndRespondAsReleased) {
            return Ok(None);
        }
        let question = Question {
            benchmark: String::new(),
            id: "the description without an image".into(),
            image: None,
            prompt: DESCRIBE_AND_RESPOND.to_owned(),
            max_new_tokens: self.max_description_tokens,
            item: serde_json::Value::Null,
            place: String::new(),
        };
        let item = ImageQuestions { key: question.id.clone(), missing: vec![(question, Prompting::Direct)] };
        let plan =
            AnswerPlan { max_description_tokens: self.max_description_tokens, blind_description: None };
        let mut description = None;
        writer.write(&plan, std::iter::once(Ok((item, None))), |answers| {
            description = answers.into_iter().next().map(|answer| answer.answer);
            Ok(())
        })?;
        Ok(description)
    }

    fn score(&self, questions: &QuestionFile, subjects: &[Subject<'_>]) -> Result<Vec<ResultRow>> {
        let questions: Vec<Question> = questions.read()?.collect::<Result<_>>()?;
        let answers =
            subjects.iter().map(|subject| answer::read(&subject.answers)).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::new();
        for (benchmark, _) in self.benchmarks {
            let questions: Vec<&Question> =
                questions.iter().filter(|question| question.benchmark == benchmark.name).collect();
            for prompting in self.prompting {
                for scorer in self.scorers {
                    let metrics = subjects.iter().zip(&answers).map(|(subject, answers)| {
                        let stored = questions.iter().map(|question| {
                            let answer = answers.get(&answer_id(question, *prompting));
                            StoredAnswer {
                                question,
                                answer: answer.map(|answer| answer.answer.as_str()),
                                description: answer.and_then(|answer| answer.description.as_deref()),
                                replies: &[],
                            }
                        });
                        let metrics = benchmark.metrics(*scorer, &stored.collect::<Vec<_>>())?;
                        Ok(SubjectMetrics { subject: subject.name, metrics })
                    });
                    let metrics = metrics.collect::<Result<Vec<_>>>()?;
                    rows.extend(results::rows(benchmark.name, prompting.name(), *scorer, &metrics));
                }
            }
        }
        Ok(rows)
    }
}

/// 16 bytes for an answer, so that a set of them is small.
fn fingerprint(id: &str) -> u128 {
    u128::from_str_radix(&Digest::of(id.as_bytes()).short(32), 16).unwrap_or_default()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::storage(path)(error)),
        _ => Ok(()),
    }
}

/// Groups questions about the same image, which follow each other. A question without an image is a group of its own.
fn by_image(
    questions: impl Iterator<Item = Result<(Question, Vec<Prompting>)>>,
) -> impl Iterator<Item = Result<ImageQuestions>> {
    let mut questions = questions.peekable();
    std::iter::from_fn(move || {
        let (first, prompting) = match questions.next()? {
            Ok(question) => question,
            Err(error) => return Some(Err(error)),
        };
        let image = first.image.clone();
        let key = format!("{}/{}", first.benchmark, first.id);
        let mut group = ImageQuestions { key, missing: Vec::new() };
        group.missing.extend(prompting.into_iter().map(|prompting| (first.clone(), prompting)));
        let mut grouped = 1;
        while image.is_some() && grouped < QUESTIONS_AT_ONCE {
            let same = |next: &Result<(Question, Vec<Prompting>)>| matches!(next, Ok((question, _)) if question.image == image);
            let Some(Ok((question, prompting))) = questions.next_if(same) else { break };
            group.missing.extend(prompting.into_iter().map(|prompting| (question.clone(), prompting)));
            grouped += 1;
        }
        Some(Ok(group))
    })
}
