//! The `StageOneRun` a `StageTwoRun` starts from.

use stic_contract::config::AdapterLocation;
use stic_contract::{ArtifactKind, Digest, VolumePath};
use stic_crds::StageOneRun;
use stic_crds::model::ModelImage;
use stic_crds::status::{InputFolder, Inputs, SUCCEEDED};

use crate::refusal::{Reason, Refusal};
use crate::validated::{self, MODEL_IMAGE, Model};

/// What was observed of it.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a> {
    /// It does not exist.
    Missing,
    /// Another version of the operator wrote it, and this one cannot read it.
    NotUnderstood,
    /// It does.
    Found(&'a StageOneRun),
    /// The run has started from it already: what it took over then, whatever became of it since.
    Pinned(&'a Inputs),
}

/// What a run takes over from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Inherited {
    /// Its model, pinned by the digest it recorded.
    pub model: Model,
    /// Its adapter, pinned by digest.
    pub adapter: AdapterLocation,
}

/// What the run called `name` hands on.
///
/// # Errors
/// It has not succeeded: the caller waits, because it may yet appear, go on or be run again.
pub fn inherit(name: &str, upstream: Upstream<'_>) -> Result<Inherited, Refusal> {
    let wait = |message: String| Refusal::Wait { reason: Reason::StageOneNotSucceeded, message };
    let run = match upstream {
        Upstream::Found(run) => run,
        Upstream::Missing => {
            return Err(wait(format!("StageOneRun {name} does not exist; apply it in this namespace")));
        }
        Upstream::NotUnderstood => {
            return Err(wait(format!(
                "this version of the operator cannot read StageOneRun {name}; install the version that wrote it, and this run goes on by itself"
            )));
        }
        Upstream::Pinned(inputs) => {
            return pinned(inputs).ok_or_else(|| {
                wait(format!(
                    "status.inputs does not say what was taken from StageOneRun {name}; raise spec.rerun to start anew"
                ))
            });
        }
    };
    let succeeded = run.status.as_ref().and_then(|status| status.condition(SUCCEEDED));
    match succeeded.map(|condition| condition.status.as_str()) {
        Some("True") => {}
        Some("False") => {
            let why = succeeded.map(|condition| condition.message.clone()).unwrap_or_default();
            return Err(wait(format!(
                "StageOneRun {name} failed: {why}; mend it and raise its spec.rerun, and this run goes on by itself"
            )));
        }
        _ => {
            let phase = succeeded.map_or("Pending", |condition| condition.reason.as_str());
            return Err(wait(format!(
                "StageOneRun {name} is not finished (phase {phase}); this run starts by itself when it is"
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
                "StageOneRun {name} succeeded but records no adapter; raise its spec.rerun to run it again"
            ))
        })?;
    let recorded = status.inputs.and_then(|inputs| inputs.model).and_then(|model| model.digest);
    let mut model = validated::model(&run.spec.model, "spec.model")?;
    model.digest = recorded.and_then(|digest| digest.parse().ok());
    Ok(Inherited { model, adapter })
}

/// What `status.inputs` recorded when the run started. The template is in the run config of its first step.
fn pinned(inputs: &Inputs) -> Option<Inherited> {
    let InputFolder { volume, image, digest } = inputs.model.as_ref()?;
    let (location, image) = match (volume, image) {
        (Some(volume), _) => (validated::folder(volume), None),
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
            location: validated::folder(adapter.volume.as_ref()?),
            digest: parse(&adapter.digest),
        },
    })
}
