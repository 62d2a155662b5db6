//! Placeholders in angle brackets, for values that only a cluster or an earlier step can know.

use stic_contract::config::ShardSet;
use stic_contract::pipeline::StepSpec;
use stic_contract::result::{InputDigests, SubjectDigests};
use stic_contract::{Artifact, ArtifactKind, Digest, StepResult};
use stic_operator::Validated;
use stic_operator::validated::{Evaluation, Subject, Training, Work};

use crate::assumed::Unknown;

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
const INPUT_DIGESTS: [(&str, &str); 4] = [
    ("model", "<digest of the model, computed by prepare>"),
    ("adapter to start from", "<digest of the adapter to start from, computed by prepare>"),
    ("adapter to evaluate", "<digest of the adapter to evaluate, computed by prepare>"),
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
    let result = StepResult { artifacts: vec![artifact], ..result };
    match &run.work {
        _ if !spec.consumes.is_empty() => result,
        Work::Training(training) => StepResult { inputs: Some(inputs(training)), ..result },
        Work::Evaluation(evaluation) => StepResult { subjects: subjects(evaluation), ..result },
    }
}

fn inputs(training: &Training) -> InputDigests {
    let adapter = training.adapter.as_ref();
    InputDigests {
        model: fake_digest("model"),
        adapter: adapter
            .map(|adapter| adapter.digest.clone().unwrap_or_else(|| fake_digest("adapter to start from"))),
        items: fake_digest("items"),
        item_count: 0,
    }
}

fn subjects(evaluation: &Evaluation) -> Vec<SubjectDigests> {
    let subject = |subject: &Subject| SubjectDigests {
        name: subject.name.clone(),
        model: subject.model.digest.clone().unwrap_or_else(|| fake_digest("model")),
        adapter: subject
            .adapter
            .as_ref()
            .map(|adapter| adapter.digest.clone().unwrap_or_else(|| fake_digest("adapter to evaluate"))),
    };
    evaluation.subjects.iter().map(subject).collect()
}

fn folder_name(kind: ArtifactKind) -> String {
    format!("{}-<digest of its inputs>", kind.folder_prefix())
}

/// What is not known of a run before it has succeeded.
pub(super) fn unknown() -> Unknown {
    Unknown {
        folder: folder_name(ArtifactKind::Adapter),
        adapter: fake_digest("adapter"),
        model: Some(fake_digest("model")),
    }
}
