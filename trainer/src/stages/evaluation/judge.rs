//! `judge`: a model behind an API reads the answers that no rule can score. Needs the network, and no GPU.

use std::path::Path;

use serde_json::{Value, json};
use stic_contract::evaluation::{JUDGE_API_KEY, JUDGEMENTS_DIR, Judge as JudgeTask, JudgeEndpoint};
use stic_contract::result::ItemCounts;
use stic_contract::{ArtifactKind, Digest, RunIdentity, StepName, StepResult};
use stic_evaluation::registry::RegisteredBenchmark;

use super::super::context::Execution;
use super::answer_files;
use super::cases::{Cases, JudgedBenchmark};
use super::journal_folder::JournalFolder;
use super::questions::PreparedQuestions;
use crate::benchmarks::{QuestionFile, benchmarks_of};
use crate::error::{Error, Result};
use crate::io::artifact::Output;
use crate::io::atomic;
use crate::io::journal::Journal;
use crate::judging::{Budget, Ended, Judge, JudgeReply, Patience, Prompt, api_key};

/// The version of the protocols of all benchmarks: what is asked after which reply.
const PROTOCOL: u32 = 1;

pub(crate) fn run(task: &JudgeTask, execution: Execution<'_>) -> Result<StepResult> {
    let Execution { config, devices: _, context, output, reporter } = execution;
    let key = api_key(&task.endpoint, std::env::var(JUDGE_API_KEY).ok())?;
    let questions = PreparedQuestions::open(&context.volumes, &task.questions, output)?;
    let prompts = context.volumes.folder(
        &task.prompts,
        "spec.judge.promptsConfigMapRef",
        Error::Config,
        "create the ConfigMap",
    )?;
    let benchmarks = judged_benchmarks(task, &questions.file, &prompts, &config.run, output)?;
    let answers =
        answer_files::open(&task.questions.digest, &task.subjects, &task.recipe, &config.run, output)?;
    let cases = Cases {
        questions: &questions.file,
        subjects: &task.subjects,
        prompting: &task.recipe.prompting,
        repeats: task.endpoint.repeats,
        answers: &*answers,
        benchmarks: &benchmarks,
    };
    let survey = cases.survey()?;
    reporter.begin("judging", "answers", survey.total - survey.open, survey.total)?;

    let folder = output.root().join(JUDGEMENTS_DIR);
    atomic::create_dir(&folder)?;
    let sent = folder.join(format!("{}-{}.requests.json", config.run.uid, config.run.rerun));
    let budget = Budget::open(&sent, task.endpoint.max_requests)?;
    let judge = Judge::new(&task.endpoint, key, budget, Patience::default(), &context.cancellation);
    let mut settled = 0;
    for benchmark in &benchmarks {
        let exchanges = benchmark.exchanges()?;
        let journal = Journal::open::<JudgeReply>(&benchmark.folder.create(0)?, |_| Ok(()))?;
        let ended = exchanges.ask(&judge, cases.of(benchmark.benchmark.name), journal, || {
            settled += 1;
            reporter.advance(1)
        })?;
        if ended == Ended::BudgetUsed {
            return Err(budget_used(&task.endpoint, survey.open - settled));
        }
    }
    let draft = output.begin(ArtifactKind::Judgements, artifact_key(task, &benchmarks, &survey.answers))?;
    let failed = cases.seal(&draft.dir.join(ArtifactKind::Judgements.payload_file()))?;
    let artifact =
        output.finish(draft, StepName::Judge, json!({"answers": survey.total, "failed": failed}))?;
    Ok(StepResult {
        artifacts: vec![artifact],
        items: Some(ItemCounts { total: survey.total, done: survey.total, skipped: 0 }),
        message: Some(format!(
            "{} judgements, {failed} without a score; the run has sent {} requests",
            survey.total,
            judge.sent()
        )),
        ..StepResult::new(StepName::Judge)
    })
}

fn budget_used(endpoint: &JudgeEndpoint, left: u64) -> Error {
    let most = endpoint.max_requests.unwrap_or_default();
    let left = if left == 1 { "1 answer is".to_owned() } else { format!("{left} answers are") };
    Error::JudgeStopped(format!(
        "the {most} requests of spec.judge.maxRequests are used up, and {left} not judged yet; raise spec.judge.maxRequests and spec.retry to continue. Answers and judgements are kept"
    ))
}

fn judged_benchmarks(
    task: &JudgeTask,
    questions: &QuestionFile,
    prompts: &Path,
    run: &RunIdentity,
    output: &Output,
) -> Result<Vec<JudgedBenchmark>> {
    let all = benchmarks_of(questions)?.into_iter().map(RegisteredBenchmark::of_name);
    let judged = all.filter(|benchmark| benchmark.judged).map(|benchmark| {
        let prompt = Prompt::read(prompts, benchmark)?;
        let key = json!({
            "protocol": PROTOCOL,
            "url": task.endpoint.url,
            "model": task.endpoint.model,
            "benchmark": benchmark.name,
            "prompt": prompt.digest,
        });
        let folder = JournalFolder::new(&output.root().join(JUDGEMENTS_DIR), key, run);
        Ok(JudgedBenchmark { benchmark, prompt, folder })
    });
    judged.collect()
}

/// What the artifact is made from. `answers` is a digest of all answers that are judged.
fn artifact_key(task: &JudgeTask, benchmarks: &[JudgedBenchmark], answers: &Digest) -> Value {
    let prompts: Vec<_> =
        benchmarks.iter().map(|judged| json!([judged.benchmark.name, judged.prompt.digest])).collect();
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "protocol": PROTOCOL,
        "questions": task.questions.digest,
        "subjects": answer_files::digests(&task.subjects),
        "answers": answers,
        "url": task.endpoint.url,
        "model": task.endpoint.model,
        "repeats": task.endpoint.repeats,
        "prompts": prompts,
    })
}
