//! Evaluations: the runs that they wait for, their steps, their pods, and their scores.

use serde_json::{Value, json};
use stic_contract::evaluation::{JUDGE_API_KEY, JUDGE_PROMPTS};
use stic_contract::{ArtifactKind, Digest, RunKind, StepName, Task};
use stic_crds::{EvaluationRun, Reason, RunStatus, StageOneRun, StageTwoRun};
use stic_operator::build::job::{JobSettings, job};
use stic_operator::build::names::LaunchId;
use stic_operator::controllers::evaluation::validate;
use stic_operator::controllers::upstream::{Upstream, Upstreams};
use stic_operator::decide::decide;
use stic_operator::decision::{Decision, Verdict};
use stic_operator::snapshot::{Facts, Snapshot, StepOutcome, StepSnapshot, Steps};
use stic_operator::status::status;
use stic_operator::validated::{Hardware, Validated};
use stic_operator::{Refusal, controllers::status_results};

use crate::common::{EVALUATION, JUDGE, NOW, admitted, at, metadata, result_of, stage_one, stage_two};

fn evaluation(extra: &str) -> EvaluationRun {
    admitted("EvaluationRun", &format!("{EVALUATION}{extra}"), &metadata())
}

/// The status of a run that has trained an adapter on the model in `models/llava`.
fn trained(name: &str) -> RunStatus {
    let condition = json!({"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "",
        "lastTransitionTime": NOW});
    let adapter = json!({"kind": "Adapter", "volume": {"claimName": "stic", "path": name}, "sizeBytes": 1,
        "digest": Digest::of(name.as_bytes()), "step": "train", "state": "Created"});
    let model = json!({"volume": {"claimName": "models", "path": "llava"}, "digest": Digest::of(b"model")});
    let status = json!({"conditions": [condition], "artifacts": [adapter], "inputs": {"model": model}});
    serde_json::from_value(status).expect("a status")
}

fn resolved(
    run: &EvaluationRun,
    one: Option<&RunStatus>,
    two: Option<&RunStatus>,
) -> Result<Validated, Refusal> {
    let one: Option<StageOneRun> =
        one.map(|status| StageOneRun { status: Some(status.clone()), ..stage_one("") });
    let two: Option<StageTwoRun> =
        two.map(|status| StageTwoRun { status: Some(status.clone()), ..stage_two("") });
    let upstreams = Upstreams {
        stage_one: &|_| one.as_ref().map_or(Upstream::Missing, Upstream::Found),
        stage_two: &|_| two.as_ref().map_or(Upstream::Missing, Upstream::Found),
    };
    // The closures borrow the runs, which live as long as the call.
    validate(run, upstreams, Hardware::OfPods)
}

fn valid(extra: &str) -> Validated {
    resolved(&evaluation(extra), Some(&trained("one")), Some(&trained("two"))).expect("it is valid")
}

#[test]
fn it_waits_for_the_runs_that_it_names_and_pins_what_they_made() {
    let run = evaluation("");
    let waits = |one: Option<&RunStatus>, two: Option<&RunStatus>, wanted: Reason, text: &str| match resolved(
        &run, one, two,
    ) {
        Err(Refusal::Wait { reason, message }) => {
            assert_eq!(reason, wanted);
            assert!(message.contains(text), "{message}");
        }
        other => panic!("{other:?}"),
    };
    let (one, two) = (trained("one"), trained("two"));
    waits(None, Some(&two), Reason::StageOneNotSucceeded, "StageOneRun coco-6k does not exist");
    waits(Some(&one), None, Reason::StageTwoNotSucceeded, "StageTwoRun coco-6k does not exist");
    waits(
        Some(&one),
        Some(&RunStatus::default()),
        Reason::StageTwoNotSucceeded,
        "has not finished (phase Pending)",
    );
    let mut failed = trained("two");
    failed.conditions[0].status = "False".into();
    waits(Some(&one), Some(&failed), Reason::StageTwoFailed, "raise its spec.retry");

    let run = resolved(&run, Some(&one), Some(&two)).expect("both have succeeded");
    let subjects = &run.work.evaluation().expect("it evaluates").subjects;
    let adapters: Vec<_> = subjects
        .iter()
        .map(|subject| subject.adapter.as_ref().and_then(|adapter| adapter.digest.clone()))
        .collect();
    assert_eq!(adapters, [None, Some(Digest::of(b"one")), Some(Digest::of(b"two"))]);
    assert!(subjects.iter().all(|subject| subject.model.location.to_string() == "models:llava"));
    assert_eq!(
        subjects[1].model.digest,
        Some(Digest::of(b"model")),
        "the model is the one that was trained on"
    );
    assert_eq!(run.claims().collect::<Vec<_>>(), ["coco", "models", "stic"]);
}

#[test]
fn settings_that_cannot_work_or_have_no_effect_are_named() {
    let image = |name: &str, reference: &str| {
        format!("  - {{name: {name}, model: {{image: {{reference: {reference}}}, chatTemplate: Auto}}}}\n")
    };
    let spec = |subjects: &str| {
        format!(
            "  subjects:\n{subjects}  benchmarks: [{{name: ScienceQA, data: {{volume: {{claimName: b}}}}, ocrTokens: true}}]\n  chatTemplate: Auto\n  prompting: [Direct]\n  description: {{maxNewTokens: 9}}\n  output: {{volume: {{claimName: stic}}}}\n"
        )
    };
    let run = |subjects: &str| admitted::<EvaluationRun>("EvaluationRun", &spec(subjects), &metadata());
    let one = resolved(&run(&image("a", "one")), None, None).expect("one image can be mounted");
    assert_eq!(
        one.ineffective,
        [
            "chatTemplate of a model has no effect in an evaluation: spec.chatTemplate decides",
            "ocrTokens has no effect with ScienceQA: only TextVQA has OCR tokens",
            "description has no effect with spec.prompting: [Direct]",
        ]
    );
    let error =
        resolved(&run(&(image("a", "one") + &image("b", "other"))), None, None).expect_err("two images");
    assert!(error.to_string().contains("the models come from 2 images"), "{error}");
}

fn snapshot(run: Validated, steps: &[StepName]) -> Snapshot {
    let done = |step: &StepName| {
        let outcome = StepOutcome::Succeeded(Box::new(result_of(RunKind::EvaluationRun, *step)));
        (*step, StepSnapshot::new(1, outcome))
    };
    let steps: Steps = steps.iter().map(done).collect();
    let snapshot = Snapshot::new(run.run.clone(), 1, &RunStatus::default(), at(NOW), |_| Ok(run));
    Snapshot { facts: Facts::local(), steps, ..snapshot }
}

fn launched(run: Validated, steps: &[StepName]) -> Task {
    match decide(&snapshot(run, steps)) {
        Ok(Decision::Launch(launch)) => launch.config.task,
        other => panic!("{other:?}"),
    }
}

#[test]
fn its_steps_follow_one_another_and_a_judge_is_asked_only_if_there_is_one() {
    use StepName::{Answer, Judge, Prepare, Score};
    let Task::PrepareEvaluation(task) = launched(valid(""), &[]) else { panic!("it prepares first") };
    assert_eq!((task.subjects.len(), task.benchmarks[1].limit, task.has_judge), (3, Some(100), false));
    let Task::Answer(task) = launched(valid("  shards: 3\n"), &[Prepare]) else { panic!("then it answers") };
    assert_eq!((task.shards, &task.questions.digest), (3, &Digest::of(b"questions")));
    assert_eq!(
        task.subjects[2].adapter.as_ref().map(|adapter| &adapter.digest),
        Some(&Digest::of(b"adapter"))
    );
    let Task::Score(task) = launched(valid(""), &[Prepare, Answer]) else { panic!("nobody judges") };
    assert_eq!(task.judgements, None);
    let Task::Judge(task) = launched(valid(JUDGE), &[Prepare, Answer]) else { panic!("a judge is asked") };
    assert_eq!(
        (task.endpoint.url.as_str(), task.endpoint.max_requests),
        ("https://judge.example.com/v1", Some(500))
    );
    let Task::Score(task) = launched(valid(JUDGE), &[Prepare, Answer, Judge]) else { panic!("it scores") };
    assert_eq!(task.judgements.map(|found| found.digest), Some(Digest::of(b"judgements")));
    let decision = decide(&snapshot(valid(""), &[Prepare, Answer, Score]));
    let Ok(Decision::Report { verdict: Verdict::Succeeded { artifacts }, .. }) = decision else {
        panic!("{decision:?}")
    };
    let kinds: Vec<_> = artifacts.iter().map(|artifact| artifact.kind).collect();
    assert_eq!(kinds, [ArtifactKind::Questions, ArtifactKind::Answers, ArtifactKind::Results]);
}

#[test]
fn only_the_pod_of_the_judge_has_the_secret_and_no_other_step_than_answer_has_a_gpu() {
    let run = valid(&format!("{JUDGE}  pod: {{resources: {{limits: {{nvidia.com/gpu: 2}}}}}}\n"));
    let settings = JobSettings {
        trainer_image: "trainer".into(),
        one_node: false,
        read_only_claims: Default::default(),
        deadline_seconds: None,
    };
    for spec in run.steps() {
        let job = job(&run, LaunchId { step: spec.name, number: 1 }, &settings);
        let pod = serde_json::to_value(&job).expect("an object")["spec"]["template"]["spec"].clone();
        let text = pod.to_string();
        let judges = spec.name == StepName::Judge;
        assert_eq!(text.contains(JUDGE_API_KEY), judges, "{}", spec.name);
        assert_eq!(text.contains("\"judge\"") || text.contains("secretKeyRef"), judges, "{}", spec.name);
        assert_eq!(text.contains(JUDGE_PROMPTS), judges, "{}", spec.name);
        let gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu").and_then(Value::as_str);
        assert_eq!(gpus, (spec.name == StepName::Answer).then_some("2"), "{}", spec.name);
    }
}

#[test]
fn the_status_has_the_scores_and_a_headline() {
    use StepName::{Answer, Prepare, Score};
    let snapshot = snapshot(valid(""), &[Prepare, Answer, Score]);
    let verdict = Verdict::Succeeded { artifacts: Vec::new() };
    let written = status(&snapshot, &verdict, None, None);
    let rows: Vec<String> = written
        .results
        .iter()
        .map(|row| {
            let difference = row.difference.as_ref();
            format!(
                "{} {} {:?} {:?} of {}",
                row.benchmark,
                row.subject,
                row.score.as_deref(),
                difference.map(|it| format!("{} to {}", it.points, it.to)),
                row.answered
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "ScienceQA base Some(\"68.9\") None of 2017",
            "ScienceQA stage-1 Some(\"70.1\") Some(\"+1.2 to base\") of 2017",
            "ScienceQA stic Some(\"75.3\") Some(\"+6.4 to base\") of 2017",
        ]
    );
    let display = written.display.clone().expect("there are columns");
    assert_eq!(display.score.as_deref(), Some("ScienceQA 75.3"));
    assert_eq!(display.difference.as_deref(), Some("+6.4 (+4.9 to +7.9)"));
    let names: Vec<_> = written.steps.iter().map(|step| step.name).collect();
    assert_eq!(names, [Prepare, Answer, Score], "without a judge there is no such step");
    let inputs = written.inputs.clone().expect("the inputs are recorded");
    assert_eq!(inputs.questions.map(|questions| questions.count), Some(5998));
    assert_eq!(inputs.subjects[0].model.digest, Some(Digest::of(b"model").to_string()));
    // The pods and Jobs of finished steps may be deleted: what they reported is rebuilt from the status.
    let prepared = result_of(RunKind::EvaluationRun, Prepare);
    let rebuilt = status_results::result(&written, Prepare).expect("prepare is in the status");
    assert_eq!((rebuilt.subjects, rebuilt.items), (prepared.subjects, prepared.items));
}
