//! The results of complete steps, rebuilt from the status, so that their Jobs and pods may be deleted.

use stic_contract::config::ShardSet;
use stic_contract::result::{InputDigests, ItemCounts, SubjectDigests};
use stic_contract::{Artifact, Digest, StepName, StepResult, VolumePath};
use stic_crds::RunStatus;
use stic_crds::status::{ArtifactState, ArtifactStatus, InputFolder, InputSubject, Inputs, StepState};

/// The result of `step`, if the status says that it succeeded.
#[must_use]
pub fn result(status: &RunStatus, step: StepName) -> Option<StepResult> {
    let before = status.step(step).filter(|before| before.state == StepState::Succeeded)?;
    let artifacts = status
        .artifacts
        .iter()
        .filter(|artifact| reported_by(artifact) == step)
        .map(artifact)
        .collect::<Option<Vec<_>>>()?;
    let (inputs, subjects) = match (step, &status.inputs) {
        (StepName::Prepare, Some(found)) if !found.subjects.is_empty() => (None, subjects(found)?),
        (StepName::Prepare, found) => (Some(inputs(found.as_ref()?)?), Vec::new()),
        _ => (None, Vec::new()),
    };
    Some(StepResult {
        artifacts,
        shards: before
            .shards
            .as_ref()
            .map(|shards| ShardSet { folder: shards.folder.clone(), shards: shards.count }),
        inputs,
        subjects,
        items: before.items.map(|items| ItemCounts {
            total: items.total,
            done: items.done,
            skipped: items.skipped,
        }),
        message: before.message.clone(),
        ..StepResult::new(step)
    })
}

/// The step that reported an artifact: `prepare` reports those that exist already, and other steps what they create.
const fn reported_by(artifact: &ArtifactStatus) -> StepName {
    match artifact.state {
        ArtifactState::Reused => StepName::Prepare,
        ArtifactState::Created => artifact.step,
    }
}

fn artifact(status: &ArtifactStatus) -> Option<Artifact> {
    Some(Artifact {
        kind: status.kind,
        location: VolumePath { volume: status.volume.claim_name.clone(), path: status.volume.path.clone() },
        digest: status.digest.parse().ok()?,
        size_bytes: status.size_bytes,
        step: status.step,
        reused: status.state == ArtifactState::Reused,
    })
}

fn inputs(inputs: &Inputs) -> Option<InputDigests> {
    let items = inputs.images.as_ref().or(inputs.instructions.as_ref())?;
    Some(InputDigests {
        model: digest(inputs.model.as_ref()?)?,
        adapter: optional_digest(inputs.adapter.as_ref())?,
        items: items.digest.parse().ok()?,
        item_count: items.count,
    })
}

fn subjects(inputs: &Inputs) -> Option<Vec<SubjectDigests>> {
    let subject = |subject: &InputSubject| {
        Some(SubjectDigests {
            name: subject.name.clone(),
            model: digest(&subject.model)?,
            adapter: optional_digest(subject.adapter.as_ref())?,
        })
    };
    inputs.subjects.iter().map(subject).collect()
}

fn digest(folder: &InputFolder) -> Option<Digest> {
    folder.digest.as_ref()?.parse().ok()
}

/// `None` if there is a digest that is none.
fn optional_digest(folder: Option<&InputFolder>) -> Option<Option<Digest>> {
    match folder.and_then(|folder| folder.digest.as_ref()) {
        Some(text) => Some(Some(text.parse().ok()?)),
        None => Some(None),
    }
}
