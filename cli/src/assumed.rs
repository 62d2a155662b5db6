//! The status that a run will have if it succeeds, as far as other runs depend on it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use stic_contract::{ArtifactKind, Digest, StepName, VolumePath};
use stic_crds::model::ModelImage;
use stic_crds::status::{ArtifactState, ArtifactStatus, InputFolder, Inputs, RunStatus};
use stic_crds::volumes::VolumeFolder;
use stic_crds::{ConditionType, Reason};
use stic_operator::Validated;

/// What is not known before the run: stands for the real ones.
pub(crate) struct Unknown {
    /// The folder of the adapter in the output path.
    pub folder: String,
    pub adapter: Digest,
    pub model: Option<Digest>,
}

/// The status of `run` after it has trained an adapter.
pub(crate) fn success(run: &Validated, unknown: &Unknown) -> RunStatus {
    let folder = |location: &VolumePath| VolumeFolder {
        claim_name: location.volume.clone(),
        path: location.path.clone(),
    };
    let condition = Condition {
        type_: ConditionType::Succeeded.as_str().into(),
        status: "True".into(),
        reason: Reason::Succeeded.as_str().into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    let adapter = ArtifactStatus {
        kind: ArtifactKind::Adapter,
        volume: folder(&run.output.location.join(&unknown.folder)),
        digest: unknown.adapter.to_string(),
        size_bytes: 0,
        step: StepName::Train,
        state: ArtifactState::Created,
    };
    let model = run.work.training().map(|training| &training.model);
    let model = model.map(|model| InputFolder {
        volume: model.image.is_none().then(|| folder(&model.location)),
        image: model
            .image
            .as_ref()
            .map(|reference| ModelImage { reference: reference.clone(), path: model.location.path.clone() }),
        digest: unknown.model.as_ref().map(ToString::to_string),
    });
    RunStatus {
        conditions: vec![condition],
        artifacts: vec![adapter],
        inputs: Some(Inputs { model, ..Inputs::default() }),
        ..RunStatus::default()
    }
}
