//! Asks every model every question, and compares the models on the same answers: all in one process and one folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::json;
use stic_contract::Digest;
use stic_contract::evaluation::{AskingRecipe, Scorer};
use stic_contract::recipe::{ImageLayout, OnUnreadable};
use stic_evaluation::results::{self, ResultRow};

use super::answer::answers_key;
use super::answering::{AnsweredQuestions, Asking, AskingMemory, Respondent};
use super::answers::JournalledAnswers;
use super::image_store::{ImageStore, ImageWriter};
use super::question_check::{LargestQuestion, QuestionCheck};
use super::question_file::QuestionFile;
use super::question_reader::{BenchmarkFolder, QuestionReader};
use super::scoring::Scoring;
use super::skipped_rows::SkippedRows;
use crate::cancellation::CancellationToken;
use crate::checkpoint::adapter::{self, TrainedProjector};
use crate::data::encode::Encoder;
use crate::device;
use crate::error::{Error, Result};
use crate::inference::{ModelFiles, Vlm};
use crate::io::atomic;
use crate::io::lock::StepLock;
use crate::model::digest::DigestedFiles;

/// The name of the model without an adapter.
pub const BASE: &str = "base";

/// What to evaluate, and where.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub benchmarks: &'a [BenchmarkFolder],
    /// What becomes of rows that cannot be used.
    pub on_unreadable: OnUnreadable,
    pub recipe: AskingRecipe,
    pub scorers: &'a [Scorer],
    pub model: &'a Path,
    /// Adapters to compare with the base model, by name.
    pub adapters: &'a [(String, PathBuf)],
    /// The folder of questions, answers and results. Answers that are there already are kept.
    pub output: &'a Path,
    pub cancellation: &'a CancellationToken,
}

/// A model to evaluate: the base, or the base with an adapter.
struct Subject<'a> {
    name: &'a str,
    adapter: Option<&'a Path>,
    /// The journal of its answers. Its name contains the digest of all that decides them besides the questions.
    answers: PathBuf,
}

impl AsRef<str> for Subject<'_> {
    fn as_ref(&self) -> &str {
        self.name
    }
}

impl Evaluation<'_> {
    /// Asks everything that `output` has no answers to yet, writes `results.json` and `results.csv`, and returns the rows.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder, row or image that cannot be used; [`Error::Interrupted`], after which the next run
    /// resumes.
    pub fn run(&self) -> Result<Vec<ResultRow>> {
        for BenchmarkFolder { benchmark, .. } in self.benchmarks.iter().filter(|from| from.benchmark.judged) {
            tracing::warn!(
                benchmark = benchmark.name.as_str(),
                "its answers are kept, but those that only a judge can score have no score: this command asks no judge"
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
        let encoder = files.encoder(self.recipe.chat_template)?;
        let (questions, largest) = self.read_questions(&files, &encoder)?;
        let vlm = Vlm::with_files(files, self.recipe.precision, &device::first()?)?;
        let subjects = self.subjects()?;
        self.write_subjects(&subjects)?;
        let mut answers = JournalledAnswers::default();
        for subject in &subjects {
            self.answer(&questions, largest, subject, &vlm, &encoder)?;
            answers.add_subject(&[&subject.answers])?;
        }
        let scoring = Scoring {
            questions: &questions,
            subjects: &subjects,
            prompting: &self.recipe.prompting,
            scorers: self.scorers,
            answers: &answers,
            judgements: None,
        };
        let rows = scoring.rows(self.benchmarks.iter().map(|from| from.benchmark.name))?;
        let json = serde_json::to_vec_pretty(&rows).map_err(|e| Error::Data(e.to_string()))?;
        let [json_file, csv_file] = &results;
        atomic::write(json_file, &json)?;
        atomic::write(csv_file, results::csv(&rows).as_bytes())?;
        Ok(rows)
    }

    fn read_questions(
        &self,
        files: &ModelFiles,
        encoder: &Encoder,
    ) -> Result<(QuestionFile, LargestQuestion)> {
        let images = ImageStore::new(self.output.join("images"));
        let writer = ImageWriter::new(images.clone(), "partial".into())?;
        let check = QuestionCheck::new("the model".into(), files, encoder, &self.recipe);
        let mut reader = QuestionReader::new(self.output, writer, vec![check], self.cancellation);
        let mut skipped = SkippedRows::default();
        let mut count = 0;
        for from in self.benchmarks {
            count += reader
                .read(from, &mut |row| {
                    skipped.add(&row);
                    Ok(())
                })?
                .questions;
        }
        skipped.accept(self.on_unreadable, "--on-unreadable skip")?;
        if count == 0 {
            return Err(Error::Data("no question was selected; raise --limit, or correct the rows".into()));
        }
        let path = self.output.join("questions.jsonl");
        let checks = reader.write(&path)?;
        let largest =
            checks.iter().map(|check| check.largest).fold(LargestQuestion::default(), LargestQuestion::max);
        Ok((QuestionFile::new(&path, images), largest))
    }

    fn subjects(&self) -> Result<Vec<Subject<'_>>> {
        let model = DigestedFiles::find(self.model)?.digest(|_| self.cancellation.check())?;
        let subject = |name, adapter: Option<&_>| {
            let digest = adapter.map(|dir: &&Path| adapter::digest(dir)).transpose()?;
            let key = Digest::of_json(&answers_key(&model, digest.as_ref(), &self.recipe));
            let answers = self.output.join(format!("answers-{}.jsonl", key.short(16)));
            Ok(Subject { name, adapter: adapter.copied(), answers })
        };
        let adapters = self.adapters.iter().map(|(name, dir)| subject(name.as_str(), Some(&dir.as_path())));
        std::iter::once(subject(BASE, None)).chain(adapters).collect()
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
        let asking =
            Asking { questions, recipe: &self.recipe, shard: 0, shards: 1, cancellation: self.cancellation };
        let mut answered = AnsweredQuestions::open::<&Path>(&subject.answers, &[])?;
        let missing = asking.count(&answered)?.missing;
        if missing == 0 {
            return Ok(());
        }
        tracing::info!(subject = subject.name, questions = missing, "answering");
        let adapter =
            subject.adapter.map(|dir| vlm.load_adapter(dir, TrainedProjector::Refuse)).transpose()?;
        let memory = AskingMemory { largest, batch_size: 0, reduced: false };
        asking.ask(&[Respondent { vlm, encoder, adapter }], memory, missing, &mut answered, |_| Ok(()))
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::storage(path)(error)),
        _ => Ok(()),
    }
}
