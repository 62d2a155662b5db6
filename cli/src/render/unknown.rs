//! What only a cluster, or a step that has run, can know: it stands in angle brackets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use stic_contract::config::ShardSet;
use stic_contract::result::InputDigests;
use stic_contract::{Artifact, ArtifactKind, Digest, StepName, StepResult, pipeline};
use stic_crds::status::{ArtifactState, ArtifactStatus, InputFolder, Inputs, RunStatus, SUCCEEDED};
use stic_crds::volumes::VolumeFolder;
use stic_operator::Validated;

/// What is said before the objects of a run.
pub(super) const NOTE: &str = "\
# As the controller makes it. What stands in <angle brackets> is known only on a cluster or when an earlier step has
# run. The last eight digits of names are made of the run's UID, and are others there.
";
/// A UID that no run has.
pub(super) const UID: &str = "00000000-0000-0000-0000-000000000000";
/// In its place.
const UID_MARK: &str = "<UID of the run>";
/// The image that an operator's settings name.
pub(super) const TRAINER_IMAGE: &str = "<trainer image of the operator>";

/// The digests that a step finds, and how each is marked.
const DIGESTS: [(&str, &str); 7] = [
    ("model", "<digest of the model, found by prepare>"),
    ("adapter to start from", "<digest of the adapter to start from, found by prepare>"),
    ("items", "<digest of the items, found by prepare>"),
    ("prepared", "<digest of the prepared items, made by prepare>"),
    ("preferences", "<digest of the preferences, sealed by train>"),
    ("descriptions", "<digest of the descriptions, sealed by train>"),
    ("adapter", "<digest of the adapter of the StageOneRun>"),
];

/// A digest has the shape of one until it is written.
fn stand_in(what: &str) -> Digest {
    Digest::of(format!("kubectl stic render: {what}").as_bytes())
}

/// Puts marks in the place of what stands in for the unknown.
pub(super) fn mark(text: &str) -> String {
    let marked = DIGESTS
        .iter()
        .fold(text.to_owned(), |text, (what, mark)| text.replace(&stand_in(what).to_string(), mark));
    marked.replace(UID, UID_MARK)
}

/// What `step` would say.
pub(super) fn result(run: &Validated, step: StepName) -> StepResult {
    let artifact = |kind: ArtifactKind| Artifact {
        kind,
        location: run.output.location.join(&folder(kind)),
        digest: stand_in(kind.folder_prefix()),
        size_bytes: 0,
        step,
        reused: false,
    };
    let said = StepResult::new(step);
    match step {
        StepName::Prepare => StepResult {
            artifacts: vec![artifact(ArtifactKind::Prepared)],
            inputs: Some(InputDigests {
                model: stand_in("model"),
                adapter: run.adapter.as_ref().map(|adapter| {
                    adapter.digest.clone().unwrap_or_else(|| stand_in("adapter to start from"))
                }),
                items: stand_in("items"),
                item_count: 0,
            }),
            ..said
        },
        StepName::Generate | StepName::Describe => {
            let made = pipeline::steps(run.run.kind).iter().find(|spec| spec.name == step);
            let folder = made.map(|spec| folder(spec.produces)).unwrap_or_default();
            StepResult { shards: Some(ShardSet { folder, shards: run.shards }), ..said }
        }
        StepName::Train => StepResult { artifacts: vec![artifact(ArtifactKind::Adapter)], ..said },
    }
}

fn folder(kind: ArtifactKind) -> String {
    format!("{}-<digest of what it is made of>", kind.folder_prefix())
}

/// The status of a `StageOneRun` that has succeeded, as far as others depend on it.
pub(super) fn success(run: &Validated) -> RunStatus {
    let folder_of = |location: &stic_contract::VolumePath| VolumeFolder {
        claim_name: location.volume.clone(),
        path: location.path.clone(),
    };
    let succeeded = Condition {
        type_: SUCCEEDED.into(),
        status: "True".into(),
        reason: SUCCEEDED.into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    let adapter = ArtifactStatus {
        kind: ArtifactKind::Adapter,
        volume: folder_of(&run.output.location.join(&folder(ArtifactKind::Adapter))),
        digest: stand_in("adapter").to_string(),
        size_bytes: 0,
        step: StepName::Train,
        state: ArtifactState::Created,
    };
    let model = InputFolder { volume: None, image: None, digest: Some(stand_in("model").to_string()) };
    RunStatus {
        conditions: vec![succeeded],
        artifacts: vec![adapter],
        inputs: Some(Inputs { model: Some(model), ..Inputs::default() }),
        ..RunStatus::default()
    }
}
