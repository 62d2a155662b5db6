//! `score`: seals the answers, scores them, and compares the models. Needs no GPU, and no network.

use serde_json::json;
use stic_contract::evaluation::Score;
use stic_contract::result::{BenchmarkScores, ItemCounts, MAX_RESULT_BYTES, SubjectScore};
use stic_contract::{Artifact, ArtifactKind, RunConfig, StepName, StepResult};
use stic_evaluation::results::{self, ResultRow};

use super::super::context::{Execution, StepContext};
use super::answer_files::{digests, open_journals, open_sealed, sealed_key};
use super::judgements::SealedJudgements;
use super::questions::PreparedQuestions;
use crate::benchmarks::{Judgements, Scoring, benchmarks_of, seal};
use crate::error::{Error, Result};
use crate::io::artifact::{Output, open_input};
use crate::io::atomic;

pub(crate) fn run(task: &Score, execution: Execution<'_>) -> Result<StepResult> {
    let Execution { config, devices: _, context, output, reporter } = execution;
    let questions = PreparedQuestions::open(&context.volumes, &task.questions, output)?;
    let names: Vec<&str> = task.subjects.iter().map(|subject| subject.name.as_str()).collect();
    let benchmarks = benchmarks_of(&questions.file)?;
    reporter.begin("scoring", "benchmarks", 0, benchmarks.len() as u64)?;
    let sealed = seal_answers(task, config, &questions, output)?;
    let answers = open_sealed(&context.volumes.resolve(&sealed.location)?, &task.subjects)?;
    let judgements = judgements(task, context)?;
    let scoring = Scoring {
        questions: &questions.file,
        subjects: &names,
        prompting: &task.recipe.prompting,
        scorers: &task.scorers,
        answers: &answers,
        judgements: judgements.as_ref().map(|judgements| judgements as &dyn Judgements),
    };
    let mut rows = Vec::new();
    for benchmark in &benchmarks {
        context.cancellation.check()?;
        rows.extend(scoring.rows([*benchmark])?);
        reporter.advance(1)?;
    }
    let results = write_results(task, &sealed, &rows, output)?;
    let answers = questions.file.read().count() as u64 * (names.len() * task.recipe.prompting.len()) as u64;
    Ok(with_scores(
        StepResult {
            artifacts: vec![sealed, results],
            items: Some(ItemCounts { total: answers, done: answers, skipped: 0 }),
            ..StepResult::new(StepName::Score)
        },
        headlines(&rows),
    ))
}

/// What the judge said, if one was asked.
fn judgements(task: &Score, context: &StepContext) -> Result<Option<SealedJudgements>> {
    let Some(reference) = &task.judgements else { return Ok(None) };
    let dir = open_input(&context.volumes, reference)?;
    SealedJudgements::open(&dir.join(ArtifactKind::Judgements.payload_file()), &task.subjects).map(Some)
}

/// The answers as an artifact, which may be there already.
fn seal_answers(
    task: &Score,
    config: &RunConfig,
    questions: &PreparedQuestions,
    output: &Output,
) -> Result<Artifact> {
    let key = sealed_key(&task.questions.digest, &digests(&task.subjects), &task.recipe);
    if let Some(sealed) = output.find(&output.name(ArtifactKind::Answers, &key))? {
        return Ok(sealed);
    }
    let answers = open_journals(&task.subjects, &task.recipe, &config.run, output)?;
    let draft = output.begin(ArtifactKind::Answers, key)?;
    let path = draft.dir.join(ArtifactKind::Answers.payload_file());
    let names: Vec<&str> = task.subjects.iter().map(|subject| subject.name.as_str()).collect();
    let count = seal(&path, &questions.file, &names, &task.recipe.prompting, &answers)?;
    output.finish(draft, StepName::Score, json!({"answers": count}))
}

fn write_results(task: &Score, answers: &Artifact, rows: &[ResultRow], output: &Output) -> Result<Artifact> {
    let key = json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "questions": task.questions.digest,
        "answers": answers.digest,
        "judgements": task.judgements.as_ref().map(|judgements| &judgements.digest),
        "scorers": task.scorers,
    });
    let draft = output.begin(ArtifactKind::Results, key)?;
    let json = serde_json::to_vec_pretty(rows).map_err(|e| Error::Data(e.to_string()))?;
    atomic::write(&draft.dir.join(ArtifactKind::Results.payload_file()), &json)?;
    for companion in ArtifactKind::Results.spec().companions {
        atomic::write(&draft.dir.join(companion), results::csv(rows).as_bytes())?;
    }
    output.finish(draft, StepName::Score, json!({"rows": rows.len()}))
}

/// The headline of each benchmark, way of asking and scorer, for all subjects. The first metric is the headline.
fn headlines(rows: &[ResultRow]) -> Vec<BenchmarkScores> {
    let group = |row: &ResultRow| (row.benchmark, row.prompting, row.scorer);
    let groups = rows.chunk_by(|a, b| group(a) == group(b));
    let headline = |rows: &[ResultRow]| {
        let first = rows.first()?;
        let of = rows.iter().filter(|row| row.metric == first.metric).map(subject_score).collect();
        Some(BenchmarkScores {
            benchmark: first.benchmark,
            prompting: first.prompting,
            scorer: first.scorer,
            of,
        })
    };
    groups.filter_map(headline).collect()
}

fn subject_score(row: &ResultRow) -> SubjectScore {
    let ResultRow { score, difference, .. } = row;
    let rounded = |points: f64| format!("{points:.1}");
    let difference = difference.as_ref().and_then(|difference| difference.estimate);
    SubjectScore {
        points: score.estimate.map(|estimate| rounded(estimate.points)),
        standard_error: score.estimate.and_then(|estimate| estimate.standard_error).map(rounded),
        counted: score.counted as u64,
        unresolved: score.unresolved as u64,
        judge_failed: score.failed as u64,
        difference: difference.map(|of| [of.points, of.low, of.high].map(|points| format!("{points:+.1}"))),
    }
}

/// The result with as many scores as it has room for.
fn with_scores(result: StepResult, mut scores: Vec<BenchmarkScores>) -> StepResult {
    let all = scores.len();
    loop {
        let message = (scores.len() < all)
            .then(|| format!("{} of {all} scores are shown here; results.csv has all of them", scores.len()));
        let result = StepResult { scores: scores.clone(), message, ..result.clone() };
        let bytes = serde_json::to_string(&result).map_or(0, |text| text.len());
        if bytes <= MAX_RESULT_BYTES || scores.pop().is_none() {
            return result;
        }
    }
}
