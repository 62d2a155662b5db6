//! Reads the questions of benchmarks from the files that are published, checks them, and orders them by image.

use std::io::{BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stic_contract::Digest;
use stic_contract::evaluation::BenchmarkName;
use stic_evaluation::published::{FileDigest, Identity};
use stic_evaluation::questions::{LoadedImage, Summary};
use stic_evaluation::registry::{Data, Question, RegisteredBenchmark, Selection};
use stic_evaluation::statistics::{Expectation, smallest_detectable_difference};

use super::image_store::ImageWriter;
use super::question_check::QuestionCheck;
use crate::cancellation::CancellationToken;
use crate::data::template::strip_image_placeholder;
use crate::error::{Error, Result};
use crate::external_sort::ExternalSorter;
use crate::io::{atomic, journal};

/// A benchmark, the folder that holds it as published, and which of its questions are asked.
#[derive(Debug, Clone)]
pub struct BenchmarkFolder {
    pub benchmark: &'static RegisteredBenchmark,
    pub folder: PathBuf,
    pub selection: Selection,
}

/// A row that cannot be used.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedRow {
    pub benchmark: BenchmarkName,
    /// What is wrong with it, with its file and row.
    pub reason: String,
}

/// What was read of a benchmark.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchmarkReport {
    pub benchmark: BenchmarkName,
    /// The published form that its folder holds.
    pub form: &'static str,
    pub files: Vec<FileReport>,
    /// The questions that are asked.
    pub questions: u64,
    /// The rows that are not, because they cannot be used.
    pub skipped: u64,
    /// The different images of the questions.
    pub images: usize,
    /// The smallest difference between two models, in points, that these questions can be expected to show. Absent where
    /// nothing is known of how much answers differ.
    pub smallest_difference: Option<f64>,
}

/// A file of a benchmark.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileReport {
    /// Relative to the benchmark's folder.
    pub file: PathBuf,
    pub bytes: u64,
    pub sha256: Digest,
    pub md5: String,
    /// Whether it is the published one. Absent if no digest of it is published.
    pub published: Option<bool>,
}

/// Reads questions until they are written to a file.
pub struct QuestionReader<'a> {
    sorter: ExternalSorter,
    images: ImageWriter,
    /// Of every model that is asked.
    checks: Vec<QuestionCheck<'a>>,
    cancellation: &'a CancellationToken,
}

impl<'a> QuestionReader<'a> {
    /// `scratch` is a folder for temporary files.
    #[must_use]
    pub fn new(
        scratch: &Path,
        images: ImageWriter,
        checks: Vec<QuestionCheck<'a>>,
        cancellation: &'a CancellationToken,
    ) -> Self {
        Self { sorter: ExternalSorter::new(scratch), images, checks, cancellation }
    }

    /// Reads the questions of a benchmark, and passes each row that cannot be used to `skip`.
    ///
    /// # Errors
    /// [`Error::Data`] naming folder or file; [`Error::Storage`]; the first error of `skip`.
    pub fn read(
        &mut self,
        from: &BenchmarkFolder,
        skip: &mut dyn FnMut(SkippedRow) -> Result<()>,
    ) -> Result<BenchmarkReport> {
        let BenchmarkFolder { benchmark, folder, selection } = from;
        let (mut failed, mut questions, mut skipped) = (None, 0, 0);
        let data = benchmark.read(folder, selection, &mut |read| {
            let usable = read.map_err(|problem| problem.to_string()).and_then(|(question, image)| {
                let question = self.check(question, image.as_ref())?;
                Ok((question, image))
            });
            let added = match usable {
                Ok((question, image)) => {
                    questions += 1;
                    self.add(&question, image.as_ref())
                }
                Err(reason) => {
                    skipped += 1;
                    skip(SkippedRow { benchmark: benchmark.name, reason })
                }
            };
            failed = self.cancellation.check().and(added).err();
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(()), Err)?;
        log(benchmark.name, &data);
        Ok(report(from, data, questions, skipped))
    }

    fn check(&mut self, question: Question, image: Option<&LoadedImage>) -> Result<Question, String> {
        // The template places the image.
        let prompt = strip_image_placeholder(&question.prompt);
        let question = Question { prompt, ..question };
        for check in &mut self.checks {
            check.check(&question, image).map_err(|reason| format!("{}: {reason}", question.place))?;
        }
        Ok(question)
    }

    fn add(&mut self, question: &Question, image: Option<&LoadedImage>) -> Result<()> {
        image.map_or(Ok(()), |image| self.images.add(image))?;
        let key = question.image.as_ref().map_or_else(String::new, Digest::to_string).into_bytes();
        let mut row = Vec::new();
        journal::write_row(&mut row, Path::new(""), question)?;
        self.sorter.push(key, row)
    }

    /// Writes all questions to `path`, and returns what the models' checks found.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn write(self, path: &Path) -> Result<Vec<QuestionCheck<'a>>> {
        let rows = self.sorter.sorted()?;
        atomic::write_with(path, |file| {
            let mut out = BufWriter::new(file);
            for row in rows {
                let (_, row) = row?;
                out.write_all(&row).map_err(Error::storage(path))?;
            }
            out.flush().map_err(Error::storage(path))
        })?;
        Ok(self.checks)
    }
}

fn report(from: &BenchmarkFolder, data: Data, questions: u64, skipped: u64) -> BenchmarkReport {
    let BenchmarkFolder { benchmark, folder, .. } = from;
    let Data { form, files, summary } = data;
    let file = |FileDigest { file, bytes, md5, sha256, identity }: FileDigest| FileReport {
        file: file.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(file),
        bytes,
        sha256,
        md5,
        published: match identity {
            Identity::Published => Some(true),
            Identity::Differs { .. } => Some(false),
            Identity::Unlisted => None,
        },
    };
    let Summary { units, clusters, images, .. } = summary;
    let detectable = Expectation::assumed(benchmark.name)
        .and_then(|expectation| smallest_detectable_difference(units, clusters.min(units), expectation));
    BenchmarkReport {
        benchmark: benchmark.name,
        form: form.title,
        files: files.into_iter().map(file).collect(),
        questions,
        skipped,
        images,
        smallest_difference: detectable.and_then(|detectable| detectable.difference),
    }
}

fn log(benchmark: BenchmarkName, data: &Data) {
    let Data { form, files, summary } = data;
    let benchmark = benchmark.as_str();
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
