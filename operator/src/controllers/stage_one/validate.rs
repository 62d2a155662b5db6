//! Resolves the spec of a `StageOneRun`.

use stic_contract::artifact::AdapterLocation;
use stic_contract::config::{DataRecipe, Instructions, ItemSource};
use stic_contract::recipe::{
    Corruption, Dpo, Negatives, Objective, Order, PreferenceRecipe, PreferenceSource, RejectedTerm,
    TrainRecipe, WeightedCorruption,
};
use stic_contract::{RunKind, pipeline};
use stic_crds::lifecycle::Profile;
use stic_crds::preferences::{self, CorruptionKind, CorruptionTime, Preferences};
use stic_crds::stage_one::StageOneImages;
use stic_crds::training::{Method, StageOneTraining};
use stic_crds::volumes::VolumeFile;
use stic_crds::{Decimal, StageOneRun, StageOneRunSpec};

use super::super::{recipes, validation};
use super::ineffective::ineffective;
use crate::controllers::validation::{folder, max_skipped_share, number};
use crate::refusal::Refusal;
use crate::validated::{Hardware, Operation, Training, Validated, Work};

/// The length at which the released code truncates sequences in stage 1.
const RELEASED_MAX_LENGTH: u32 = 1048;

/// Resolves everything about a run.
///
/// # Errors
/// The run can never start.
pub fn validate(object: &StageOneRun, hardware: Hardware) -> Result<Validated, Refusal> {
    let StageOneRunSpec {
        profile,
        seed,
        model,
        images,
        init_from,
        preferences,
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
    let run = validation::identity(RunKind::StageOneRun, &object.metadata, *rerun)?;
    let model = validation::model(model, "spec.model")?;
    let templates = recipes::templates(*profile, model.chat_template);
    let pods =
        validation::pods(pod.as_ref(), pipeline::steps(RunKind::StageOneRun).iter().map(|step| step.name));
    let output = validation::output(output, &run)?;
    validation::check_sharing(&output, preferences.shards, "spec.preferences.shards")?;
    let location = folder(&images.volume);
    let items = items(images, preferences)?;
    let (precision, precision_reason) =
        validation::precision(("spec.training.precision", training.precision), &pods, hardware);
    let work = Training {
        profile: *profile,
        adapter: init_from
            .as_ref()
            .map(|init| AdapterLocation { location: folder(&init.adapter.volume), digest: None }),
        items,
        images: location,
        data: DataRecipe::Preferences(recipe(*profile, preferences, templates.generation)?),
        train: training_recipe(*profile, preferences, training, init_from.is_some(), templates.training)?,
        layouts: recipes::layouts(*profile),
        model,
    };
    let run = Validated {
        run,
        seed: *seed,
        work: Work::Training(Box::new(work)),
        shards: preferences.shards,
        precision,
        precision_reason,
        output,
        operation: Operation {
            memory_limits: validation::memory_limits(pod.as_ref(), pods.keys().copied()),
            pods,
            backoff_limit: backoff.limit,
            active_deadline_seconds: *active_deadline_seconds,
            suspend: *suspend,
            batch_size: preferences.batch_size,
            activation_checkpointing: training.activation_checkpointing,
            retention: retention.clone(),
            queue_labels: validation::for_queue(&object.metadata.labels),
            queue_annotations: validation::for_queue(&object.metadata.annotations),
        },
        ineffective: ineffective(*profile, preferences),
    };
    validation::check_mounts(&run)?;
    validation::check_devices(&run, pod.as_ref(), object.status.as_ref())?;
    Ok(run)
}

/// Where the items of the run come from.
fn items(images: &StageOneImages, preferences: &Preferences) -> Result<ItemSource, Refusal> {
    let location = folder(&images.volume);
    let max_skipped_share = max_skipped_share(images.max_skipped_share.as_ref())?;
    let file = |file: &Option<VolumeFile>, name: &str| {
        file.clone().ok_or_else(|| {
            Refusal::invalid(
                format!("spec.preferences.{name}"),
                "is missing",
                "name the file, or set source to Generate",
            )
        })
    };
    Ok(match preferences.source {
        PreferenceSource::Generate => ItemSource::Images {
            location,
            list_file: images.list_file.clone(),
            limit: images.limit,
            on_unreadable: images.on_unreadable,
            max_skipped_share,
        },
        PreferenceSource::File => {
            let pairs = file(&preferences.pairs, "pairs")?;
            ItemSource::Pairs {
                location: folder(&pairs.volume),
                file: pairs.file,
                images: location,
                limit: images.limit,
                on_unreadable: images.on_unreadable,
                max_skipped_share,
            }
        }
        PreferenceSource::Instructions => {
            let instructions = file(&preferences.instructions, "instructions")?;
            ItemSource::Instructions(Instructions {
                location: folder(&instructions.volume),
                file: instructions.file,
                images: location,
                limit: images.limit,
                order: Order::Seeded,
                on_unreadable: images.on_unreadable,
                max_skipped_share,
            })
        }
    })
}

fn acts_in_training(corruption: &preferences::Corruption) -> bool {
    corruption.at == Some(CorruptionTime::Training)
}

fn recipe(
    profile: Profile,
    spec: &Preferences,
    chat_template: stic_contract::recipe::ChatTemplate,
) -> Result<PreferenceRecipe, Refusal> {
    let corrupted_share = match spec.negatives {
        Negatives::Both => {
            let share = spec.corrupted_share.clone().unwrap_or_else(|| Decimal::new("0.5"));
            number("spec.preferences.corruptedShare", &share)?
        }
        Negatives::ImagesOnly => 1.0,
        Negatives::PromptsOnly | Negatives::None => 0.0,
    };
    // The released code never passes its corruption flag, so that responses to a "corrupted" image come from the caption
    // prompt on the clean one. An empty list means that.
    let corruptions = match profile {
        Profile::OfficialCompat => Vec::new(),
        Profile::Paper => spec
            .corruptions
            .iter()
            .enumerate()
            .filter(|(_, corruption)| !acts_in_training(corruption))
            .map(|(i, corruption)| weighted(i, corruption))
            .collect::<Result<_, _>>()?,
    };
    Ok(PreferenceRecipe {
        source: spec.source,
        negatives: spec.negatives,
        corrupted_share,
        caption_prompts: spec.caption_prompts.clone(),
        well_curated_prompt: spec.well_curated_prompt.clone(),
        hallucination_prompts: spec.hallucination_prompts.clone(),
        corruptions,
        sampling: recipes::sampling(&spec.sampling, "spec.preferences.sampling")?,
        chat_template,
    })
}

fn weighted(i: usize, spec: &preferences::Corruption) -> Result<WeightedCorruption, Refusal> {
    let at = |name: &str| format!("spec.preferences.corruptions[{i}].{name}");
    let missing = |name: &str| Refusal::invalid(at(name), "is missing", "set it, or change kind");
    let decimal =
        |name: &str, value: &Option<Decimal>| number(&at(name), value.as_ref().ok_or_else(|| missing(name))?);
    let corruption = match spec.kind {
        CorruptionKind::LowResolution => {
            Corruption::LowResolution { short_side: spec.short_side.ok_or_else(|| missing("shortSide"))? }
        }
        CorruptionKind::ColorJitter => Corruption::ColorJitter {
            brightness: decimal("brightness", &spec.brightness)?,
            hue: decimal("hue", &spec.hue)?,
        },
        CorruptionKind::GaussianNoise => {
            Corruption::GaussianNoise { steps: spec.steps.ok_or_else(|| missing("steps"))? }
        }
    };
    Ok(WeightedCorruption { weight: spec.weight, corruption })
}

fn training_recipe(
    profile: Profile,
    preferences: &Preferences,
    spec: &StageOneTraining,
    continues: bool,
    chat_template: stic_contract::recipe::ChatTemplate,
) -> Result<TrainRecipe, Refusal> {
    let StageOneTraining {
        method,
        reference,
        dpo,
        sft,
        lora,
        optimizer,
        epochs,
        global_batch_size,
        max_length,
        precision: _,
        save_steps,
        activation_checkpointing: _,
    } = spec;
    let released = profile == Profile::OfficialCompat;
    let mut optimizer = recipes::optimizer(optimizer)?;
    let objective = match method {
        Method::Sft => {
            optimizer.learning_rate = number("spec.training.sft.learningRate", &sft.learning_rate)?;
            Objective::Sft { infusion: None }
        }
        Method::Dpo => {
            let at = |name: &str| format!("spec.training.dpo.{name}");
            Objective::Dpo(Dpo {
                loss: dpo.loss,
                beta: number(&at("beta"), &dpo.beta)?,
                label_smoothing: number(&at("labelSmoothing"), &dpo.label_smoothing)?,
                chosen_log_prob_weight: number(&at("chosenLogProbWeight"), &dpo.chosen_log_prob_weight)?,
                rejected_term: if released { RejectedTerm::TopLogit } else { RejectedTerm::LogProb },
                reference: *reference,
                rejected_image_noise_steps: preferences
                    .corruptions
                    .iter()
                    .find(|corruption| acts_in_training(corruption))
                    .and_then(|corruption| corruption.steps),
            })
        }
    };
    Ok(TrainRecipe {
        objective,
        lora: if continues { None } else { Some(recipes::lora(&lora.clone().unwrap_or_default())?) },
        optimizer,
        epochs: *epochs,
        global_batch_size: *global_batch_size,
        max_length: max_length.or(released.then_some(RELEASED_MAX_LENGTH)),
        with_image: !released,
        chat_template,
        save_steps: *save_steps,
    })
}
