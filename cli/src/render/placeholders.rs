//! Placeholders in angle brackets, for values that only a cluster or an earlier step can know.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use stic_contract::config::ShardSet;
use stic_contract::pipeline::StepSpec;
use stic_contract::result::InputDigests;
use stic_contract::{Artifact, ArtifactKind, Digest, StepName, StepResult};
use stic_crds::status::{ArtifactState, ArtifactStatus, InputFolder, Inputs, RunStatus};
use stic_crds::volumes::VolumeFolder;
use stic_crds::{ConditionType, Reason};
use stic_operator::Validated;

/// The comment before the objects of a run.
pub(super) const NOTE: &str = "\
# The objects that the controller would create. Values in <angle brackets> are only known on a cluster or after an earlier
# step has run. The last eight digits of names depend on the UID of the run and differ on a cluster.
";
/// A UID that no run has. [`insert`] replaces it.
pub(super) const UID: &str = "00000000-0000-0000-0000-000000000000";
const UID_PLACEHOLDER: &str = "<UID of the run>";
/// The images from the operator's settings.
pub(super) const TRAINER_IMAGE: &str = "<trainer image of the operator>";
pub(super) const TRAINER_GPU_IMAGE: &str = "<trainer image of the operator for GPUs>";

/// The digests of inputs, and their placeholders. Those of artifacts follow from [`ArtifactKind::ALL`].
const INPUT_DIGESTS: [(&str, &str); 3] = [
    ("model", "<digest of the model, computed by prepare>"),
    ("adapter to start from", "<digest of the adapter to start from, computed by prepare>"),
    ("items", "<digest of the items, computed by prepare>"),
];

/// A valid digest that stands for an unknown one until [`insert`] replaces it.
fn fake_digest(what: &str) -> Digest {
    Digest::of(format!("kubectl stic render: {what}").as_bytes())
}

/// Replaces fake values by placeholders.
pub(super) fn insert(text: &str) -> String {
    let mut replaced = text.to_owned();
    for (what, placeholder) in INPUT_DIGESTS {
        replaced = replaced.replace(&fake_digest(what).to_string(), placeholder);
    }
    for kind in ArtifactKind::ALL.map(ArtifactKind::folder_prefix) {
        let placeholder = format!("<digest of the {kind} artifact>");
        replaced = replaced.replace(&fake_digest(kind).to_string(), &placeholder);
    }
    replaced.replace(UID, UID_PLACEHOLDER)
}

/// The result that a step would report.
pub(super) fn result(run: &Validated, spec: &StepSpec) -> StepResult {
    let result = StepResult::new(spec.name);
    if spec.sharded {
        let folder = folder_name(spec.produces);
        return StepResult { shards: Some(ShardSet { folder, shards: run.shards }), ..result };
    }
    let artifact = Artifact {
        kind: spec.produces,
        location: run.output.location.join(&folder_name(spec.produces)),
        digest: fake_digest(spec.produces.folder_prefix()),
        size_bytes: 0,
        step: spec.name,
        reused: false,
    };
    // The first step reads the inputs, and reports their digests.
    let inputs = spec.consumes.is_empty().then(|| InputDigests {
        model: fake_digest("model"),
        adapter: run
            .adapter
            .as_ref()
            .map(|adapter| adapter.digest.clone().unwrap_or_else(|| fake_digest("adapter to start from"))),
        items: fake_digest("items"),
        item_count: 0,
    });
    StepResult { artifacts: vec![artifact], inputs, ..result }
}

fn folder_name(kind: ArtifactKind) -> String {
    format!("{}-<digest of its inputs>", kind.folder_prefix())
}

/// The status of a `StageOneRun` that has succeeded, as far as other runs depend on it.
pub(super) fn success(run: &Validated) -> RunStatus {
    let folder_of = |location: &stic_contract::VolumePath| VolumeFolder {
        claim_name: location.volume.clone(),
        path: location.path.clone(),
    };
    let succeeded = Condition {
        type_: ConditionType::Succeeded.as_str().into(),
        status: "True".into(),
        reason: Reason::Succeeded.as_str().into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    let adapter = ArtifactStatus {
        kind: ArtifactKind::Adapter,
        volume: folder_of(&run.output.location.join(&folder_name(ArtifactKind::Adapter))),
        digest: fake_digest("adapter").to_string(),
        size_bytes: 0,
        step: StepName::Train,
        state: ArtifactState::Created,
    };
    let model = InputFolder { volume: None, image: None, digest: Some(fake_digest("model").to_string()) };
    RunStatus {
        conditions: vec![succeeded],
        artifacts: vec![adapter],
        inputs: Some(Inputs { model: Some(model), ..Inputs::default() }),
        ..RunStatus::default()
    }
}
