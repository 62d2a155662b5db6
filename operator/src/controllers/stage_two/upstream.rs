//! The `StageOneRun` that a `StageTwoRun` starts from.

use stic_contract::config::AdapterLocation;
use stic_contract::{ArtifactKind, Digest, VolumePath};
use stic_crds::model::ModelImage;
use stic_crds::status::{InputFolder, Inputs};
use stic_crds::{ConditionType, Reason, StageOneRun};

use super::super::validation;
use crate::refusal::Refusal;
use crate::validated::{MODEL_IMAGE, Model};

/// The state of the run that `initFrom.stageOneRunRef` names.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a> {
    /// It does not exist.
    Missing,
    /// Another version of the operator wrote it, and this version cannot read it.
    Unreadable,
    Found(&'a StageOneRun),
    /// The run has already started, with these inputs. What has happened to the upstream since does not matter.
    Pinned(&'a Inputs),
}

/// What a run inherits from its upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Inherited {
    /// The model, pinned to the digest that the upstream recorded.
    pub model: Model,
    /// The adapter, pinned to its digest.
    pub adapter: AdapterLocation,
}

/// What the run called `name` passes on.
///
/// # Errors
/// The upstream has not succeeded. The run waits, because the upstream may still be created, succeed or be run again.
pub fn inherit(name: &str, upstream: Upstream<'_>) -> Result<Inherited, Refusal> {
    let wait = |message: String| Refusal::Wait { reason: Reason::StageOneNotSucceeded, message };
    let run = match upstream {
        Upstream::Found(run) => run,
        Upstream::Missing => {
            return Err(wait(format!("StageOneRun {name} does not exist; apply it in this namespace")));
        }
        Upstream::Unreadable => {
            return Err(wait(format!(
                "this version of the operator cannot read StageOneRun {name}; install the version that wrote it, and this run continues on its own"
            )));
        }
        Upstream::Pinned(inputs) => {
            return pinned(inputs).ok_or_else(|| {
                wait(format!(
                    "status.inputs does not record what was inherited from StageOneRun {name}; raise spec.rerun to start over"
                ))
            });
        }
    };
    let succeeded = run.status.as_ref().and_then(|status| status.condition(ConditionType::Succeeded));
    match succeeded.map(|condition| condition.status.as_str()) {
        Some("True") => {}
        Some("False") => {
            let why = succeeded.map(|condition| condition.message.clone()).unwrap_or_default();
            return Err(Refusal::Wait {
                reason: Reason::StageOneFailed,
                message: format!(
                    "StageOneRun {name} failed: {why}; fix that and raise its spec.retry, and this run continues on its own"
                ),
            });
        }
        _ => {
            let phase = succeeded.map_or("Pending", |condition| condition.reason.as_str());
            return Err(wait(format!(
                "StageOneRun {name} has not finished (phase {phase}); this run starts on its own once it has succeeded"
            )));
        }
    }
    let status = run.status.clone().unwrap_or_default();
    let adapter = status
        .artifacts
        .iter()
        .find(|artifact| artifact.kind == ArtifactKind::Adapter)
        .and_then(|artifact| {
            Some(AdapterLocation {
                location: VolumePath {
                    volume: artifact.volume.claim_name.clone(),
                    path: artifact.volume.path.clone(),
                },
                digest: Some(artifact.digest.parse::<Digest>().ok()?),
            })
        })
        .ok_or_else(|| {
            wait(format!(
                "StageOneRun {name} succeeded, but its status has no adapter; raise its spec.rerun to run it again"
            ))
        })?;
    let recorded = status.inputs.and_then(|inputs| inputs.model).and_then(|model| model.digest);
    let mut model = validation::model(&run.spec.model, "spec.model")?;
    model.digest = recorded.and_then(|digest| digest.parse().ok());
    Ok(Inherited { model, adapter })
}

/// What `status.inputs` recorded when the run started. The chat template is in the run config of its first step.
fn pinned(inputs: &Inputs) -> Option<Inherited> {
    let InputFolder { volume, image, digest } = inputs.model.as_ref()?;
    let (location, image) = match (volume, image) {
        (Some(volume), _) => (validation::folder(volume), None),
        (None, Some(ModelImage { reference, path })) => {
            (VolumePath { volume: MODEL_IMAGE.into(), path: path.clone() }, Some(reference.clone()))
        }
        (None, None) => return None,
    };
    let parse = |digest: &Option<String>| digest.as_ref().and_then(|digest| digest.parse::<Digest>().ok());
    let adapter = inputs.adapter.as_ref()?;
    Some(Inherited {
        model: Model { location, image, chat_template: None, digest: parse(digest) },
        adapter: AdapterLocation {
            location: validation::folder(adapter.volume.as_ref()?),
            digest: parse(&adapter.digest),
        },
    })
}
