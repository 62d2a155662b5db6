//! Runs as the API server would hand them to the controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::config::ShardSet;
use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};
use stic_contract::result::{BenchmarkScores, InputDigests, ItemCounts, SubjectDigests, SubjectScore};
use stic_contract::{
    Artifact, ArtifactKind, Digest, ExitCode, RunKind, StepName, StepResult, VolumePath, pipeline,
};
use stic_crds::admission::Admission;
use stic_crds::{RunStatus, StageOneRun, StageTwoRun};
use stic_operator::Validated;
use stic_operator::controllers::stage_one as one;
use stic_operator::snapshot::{Facts, Snapshot, StepOutcome, StepSnapshot, Steps};
use stic_operator::validated::{Hardware, Training, Work};

pub(crate) const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

pub(crate) fn admitted<T: DeserializeOwned>(kind: &str, spec: &str, metadata: &Value) -> T {
    let mut object: Value =
        serde_saphyr::from_str(&format!("spec:\n{spec}")).expect("the test's YAML is YAML");
    object["apiVersion"] = json!("stic.dev/v1alpha1");
    object["kind"] = json!(kind);
    object["metadata"] = metadata.clone();
    let admission = Admission::of(kind.parse().expect("a kind")).expect("the kind is ours");
    let stored = admission.admit(&object, None).unwrap_or_else(|errors| panic!("{errors:#?}"));
    serde_json::from_value(stored).expect("the types agree")
}

pub(crate) fn metadata() -> Value {
    json!({"name": "coco-6k", "namespace": "research", "uid": UID})
}

pub(crate) const STAGE_ONE: &str = "
  model: {volume: {claimName: models, path: llava}}
  images: {volume: {claimName: coco, path: train2014}, limit: 6000}
  output: {volume: {claimName: stic, path: coco-6k}}
";

pub(crate) const STAGE_TWO: &str = "
  initFrom: {stageOneRunRef: {name: coco-6k}}
  instructions: {volume: {claimName: llava}, file: mix.json, limit: 5000}
  images: {volume: {claimName: llava, path: images}}
  output: {volume: {claimName: stic, path: coco-6k}}
";

pub(crate) const EVALUATION: &str = "
  subjects:
  - {name: base, model: {volume: {claimName: models, path: llava}}}
  - {name: stage-1, stageOneRunRef: {name: coco-6k}}
  - {name: stic, stageTwoRunRef: {name: coco-6k}}
  benchmarks:
  - {name: ScienceQA, data: {volume: {claimName: coco, path: scienceqa}}}
  - {name: MMVet, data: {volume: {claimName: coco, path: mm-vet}}, limit: 100}
  chatTemplate: VicunaV1
  output: {volume: {claimName: stic, path: evaluations}}
";

/// A judge for [`EVALUATION`].
pub(crate) const JUDGE: &str = "
  judge:
    url: https://judge.example.com/v1/
    model: gpt
    promptsConfigMapRef: {name: prompts}
    apiKeySecretRef: {name: judge, key: token}
    maxRequests: 500
";

pub(crate) fn stage_one(extra: &str) -> StageOneRun {
    admitted("StageOneRun", &format!("{STAGE_ONE}{extra}"), &metadata())
}

pub(crate) fn stage_two(extra: &str) -> StageTwoRun {
    admitted("StageTwoRun", &format!("{STAGE_TWO}{extra}"), &metadata())
}

pub(crate) fn artifact(kind: ArtifactKind, step: StepName) -> Artifact {
    Artifact {
        kind,
        location: VolumePath {
            volume: "stic".into(),
            path: format!("coco-6k/{}-0123", kind.folder_prefix()),
        },
        digest: Digest::of(kind.folder_prefix().as_bytes()),
        size_bytes: 1_000,
        step,
        reused: false,
    }
}

/// The result of `step` in the first kind of run that has it.
pub(crate) fn result(step: StepName) -> StepResult {
    let kind = RunKind::ALL.into_iter().find(|kind| pipeline::step(*kind, step).is_some());
    result_of(kind.expect("some kind of run has the step"), step)
}

/// The result of `step` in a run of `kind`. It follows from the pipeline: whoever consumes shards merges them.
pub(crate) fn result_of(kind: RunKind, step: StepName) -> StepResult {
    let steps = pipeline::steps(kind);
    let spec = steps.iter().find(|spec| spec.name == step).expect("it has the step");
    let is_first = spec.consumes.is_empty();
    let evaluates = kind == RunKind::EvaluationRun;
    let empty = StepResult {
        items: (is_first || spec.sharded).then_some(ItemCounts { total: 6000, done: 5998, skipped: 2 }),
        ..StepResult::new(step)
    };
    if spec.sharded {
        let folder = format!("{}-0123", spec.produces.folder_prefix());
        let shards = (!evaluates).then_some(ShardSet { folder, shards: 1 });
        return StepResult { shards, ..empty };
    }
    let merged = steps.iter().filter(|other| other.sharded && spec.consumes.contains(&other.produces));
    let merged = merged.filter(|_| step != StepName::Judge);
    StepResult {
        artifacts: merged.chain([spec]).map(|spec| artifact(spec.produces, spec.name)).collect(),
        inputs: (is_first && !evaluates).then(|| InputDigests {
            model: Digest::of(b"model"),
            adapter: None,
            items: Digest::of(b"items"),
            item_count: 5998,
        }),
        subjects: if is_first && evaluates { subjects() } else { Vec::new() },
        scores: if step == StepName::Score { scores() } else { Vec::new() },
        ..empty
    }
}

/// What `prepare` finds the models of [`EVALUATION`] to be.
fn subjects() -> Vec<SubjectDigests> {
    let adapter = Some(artifact(ArtifactKind::Adapter, StepName::Train).digest);
    let subject = |name: &str, adapter: Option<Digest>| SubjectDigests {
        name: name.into(),
        model: Digest::of(b"model"),
        adapter,
    };
    vec![subject("base", None), subject("stage-1", adapter.clone()), subject("stic", adapter)]
}

/// The scores of [`EVALUATION`] on one benchmark.
fn scores() -> Vec<BenchmarkScores> {
    let score = |points: &str, difference: Option<[&str; 3]>| SubjectScore {
        points: Some(points.into()),
        counted: 2017,
        unresolved: 3,
        difference: difference.map(|bounds| bounds.map(Into::into)),
        ..SubjectScore::default()
    };
    let of = vec![
        score("68.9", None),
        score("70.1", Some(["+1.2", "-0.2", "+2.6"])),
        score("75.3", Some(["+6.4", "+4.9", "+7.9"])),
    ];
    let (benchmark, scorer) = (BenchmarkName::ScienceQa, Scorer::Llava);
    vec![BenchmarkScores { benchmark, prompting: Prompting::DescribeAndRespond, scorer, of }]
}

/// Steps that are complete.
pub(crate) fn done(steps: &[StepName]) -> Steps {
    let complete = |step: StepName| StepOutcome::Succeeded(Box::new(result(step)));
    steps.iter().map(|step| (*step, StepSnapshot::new(1, complete(*step)))).collect()
}

/// A step whose trainer ended with `exit`.
pub(crate) fn failed(attempts: u32, exit: ExitCode, message: &str) -> StepSnapshot {
    StepSnapshot::new(attempts, StepOutcome::failed(exit, message.into()))
}

pub(crate) const NOW: &str = "2026-11-24T10:10:00Z";

/// A `StageOneRun` of which no step was started, with every fact known.
pub(crate) fn snapshot(extra: &str) -> Snapshot {
    let validated = one::validate(&stage_one(extra), Hardware::OfPods);
    let run = validated.as_ref().expect("it is valid").run.clone();
    let snapshot = Snapshot::new(run, 1, &RunStatus::default(), at(NOW), |_| validated);
    Snapshot { facts: Facts::local(), ..snapshot }
}

pub(crate) fn at(time: &str) -> Time {
    Time(time.parse().expect("a time"))
}

/// The training that a run does.
pub(crate) fn training(run: &Validated) -> &Training {
    run.work.training().expect("the run trains")
}

pub(crate) fn training_mut(run: &mut Validated) -> &mut Training {
    let Work::Training(training) = &mut run.work else { panic!("the run trains") };
    training
}
