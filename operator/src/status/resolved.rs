//! What the spec of a run was resolved to, and its inputs.

use stic_contract::config::DataRecipe;
use stic_contract::recipe::{self, Objective};
use stic_contract::result::InputDigests;
use stic_contract::{RunKind, StepName, VolumePath};
use stic_crds::Decimal;
use stic_crds::model::ModelImage;
use stic_crds::status::{InputFolder, InputItems, Inputs, Resolved, RunStatus};
use stic_crds::training::Precision;
use stic_crds::volumes::VolumeFolder;

use crate::snapshot::{StepOutcome, StepSnapshot, Steps};
use crate::trainer_images::TrainerImages;
use crate::validated::Validated;

pub(super) fn volume(location: &VolumePath) -> VolumeFolder {
    VolumeFolder { claim_name: location.volume.clone(), path: location.path.clone() }
}

pub(super) fn resolved(run: &Validated, previous: &RunStatus, images: Option<&TrainerImages>) -> Resolved {
    // Once the trainer image is pinned, the run is under way and keeps what it was resolved to.
    if let Some(pinned) = previous.resolved.as_ref().filter(|resolved| resolved.trainer_image.is_some()) {
        return pinned.clone();
    }
    let (share, generation_template) = match &run.data {
        DataRecipe::Preferences(recipe) => (Some(recipe.corrupted_share), recipe.chat_template),
        DataRecipe::Descriptions(recipe) => (None, recipe.chat_template),
    };
    Resolved {
        profile: run.profile,
        precision: match run.precision {
            recipe::Precision::F32 => Precision::F32,
            recipe::Precision::Bf16 => Precision::Bf16,
        },
        precision_reason: Some(run.precision_reason.clone()),
        trainer_image: images.map(|images| images.cpu.clone()),
        trainer_gpu_image: images.map(|images| images.gpu.clone()),
        corrupted_share: share.map(|share| Decimal::new(share.to_string())),
        generation_template,
        training_template: run.train.chat_template,
        training_image_layout: run.layouts.training,
        training_with_image: run.train.with_image,
        max_length: run.train.max_length,
        rejected_term: match &run.train.objective {
            Objective::Dpo(dpo) => Some(dpo.rejected_term),
            Objective::Sft { .. } => None,
        },
        learning_rate: Decimal::new(format!("{:e}", run.train.optimizer.learning_rate)),
    }
}

pub(super) fn inputs(run: &Validated, steps: &Steps) -> Inputs {
    let found: Option<&InputDigests> = match steps.get(&StepName::Prepare) {
        Some(StepSnapshot { outcome: StepOutcome::Succeeded(result), .. }) => result.inputs.as_ref(),
        _ => None,
    };
    let items = found.map(|found| InputItems { count: found.item_count, digest: found.items.to_string() });
    let (images, instructions) = match run.run.kind {
        RunKind::StageOneRun => (items, None),
        RunKind::StageTwoRun => (None, items),
    };
    let model_digest = found.map(|found| &found.model).or(run.model.digest.as_ref());
    Inputs {
        model: Some(InputFolder {
            volume: run.model.image.is_none().then(|| volume(&run.model.location)),
            image: run.model.image.as_ref().map(|reference| ModelImage {
                reference: reference.clone(),
                path: run.model.location.path.clone(),
            }),
            digest: model_digest.map(ToString::to_string),
        }),
        adapter: run.adapter.as_ref().map(|adapter| InputFolder {
            volume: Some(volume(&adapter.location)),
            image: None,
            digest: found
                .and_then(|found| found.adapter.as_ref())
                .or(adapter.digest.as_ref())
                .map(ToString::to_string),
        }),
        images,
        instructions,
    }
}
