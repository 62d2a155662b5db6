//! The runs that a run starts from.

use stic_contract::artifact::AdapterLocation;
use stic_contract::{ArtifactKind, Digest, RunKind, VolumePath};
use stic_crds::model::ModelImage;
use stic_crds::status::{InputFolder, Inputs};
use stic_crds::{ConditionType, Reason, RunStatus, StageOneRun, StageTwoRun};

use super::validation;
use crate::refusal::Refusal;
use crate::validated::{MODEL_IMAGE, Model};

/// The state of a run that another one refers to.
#[derive(Debug, Clone, Copy)]
pub enum Upstream<'a, K> {
    /// It does not exist.
    Missing,
    /// Another version of the operator wrote it, and this version cannot read it.
    Unreadable,
    Found(&'a K),
    /// The referring run has already started, with these inputs. What has happened to the upstream since does not matter.
    Pinned(&'a Inputs),
}

/// Looks up the runs that a run refers to, by name.
#[derive(Clone, Copy)]
pub struct Upstreams<'a> {
    pub stage_one: &'a dyn Fn(&str) -> Upstream<'a, StageOneRun>,
    pub stage_two: &'a dyn Fn(&str) -> Upstream<'a, StageTwoRun>,
}

impl Upstreams<'_> {
    /// Those of a run that refers to none.
    pub const NONE: Self = Self { stage_one: &|_| Upstream::Missing, stage_two: &|_| Upstream::Missing };
}

/// What a run inherits from its upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Inherited {
    /// The model, pinned to the digest that the upstream recorded.
    pub model: Model,
    /// The adapter, pinned to its digest.
    pub adapter: AdapterLocation,
}

/// A reference to a run, for messages.
#[derive(Debug, Clone, Copy)]
struct Reference<'a> {
    kind: RunKind,
    name: &'a str,
}

/// What the `StageOneRun` called `name` passes on to stage 2.
///
/// # Errors
/// The upstream has not succeeded. The run waits, because the upstream may still be created, succeed or be run again.
pub fn inherit(name: &str, upstream: Upstream<'_, StageOneRun>) -> Result<Inherited, Refusal> {
    let reference = Reference { kind: RunKind::StageOneRun, name };
    let run = match upstream {
        Upstream::Pinned(inputs) => {
            let model = inputs.model.as_ref().and_then(model);
            let adapter = inputs.adapter.as_ref().and_then(adapter);
            return reference.recorded(model.zip(adapter));
        }
        upstream => reference.existing(upstream)?,
    };
    let status = reference.succeeded(run.status.as_ref())?;
    // The template is not in the status.
    let mut model = validation::model(&run.spec.model, "spec.model")?;
    let recorded = status.inputs.as_ref().and_then(|inputs| inputs.model.as_ref());
    model.digest = recorded.and_then(|model| digest(model.digest.as_ref()));
    Ok(Inherited { model, adapter: reference.adapter(status)? })
}

/// What `subject` of an evaluation takes from the `StageOneRun` called `name`.
///
/// # Errors
/// As [`inherit`].
pub fn of_stage_one(
    subject: &str,
    name: &str,
    upstream: Upstream<'_, StageOneRun>,
) -> Result<Inherited, Refusal> {
    let reference = Reference { kind: RunKind::StageOneRun, name };
    match upstream {
        Upstream::Pinned(inputs) => reference.pinned(subject, inputs),
        upstream => reference.evaluated(reference.existing(upstream)?.status.as_ref()),
    }
}

/// What `subject` of an evaluation takes from the `StageTwoRun` called `name`.
///
/// # Errors
/// As [`inherit`].
pub fn of_stage_two(
    subject: &str,
    name: &str,
    upstream: Upstream<'_, StageTwoRun>,
) -> Result<Inherited, Refusal> {
    let reference = Reference { kind: RunKind::StageTwoRun, name };
    match upstream {
        Upstream::Pinned(inputs) => reference.pinned(subject, inputs),
        upstream => reference.evaluated(reference.existing(upstream)?.status.as_ref()),
    }
}

impl Reference<'_> {
    fn wait(self, message: String) -> Refusal {
        let reason = match self.kind {
            RunKind::StageTwoRun => Reason::StageTwoNotSucceeded,
            RunKind::StageOneRun | RunKind::EvaluationRun => Reason::StageOneNotSucceeded,
        };
        Refusal::Wait { reason, message }
    }

    fn existing<'a, K>(self, upstream: Upstream<'a, K>) -> Result<&'a K, Refusal> {
        let Self { kind, name } = self;
        match upstream {
            Upstream::Found(run) => Ok(run),
            Upstream::Unreadable => Err(self.wait(format!(
                "this version of the operator cannot read {kind} {name}; install the version that wrote it, and this run continues on its own"
            ))),
            Upstream::Missing | Upstream::Pinned(_) => {
                Err(self.wait(format!("{kind} {name} does not exist; apply it in this namespace")))
            }
        }
    }

    /// The status of a run that has succeeded.
    fn succeeded(self, status: Option<&RunStatus>) -> Result<&RunStatus, Refusal> {
        let Self { kind, name } = self;
        let succeeded = status.and_then(|status| status.condition(ConditionType::Succeeded));
        match (status, succeeded.map(|condition| condition.status.as_str())) {
            (Some(status), Some("True")) => Ok(status),
            (_, Some("False")) => {
                let why = succeeded.map(|condition| condition.message.clone()).unwrap_or_default();
                let reason = match kind {
                    RunKind::StageTwoRun => Reason::StageTwoFailed,
                    RunKind::StageOneRun | RunKind::EvaluationRun => Reason::StageOneFailed,
                };
                Err(Refusal::Wait {
                    reason,
                    message: format!(
                        "{kind} {name} failed: {why}; fix that and raise its spec.retry, and this run continues on its own"
                    ),
                })
            }
            _ => {
                let phase = succeeded.map_or("Pending", |condition| condition.reason.as_str());
                Err(self.wait(format!(
                    "{kind} {name} has not finished (phase {phase}); this run starts on its own once it has succeeded"
                )))
            }
        }
    }

    /// The adapter that it trained.
    fn adapter(self, status: &RunStatus) -> Result<AdapterLocation, Refusal> {
        let Self { kind, name } = self;
        let artifact = status.artifacts.iter().find(|artifact| artifact.kind == ArtifactKind::Adapter);
        let adapter = artifact.and_then(|artifact| {
            Some(AdapterLocation {
                location: VolumePath {
                    volume: artifact.volume.claim_name.clone(),
                    path: artifact.volume.path.clone(),
                },
                digest: Some(artifact.digest.parse::<Digest>().ok()?),
            })
        });
        adapter.ok_or_else(|| {
            self.wait(format!(
                "{kind} {name} succeeded, but its status has no adapter; raise its spec.rerun to run it again"
            ))
        })
    }

    fn evaluated(self, status: Option<&RunStatus>) -> Result<Inherited, Refusal> {
        let status = self.succeeded(status)?;
        let recorded = status.inputs.as_ref().and_then(|inputs| inputs.model.as_ref());
        let Self { kind, name } = self;
        let model = recorded.and_then(model).ok_or_else(|| {
            self.wait(format!(
                "{kind} {name} succeeded, but its status has no model; raise its spec.rerun to run it again"
            ))
        })?;
        Ok(Inherited { model, adapter: self.adapter(status)? })
    }

    fn pinned(self, subject: &str, inputs: &Inputs) -> Result<Inherited, Refusal> {
        let subject = inputs.subjects.iter().find(|recorded| recorded.name == subject);
        self.recorded(
            subject.and_then(|subject| {
                Some((model(&subject.model)?, subject.adapter.as_ref().and_then(adapter)?))
            }),
        )
    }

    /// What `status.inputs` recorded when the run started. The chat template is in the run config of its first step.
    fn recorded(self, inherited: Option<(Model, AdapterLocation)>) -> Result<Inherited, Refusal> {
        let Self { kind, name } = self;
        inherited.map(|(model, adapter)| Inherited { model, adapter }).ok_or_else(|| {
            self.wait(format!(
                "status.inputs does not record what was inherited from {kind} {name}; raise spec.rerun to start over"
            ))
        })
    }
}

fn digest(text: Option<&String>) -> Option<Digest> {
    text?.parse().ok()
}

fn model(folder: &InputFolder) -> Option<Model> {
    let InputFolder { volume, image, digest: recorded } = folder;
    let (location, image) = match (volume, image) {
        (Some(volume), _) => (validation::folder(volume), None),
        (None, Some(ModelImage { reference, path })) => {
            (VolumePath { volume: MODEL_IMAGE.into(), path: path.clone() }, Some(reference.clone()))
        }
        (None, None) => return None,
    };
    Some(Model { location, image, chat_template: None, digest: digest(recorded.as_ref()) })
}

fn adapter(folder: &InputFolder) -> Option<AdapterLocation> {
    let location = validation::folder(folder.volume.as_ref()?);
    Some(AdapterLocation { location, digest: digest(folder.digest.as_ref()) })
}
