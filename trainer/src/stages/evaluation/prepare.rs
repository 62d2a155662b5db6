//! `prepare` of an evaluation: checks and digests models, adapters and benchmarks, and says what the run can show. Needs no
//! GPU.

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};

use serde_json::json;
use stic_contract::artifact::SKIPPED_FILE;
use stic_contract::evaluation::{BenchmarkInput, PrepareEvaluation, Scorer};
use stic_contract::result::{ItemCounts, SubjectDigests};
use stic_contract::{Artifact, ArtifactKind, Digest, RunIdentity, StepName, StepResult};
use stic_evaluation::benchmarks::Options;
use stic_evaluation::registry::{RegisteredBenchmark, Selection};

use super::super::context::{Execution, StepContext};
use super::super::disk_space::Requirement;
use super::questions::{QuestionsReport, images};
use super::subjects::{self, BaseModel};
use super::{answer_files, gpu_memory};
use crate::benchmarks::{
    BenchmarkFolder, BenchmarkReport, ImageWriter, LargestQuestion, QuestionCheck, QuestionFile,
    QuestionReader, SkippedRows, answer_tokens,
};
use crate::device;
use crate::error::{Error, Result};
use crate::io::artifact::Output;
use crate::io::progress::Reporter;
use crate::io::{atomic, file_digest, journal};

pub(crate) fn run(task: &PrepareEvaluation, execution: Execution<'_>) -> Result<StepResult> {
    let Execution { config, devices: _, context, output, reporter } = execution;
    if task.bf16_on_cpu && cfg!(not(feature = "cuda")) {
        device::warn_of_slow(task.recipe.precision);
    }
    let folders = folders(task, context)?;
    let (models, subjects) = subjects::check(task, context, reporter)?;
    let read = read_questions(task, &config.run, &folders, &models, context, output, reporter)?;
    let questions = read.questions();
    let report = QuestionsReport { benchmarks: &read.benchmarks, largest: read.largest };
    let facts = serde_json::to_value(&report).map_err(|e| Error::Data(e.to_string()))?;
    let [rows, skipped] =
        [ArtifactKind::Questions.payload_file(), SKIPPED_FILE].map(|name| output.partial().join(name));
    let key = json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "questions": file_digest(&rows)?,
        "skipped": file_digest(&skipped)?,
        "report": Digest::of_json(&facts),
    });
    let file = QuestionFile::new(&rows, images(output));
    require_space(task, &file, output)?;
    let message = message(task, &models, &read, &file)?;
    let draft = output.begin(ArtifactKind::Questions, key)?;
    for file in [&rows, &skipped] {
        atomic::rename(file, &draft.dir.join(file.file_name().unwrap_or_default()))?;
    }
    atomic::write(&draft.dir.join("report.json"), format!("{facts:#}\n").as_bytes())?;
    let prepared = output.finish(draft, StepName::Prepare, facts)?;
    let sealed = find_answers(task, &prepared.digest, &subjects, output)?;
    Ok(StepResult {
        artifacts: std::iter::once(prepared).chain(sealed).collect(),
        subjects,
        items: Some(ItemCounts { total: questions + read.skipped, done: questions, skipped: read.skipped }),
        message: Some(message),
        ..StepResult::new(StepName::Prepare)
    })
}

/// The folders of the benchmarks, which must exist.
fn folders(task: &PrepareEvaluation, context: &StepContext) -> Result<Vec<BenchmarkFolder>> {
    let folder = |input: &BenchmarkInput| {
        let BenchmarkInput { name, location, limit, ocr_tokens } = input;
        let field = format!("spec.benchmarks[{name}].data");
        Ok(BenchmarkFolder {
            benchmark: RegisteredBenchmark::of_name(*name),
            folder: context.volumes.folder(location, &field, Error::Config, "correct the path")?,
            selection: Selection {
                options: Options { ocr_tokens: *ocr_tokens },
                limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            },
        })
    };
    task.benchmarks.iter().map(folder).collect()
}

/// What was read.
struct ReadQuestions {
    benchmarks: Vec<BenchmarkReport>,
    largest: LargestQuestion,
    skipped: u64,
}

impl ReadQuestions {
    fn questions(&self) -> u64 {
        self.benchmarks.iter().map(|benchmark| benchmark.questions).sum()
    }
}

/// Writes the questions and what was skipped to the folder of unfinished work, and the images to the store.
fn read_questions(
    task: &PrepareEvaluation,
    run: &RunIdentity,
    folders: &[BenchmarkFolder],
    models: &[BaseModel],
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
) -> Result<ReadQuestions> {
    let writer = ImageWriter::new(images(output), format!("{}-{}", run.uid, run.rerun))?;
    let checks = models.iter().map(|BaseModel { subject, files, encoder, .. }| {
        let name = if models.len() == 1 { "the model".to_owned() } else { format!("the model of {subject}") };
        QuestionCheck::new(name, files, encoder, &task.recipe)
    });
    let mut reader = QuestionReader::new(output.partial(), writer, checks.collect(), &context.cancellation);
    reporter.begin("reading benchmarks", "benchmarks", 0, folders.len() as u64)?;
    let mut rows = SkippedRows::default();
    let path = output.partial().join(SKIPPED_FILE);
    let benchmarks = atomic::write_with(&path, |file| {
        let mut out = BufWriter::new(file);
        let mut benchmarks = Vec::new();
        for folder in folders {
            let read = reader.read(folder, &mut |row| {
                rows.add(&row);
                journal::write_row(&mut out, &path, &row)
            });
            benchmarks.push(read.map_err(|error| in_benchmark(error, folder))?);
            reporter.advance(1)?;
        }
        out.flush().map_err(Error::storage(&path))?;
        Ok(benchmarks)
    })?;
    rows.accept(task.on_unreadable, "spec.onUnreadable: Skip")?;
    let skipped = rows.count() as u64;
    let read = ReadQuestions { benchmarks, largest: LargestQuestion::default(), skipped };
    if read.questions() == 0 {
        return Err(Error::Data(format!(
            "none of the {skipped} rows can be used{}; correct the rows",
            rows.first().map_or_else(String::new, |first| format!(" (the first: {first})"))
        )));
    }
    let checks = reader.write(&output.partial().join(ArtifactKind::Questions.payload_file()))?;
    let largest = checks.iter().map(|check| check.largest).fold(read.largest, LargestQuestion::max);
    Ok(ReadQuestions { largest, ..read })
}

/// Of the journals of answers, and of the answers that are sealed from them.
fn require_space(task: &PrepareEvaluation, questions: &QuestionFile, output: &Output) -> Result<()> {
    let (mut answers, mut tokens) = (0, 0);
    let subjects = task.subjects.len() as u64;
    for question in questions.read() {
        let question = question?;
        for prompting in &task.recipe.prompting {
            answers += subjects;
            tokens += subjects * answer_tokens(&question, *prompting, &task.recipe);
        }
    }
    Requirement::of_answers(2 * answers, 2 * tokens).check("the run", output.root())
}

/// The same error with the field that names the benchmark's files.
fn in_benchmark(error: Error, folder: &BenchmarkFolder) -> Error {
    error.in_row(&format!("spec.benchmarks[{}].data", folder.benchmark.name))
}

/// The answers of an earlier run that this one can reuse as they are.
fn find_answers(
    task: &PrepareEvaluation,
    questions: &Digest,
    subjects: &[SubjectDigests],
    output: &Output,
) -> Result<Option<Artifact>> {
    let key = answer_files::sealed_key(questions, subjects, &task.recipe);
    output.find(&output.name(ArtifactKind::Answers, &key))
}

/// What the run asks and can show. What matters most comes first, because it may be cut.
fn message(
    task: &PrepareEvaluation,
    models: &[BaseModel],
    read: &ReadQuestions,
    questions: &QuestionFile,
) -> Result<String> {
    let compares = task.subjects.len() > 1;
    let benchmark = |report: &BenchmarkReport| {
        let BenchmarkReport { benchmark, questions, smallest_difference, .. } = report;
        match smallest_difference.filter(|_| compares) {
            Some(points) => format!("{benchmark} {questions} (can show differences from {points:.1} points)"),
            None => format!("{benchmark} {questions}"),
        }
    };
    let of_each: Vec<_> = read.benchmarks.iter().map(benchmark).collect();
    let mut message = format!("{} questions: {}", read.questions(), of_each.join(", "));
    match read.skipped {
        0 => {}
        1 => message += &format!("; 1 row was left out, see {SKIPPED_FILE}"),
        skipped => {
            let _ = write!(message, "; {skipped} rows were left out, see {SKIPPED_FILE}");
        }
    }
    if !task.has_judge {
        message += &without_judge(&task.scorers, questions)?;
    }
    if let Some(memory) = gpu_memory::report(task, models, read.largest).filter(|_| task.uses_gpu) {
        let _ = write!(message, "; {memory}");
    }
    message += &unpublished(&read.benchmarks);
    Ok(message)
}

/// Which benchmarks have no score, or one by rules alone.
fn without_judge(scorers: &[Scorer], questions: &QuestionFile) -> Result<String> {
    let (mut seen, mut unscored, mut by_rules) = (Vec::new(), Vec::new(), Vec::new());
    for question in questions.read() {
        let question = question?;
        let benchmark = RegisteredBenchmark::of_name(question.benchmark);
        if !benchmark.judged || seen.contains(&question.benchmark) {
            continue;
        }
        seen.push(question.benchmark);
        let mut without = Vec::new();
        for scorer in scorers {
            if benchmark.needs_judge(*scorer, &question)? {
                without.push(scorer.as_str());
            }
        }
        match without.len() {
            0 => by_rules.push(question.benchmark.to_string()),
            all if all == scorers.len() => unscored.push(question.benchmark.to_string()),
            _ => unscored.push(format!("{} by {}", question.benchmark, without.join(" and "))),
        }
    }
    let mut text = String::new();
    if !unscored.is_empty() {
        let _ = write!(text, "; no score without spec.judge: {}", unscored.join(", "));
    }
    if !by_rules.is_empty() {
        let _ = write!(
            text,
            "; answers that no rule understands count as wrong without spec.judge: {}",
            by_rules.join(", ")
        );
    }
    Ok(text)
}

/// The files that are not the published ones.
fn unpublished(benchmarks: &[BenchmarkReport]) -> String {
    let differing = benchmarks.iter().flat_map(|report| {
        let files = report.files.iter().filter(|file| file.published == Some(false));
        files.map(|file| format!("{}/{}", report.benchmark, file.file.display()))
    });
    let files: Vec<String> = differing.collect();
    if files.is_empty() {
        return String::new();
    }
    format!(
        "; not the published files, so that scores may not compare with published ones: {}",
        files.join(", ")
    )
}
