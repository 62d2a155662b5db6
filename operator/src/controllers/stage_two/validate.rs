//! Resolves the spec of a `StageTwoRun`.

use stic_contract::artifact::AdapterLocation;
use stic_contract::config::{DataRecipe, Instructions, ItemSource};
use stic_contract::recipe::{ChatTemplate, DescriptionRecipe, Objective, TrainRecipe};
use stic_contract::{RunKind, pipeline};
use stic_crds::lifecycle::Profile;
use stic_crds::stage_two::{Infusion, StageTwoInit};
use stic_crds::training::{StageTwoMethod, StageTwoTraining};
use stic_crds::{StageOneRun, StageTwoRun, StageTwoRunSpec};

use super::super::upstream::{Inherited, Upstream, inherit};
use super::super::{recipes, validation};
use crate::controllers::validation::{folder, max_skipped_share};
use crate::refusal::Refusal;
use crate::validated::{Hardware, Model, Operation, Training, Validated, Work};

/// The length at which the released code truncates sequences in stage 2.
const RELEASED_MAX_LENGTH: u32 = 2048;

/// Resolves everything about a run. `upstream` is the run that `initFrom.stageOneRunRef` names; without such a reference it
/// is ignored.
///
/// # Errors
/// The run cannot start, now or ever.
pub fn validate(
    object: &StageTwoRun,
    upstream: Upstream<'_, StageOneRun>,
    hardware: Hardware,
) -> Result<Validated, Refusal> {
    let StageTwoRunSpec {
        profile,
        seed,
        init_from,
        instructions,
        images,
        description,
        infusion,
        training,
        output,
        pod,
        backoff,
        active_deadline_seconds,
        suspend,
        retention,
        rerun,
        retry: _,
    } = &object.spec;
    let run = validation::identity(RunKind::StageTwoRun, &object.metadata, *rerun)?;
    let (model, adapter) = start(init_from, upstream)?;
    let templates = recipes::templates(*profile, model.chat_template);
    let pods =
        validation::pods(pod.as_ref(), pipeline::steps(RunKind::StageTwoRun).iter().map(|step| step.name));
    let output = validation::output(output, &run)?;
    validation::check_sharing(&output, description.shards, "spec.description.shards")?;
    let location = folder(&images.volume);
    let (precision, precision_reason) =
        validation::precision(("spec.training.precision", training.precision), &pods, hardware);
    let work = Training {
        profile: *profile,
        items: ItemSource::Instructions(Instructions {
            location: folder(&instructions.volume),
            file: instructions.file.clone(),
            images: location.clone(),
            limit: instructions.limit,
            order: instructions.order,
            on_unreadable: images.on_unreadable,
            max_skipped_share: max_skipped_share(images.max_skipped_share.as_ref())?,
        }),
        images: location,
        data: DataRecipe::Descriptions(DescriptionRecipe {
            prompts: description.prompts.clone(),
            sampling: recipes::sampling(&description.sampling, "spec.description.sampling")?,
            chat_template: templates.generation,
        }),
        train: training_recipe(*profile, infusion, training, adapter.is_some(), templates.training)?,
        layouts: recipes::layouts(*profile),
        model,
        adapter,
    };
    let run = Validated {
        run,
        seed: *seed,
        work: Work::Training(Box::new(work)),
        shards: description.shards,
        precision,
        precision_reason,
        output,
        operation: Operation {
            memory_limits: validation::memory_limits(pod.as_ref(), pods.keys().copied()),
            pods,
            backoff_limit: backoff.limit,
            active_deadline_seconds: *active_deadline_seconds,
            suspend: *suspend,
            batch_size: description.batch_size,
            activation_checkpointing: training.activation_checkpointing,
            retention: retention.clone(),
            queue_labels: validation::for_queue(&object.metadata.labels),
            queue_annotations: validation::for_queue(&object.metadata.annotations),
        },
        ineffective: Vec::new(),
    };
    validation::check_mounts(&run)?;
    validation::check_devices(&run, pod.as_ref(), object.status.as_ref())?;
    Ok(run)
}

fn start(
    init: &StageTwoInit,
    upstream: Upstream<'_, StageOneRun>,
) -> Result<(Model, Option<AdapterLocation>), Refusal> {
    match (&init.stage_one_run_ref, &init.adapter, &init.base_model) {
        (Some(reference), None, None) => {
            let Inherited { model, adapter } = inherit(&reference.name, upstream)?;
            Ok((model, Some(adapter)))
        }
        (None, Some(adapter), None) => {
            let location = AdapterLocation { location: folder(&adapter.volume), digest: None };
            Ok((validation::model(&adapter.model, "spec.initFrom.adapter.model")?, Some(location)))
        }
        (None, None, Some(model)) => Ok((validation::model(model, "spec.initFrom.baseModel")?, None)),
        _ => Err(Refusal::invalid(
            "spec.initFrom",
            "exactly one of stageOneRunRef, adapter, baseModel must be set",
            "keep one of them",
        )),
    }
}

fn training_recipe(
    profile: Profile,
    infusion: &Infusion,
    spec: &StageTwoTraining,
    continues: bool,
    chat_template: ChatTemplate,
) -> Result<TrainRecipe, Refusal> {
    let StageTwoTraining {
        method: StageTwoMethod::Sft,
        lora,
        optimizer,
        epochs,
        global_batch_size,
        max_length,
        precision: _,
        save_steps,
        activation_checkpointing: _,
    } = spec;
    Ok(TrainRecipe {
        objective: Objective::Sft { infusion: Some(infusion.template.clone()) },
        lora: if continues { None } else { Some(recipes::lora(&lora.clone().unwrap_or_default())?) },
        optimizer: recipes::optimizer(optimizer)?,
        epochs: *epochs,
        global_batch_size: *global_batch_size,
        max_length: max_length.or((profile == Profile::OfficialCompat).then_some(RELEASED_MAX_LENGTH)),
        with_image: true,
        chat_template,
        save_steps: *save_steps,
    })
}
