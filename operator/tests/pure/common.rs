//! Runs as the API server would hand them to the controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stic_contract::config::ShardSet;
use stic_contract::result::{InputDigests, ItemCounts};
use stic_contract::{Artifact, ArtifactKind, Digest, StepName, StepResult, VolumePath};
use stic_crds::admission::Admission;
use stic_crds::{StageOneRun, StageTwoRun};
use stic_operator::plan::{Observed, StepObservation, StepOutcome};

pub(crate) const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

pub(crate) fn admitted<T: DeserializeOwned>(kind: &str, spec: &str, metadata: &Value) -> T {
    let mut object: Value =
        serde_saphyr::from_str(&format!("spec:\n{spec}")).expect("the test's YAML is YAML");
    object["apiVersion"] = json!("stic.dev/v1alpha1");
    object["kind"] = json!(kind);
    object["metadata"] = metadata.clone();
    let admission = Admission::of(kind).expect("the kind is ours");
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

/// What `step` says when it is done.
pub(crate) fn result(step: StepName) -> StepResult {
    let items = Some(ItemCounts { total: 6000, done: 5998, skipped: 2 });
    let said = StepResult::new(step);
    match step {
        StepName::Prepare => StepResult {
            artifacts: vec![artifact(ArtifactKind::Prepared, step)],
            inputs: Some(InputDigests {
                model: Digest::of(b"model"),
                adapter: None,
                items: Digest::of(b"items"),
                item_count: 5998,
            }),
            items,
            ..said
        },
        StepName::Generate => StepResult {
            shards: Some(ShardSet { folder: "preferences-0123".into(), shards: 1 }),
            items,
            ..said
        },
        StepName::Describe => StepResult {
            shards: Some(ShardSet { folder: "descriptions-0123".into(), shards: 1 }),
            items,
            ..said
        },
        StepName::Train => StepResult {
            artifacts: vec![
                artifact(ArtifactKind::Preferences, StepName::Generate),
                artifact(ArtifactKind::Adapter, step),
            ],
            ..said
        },
    }
}

pub(crate) fn done(steps: &[StepName]) -> Observed {
    let steps = steps
        .iter()
        .map(|step| (*step, StepObservation::new(1, StepOutcome::Succeeded(Box::new(result(*step))))));
    Observed { steps: steps.collect() }
}

pub(crate) fn at(time: &str) -> Time {
    Time(time.parse().expect("a time"))
}
