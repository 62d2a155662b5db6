//! What the spec of a run was resolved to, and its inputs.

use stic_contract::artifact::AdapterLocation;
use stic_contract::config::DataRecipe;
use stic_contract::recipe::{self, Objective, TrainRecipe};
use stic_contract::result::InputDigests;
use stic_contract::{ArtifactKind, Digest, RunKind, StepName, StepResult, VolumePath};
use stic_crds::Decimal;
use stic_crds::model::ModelImage;
use stic_crds::status::{InputFolder, InputItems, InputSubject, Inputs, Resolved, RunStatus};
use stic_crds::training::Precision;
use stic_crds::volumes::VolumeFolder;

use crate::snapshot::{StepOutcome, StepSnapshot, Steps};
use crate::trainer_images::TrainerImages;
use crate::validated::{Evaluation, Model, Training, Validated, Work};

pub(super) fn volume(location: &VolumePath) -> VolumeFolder {
    VolumeFolder { claim_name: location.volume.clone(), path: location.path.clone() }
}

pub(super) fn resolved(run: &Validated, previous: &RunStatus, images: Option<&TrainerImages>) -> Resolved {
    // Once the trainer image is pinned, the run is under way and keeps what it was resolved to.
    if let Some(pinned) = previous.resolved.as_ref().filter(|resolved| resolved.trainer_image.is_some()) {
        return pinned.clone();
    }
    let resolved = Resolved {
        profile: None,
        precision: match run.precision {
            recipe::Precision::F32 => Precision::F32,
            recipe::Precision::Bf16 => Precision::Bf16,
        },
        precision_reason: Some(run.precision_reason.clone()),
        trainer_image: images.map(|images| images.cpu.clone()),
        trainer_gpu_image: images.map(|images| images.gpu.clone()),
        corrupted_share: None,
        generation_template: recipe::ChatTemplate::Auto,
        training_template: None,
        training_image_layout: None,
        training_with_image: None,
        max_length: None,
        rejected_term: None,
        learning_rate: None,
    };
    match &run.work {
        Work::Training(training) => resolved_training(training, resolved),
        Work::Evaluation(evaluation) => {
            Resolved { generation_template: evaluation.chat_template, ..resolved }
        }
    }
}

fn resolved_training(training: &Training, resolved: Resolved) -> Resolved {
    let (share, generation_template) = match &training.data {
        DataRecipe::Preferences(recipe) => (Some(recipe.corrupted_share), recipe.chat_template),
        DataRecipe::Descriptions(recipe) => (None, recipe.chat_template),
    };
    let TrainRecipe { chat_template, with_image, max_length, objective, optimizer, .. } = &training.train;
    Resolved {
        profile: Some(training.profile),
        corrupted_share: share.map(|share| Decimal::new(share.to_string())),
        generation_template,
        training_template: Some(*chat_template),
        training_image_layout: Some(training.layouts.training),
        training_with_image: Some(*with_image),
        max_length: *max_length,
        rejected_term: match objective {
            Objective::Dpo(dpo) => Some(dpo.rejected_term),
            Objective::Sft { .. } => None,
        },
        learning_rate: Some(Decimal::new(format!("{:e}", optimizer.learning_rate))),
        ..resolved
    }
}

pub(super) fn inputs(run: &Validated, steps: &Steps) -> Inputs {
    let found = match steps.get(&StepName::Prepare) {
        Some(StepSnapshot { outcome: StepOutcome::Succeeded(result), .. }) => Some(result.as_ref()),
        _ => None,
    };
    match &run.work {
        Work::Training(training) => {
            inputs_of_training(run.run.kind, training, found.and_then(|found| found.inputs.as_ref()))
        }
        Work::Evaluation(evaluation) => inputs_of_evaluation(evaluation, found),
    }
}

fn inputs_of_training(kind: RunKind, training: &Training, found: Option<&InputDigests>) -> Inputs {
    let items = found.map(|found| InputItems { count: found.item_count, digest: found.items.to_string() });
    let (images, instructions) = match kind {
        RunKind::StageOneRun => (items, None),
        RunKind::StageTwoRun | RunKind::EvaluationRun => (None, items),
    };
    let adapter = training.adapter.as_ref();
    Inputs {
        model: Some(model(&training.model, found.map(|found| &found.model))),
        adapter: adapter
            .map(|location| adapter_folder(location, found.and_then(|found| found.adapter.as_ref()))),
        images,
        instructions,
        ..Inputs::default()
    }
}

fn inputs_of_evaluation(evaluation: &Evaluation, found: Option<&StepResult>) -> Inputs {
    let subjects = evaluation.subjects.iter().map(|subject| {
        let digests = found.and_then(|found| found.subjects.iter().find(|it| it.name == subject.name));
        let adapter = subject.adapter.as_ref();
        InputSubject {
            name: subject.name.clone(),
            model: model(&subject.model, digests.map(|digests| &digests.model)),
            adapter: adapter
                .map(|location| adapter_folder(location, digests.and_then(|it| it.adapter.as_ref()))),
        }
    });
    let questions = found.and_then(|found| {
        let artifact = found.artifacts.iter().find(|artifact| artifact.kind == ArtifactKind::Questions)?;
        Some(InputItems { count: found.items?.done, digest: artifact.digest.to_string() })
    });
    Inputs { subjects: subjects.collect(), questions, ..Inputs::default() }
}

fn model(model: &Model, found: Option<&Digest>) -> InputFolder {
    InputFolder {
        volume: model.image.is_none().then(|| volume(&model.location)),
        image: model
            .image
            .as_ref()
            .map(|reference| ModelImage { reference: reference.clone(), path: model.location.path.clone() }),
        digest: found.or(model.digest.as_ref()).map(ToString::to_string),
    }
}

fn adapter_folder(adapter: &AdapterLocation, found: Option<&Digest>) -> InputFolder {
    InputFolder {
        volume: Some(volume(&adapter.location)),
        image: None,
        digest: found.or(adapter.digest.as_ref()).map(ToString::to_string),
    }
}
