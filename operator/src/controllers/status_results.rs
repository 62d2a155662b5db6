//! The results of complete steps, rebuilt from the status, so that their Jobs and pods may be deleted.

use stic_contract::config::ShardSet;
use stic_contract::result::{InputDigests, ItemCounts};
use stic_contract::{Artifact, Digest, StepName, StepResult, VolumePath};
use stic_crds::RunStatus;
use stic_crds::status::{ArtifactState, ArtifactStatus, StepState};

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
    let inputs = match step {
        StepName::Prepare => Some(inputs(status)?),
        _ => None,
    };
    Some(StepResult {
        artifacts,
        shards: before
            .shards
            .as_ref()
            .map(|shards| ShardSet { folder: shards.folder.clone(), shards: shards.count }),
        inputs,
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

fn inputs(status: &RunStatus) -> Option<InputDigests> {
    let inputs = status.inputs.as_ref()?;
    let items = inputs.images.as_ref().or(inputs.instructions.as_ref())?;
    let adapter = match inputs.adapter.as_ref().and_then(|adapter| adapter.digest.as_ref()) {
        Some(digest) => Some(digest.parse::<Digest>().ok()?),
        None => None,
    };
    Some(InputDigests {
        model: inputs.model.as_ref()?.digest.as_ref()?.parse().ok()?,
        adapter,
        items: items.digest.parse().ok()?,
        item_count: items.count,
    })
}
