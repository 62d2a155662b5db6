//! The questions of an evaluation in a file, ordered by image, and the images beside them.

use std::collections::HashSet;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use stic_contract::Digest;
use stic_evaluation::published::Identity;
use stic_evaluation::questions::LoadedImage;
use stic_evaluation::registry::{Data, Question, RegisteredBenchmark, Selection};

use super::question_check::QuestionCheck;
use crate::cancellation::CancellationToken;
use crate::data::image::{self as image_file, ImageLimits};
use crate::data::template::strip_image_placeholder;
use crate::error::{Error, Result};
use crate::external_sort::ExternalSorter;
use crate::io::atomic;
use crate::io::journal::{self, Row};

/// How many rows that cannot be used are listed.
const LISTED: usize = 10;

impl Row for Question {
    fn id(&self) -> &str {
        &self.id
    }
}

/// `questions.jsonl` and the folder `images`.
#[derive(Debug)]
pub(super) struct QuestionFile {
    path: PathBuf,
    images: PathBuf,
    /// How many questions there are.
    pub(super) count: u64,
}

impl QuestionFile {
    /// Reads the questions of `benchmarks`, each from its folder, into `dir`. Rows that cannot be used are an error, unless
    /// they are to be left out; `check` says of each question whether it can be asked.
    ///
    /// # Errors
    /// [`Error::Data`] naming folder, file or row; [`Error::Storage`].
    pub(super) fn create(
        dir: &Path,
        benchmarks: &[(&'static RegisteredBenchmark, PathBuf)],
        selection: &Selection,
        leave_out: bool,
        check: &mut QuestionCheck<'_>,
        cancellation: &CancellationToken,
    ) -> Result<Self> {
        let mut questions = Self { count: 0, path: dir.join("questions.jsonl"), images: dir.join("images") };
        atomic::create_dir(&questions.images)?;
        let mut sorter = ExternalSorter::new(dir);
        let mut problems = Problems::default();
        let mut stored = HashSet::new();
        for (benchmark, folder) in benchmarks {
            let mut failed = None;
            let data = benchmark.read(folder, selection, &mut |read| {
                let usable = read.map_err(|problem| problem.to_string()).and_then(|(question, image)| {
                    // The template places the image.
                    let prompt = strip_image_placeholder(&question.prompt);
                    let question = Question { prompt, ..question };
                    let checked = check.check(&question, image.as_ref());
                    checked.map_err(|reason| format!("{}: {reason}", question.place))?;
                    Ok((question, image))
                });
                let added = match usable {
                    Ok((question, image)) => {
                        questions.add(&mut sorter, &mut stored, &question, image.as_ref())
                    }
                    Err(problem) => {
                        problems.push(format!("{}: {problem}", benchmark.name));
                        Ok(())
                    }
                };
                failed = cancellation.check().and(added).err();
                if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            failed.map_or(Ok(()), Err)?;
            report(benchmark.name, &data);
        }
        problems.end(leave_out)?;
        questions.count = sorter.count();
        if questions.count == 0 {
            return Err(Error::Data("no question was selected; raise --limit, or correct the rows".into()));
        }
        questions.write(sorter)?;
        Ok(questions)
    }

    /// Adds a question, and its image unless it is `stored`.
    fn add(
        &self,
        sorter: &mut ExternalSorter,
        stored: &mut HashSet<Digest>,
        question: &Question,
        image: Option<&LoadedImage>,
    ) -> Result<()> {
        if let Some(LoadedImage { bytes, digest }) = image {
            let path = self.image_path(digest);
            // What an earlier evaluation left is compared: a crash of the machine may have torn it.
            if stored.insert(digest.clone()) && !fs::read(&path).is_ok_and(|left| left == *bytes) {
                atomic::write_unsynced(&path, bytes)?;
            }
        }
        let key = question.image.as_ref().map_or_else(String::new, Digest::to_string).into_bytes();
        let mut row = Vec::new();
        journal::write_row(&mut row, &self.path, question)?;
        sorter.push(key, row)
    }

    fn write(&self, sorter: ExternalSorter) -> Result<()> {
        let rows = sorter.sorted()?;
        atomic::write_with(&self.path, |file| {
            let mut out = BufWriter::new(file);
            for row in rows {
                let (_, row) = row?;
                out.write_all(&row).map_err(Error::storage(&self.path))?;
            }
            out.flush().map_err(Error::storage(&self.path))
        })
    }

    /// All questions, one at a time, those about one image side by side.
    ///
    /// # Errors
    /// As [`journal::read`].
    pub(super) fn read(&self) -> Result<impl Iterator<Item = Result<Question>> + use<>> {
        journal::read(&self.path)
    }

    fn image_path(&self, digest: &Digest) -> PathBuf {
        self.images.join(digest.to_string().trim_start_matches("sha256:"))
    }

    /// The image of a question, if it has one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the question's row.
    pub(super) fn open_image(&self, question: &Question) -> Result<Option<RgbImage>> {
        let Some(digest) = &question.image else { return Ok(None) };
        let opened = image_file::open(&self.image_path(digest), &ImageLimits::default());
        opened
            .map(Some)
            .map_err(|e| Error::Data(format!("{}: its image cannot be used: {e}", question.place)))
    }
}

/// Rows that cannot be used.
#[derive(Default)]
struct Problems {
    count: usize,
    first: Vec<String>,
}

impl Problems {
    fn push(&mut self, problem: String) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(problem);
        }
    }

    fn end(self, leave_out: bool) -> Result<()> {
        let Self { count, first } = self;
        if count == 0 {
            return Ok(());
        }
        if leave_out {
            for problem in first {
                tracing::warn!("left out: {problem}");
            }
            tracing::warn!(rows = count, "left out rows that cannot be used");
            return Ok(());
        }
        let more =
            if count > first.len() { format!("\nand {} more", count - first.len()) } else { String::new() };
        Err(Error::Data(format!(
            "{}{more}\nCorrect these rows, or leave them out with --on-unreadable skip.",
            first.join("\n")
        )))
    }
}

fn report(benchmark: &str, data: &Data) {
    let Data { form, files, summary } = data;
    tracing::info!(
        benchmark,
        form = form.title,
        questions = summary.selected,
        of = summary.questions,
        images = summary.images,
        "read the questions"
    );
    for file in files {
        match file.identity {
            Identity::Unlisted if form.known.is_empty() => {}
            Identity::Published => tracing::info!(benchmark, "{file}"),
            Identity::Unlisted | Identity::Differs { .. } => tracing::warn!(benchmark, "{file}"),
        }
    }
}
