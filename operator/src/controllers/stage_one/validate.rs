//! A `StageOneRun` becomes a [`Validated`], or a reason why not.

use stic_contract::config::{AdapterLocation, DataRecipe, Instructions, ItemSource};
use stic_contract::recipe::{
    Corruption, Dpo, Negatives, Objective, Order, PreferenceRecipe, PreferenceSource, RejectedTerm,
    TrainRecipe, WeightedCorruption,
};
use stic_contract::{RunKind, pipeline};
use stic_crds::lifecycle::Profile;
use stic_crds::preferences::{self, CorruptionKind, CorruptionTime, Preferences};
use stic_crds::training::{Method, StageOneTraining};
use stic_crds::volumes::VolumeFile;
use stic_crds::{Decimal, StageOneRun, StageOneRunSpec};

use super::super::train;
use crate::refusal::Refusal;
use crate::validated::{self, Hardware, Operation, Validated, folder, number};

/// Where the released code cuts sequences in stage 1.
const RELEASED_MAX_LENGTH: u32 = 1048;

/// Settles everything about a run.
///
/// # Errors
/// What keeps it from ever running.
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
    } = &object.spec;
    let run = validated::identity(RunKind::StageOneRun, &object.metadata, *rerun)?;
    let model = validated::model(model, "spec.model")?;
    let templates = train::templates(*profile, model.chat_template);
    let pods = validated::pods(pod, pipeline::steps(RunKind::StageOneRun).iter().map(|step| step.name));
    let output = validated::output(output, &run)?;
    validated::check_sharing(&output, preferences.shards, "spec.preferences.shards")?;
    let location = folder(&images.volume);
    let file = |file: &Option<VolumeFile>, name: &str| {
        file.clone().ok_or_else(|| {
            Refusal::invalid(
                format!("spec.preferences.{name}"),
                "is missing",
                "name the file, or set source to Generate",
            )
        })
    };
    let items = match preferences.source {
        PreferenceSource::Generate => ItemSource::Images {
            location: location.clone(),
            list_file: images.list_file.clone(),
            limit: images.limit,
            on_unreadable: images.on_unreadable,
        },
        PreferenceSource::File => {
            let pairs = file(&preferences.pairs, "pairs")?;
            ItemSource::Pairs {
                location: folder(&pairs.volume),
                file: pairs.file,
                images: location.clone(),
                limit: images.limit,
                on_unreadable: images.on_unreadable,
            }
        }
        PreferenceSource::Instructions => {
            let instructions = file(&preferences.instructions, "instructions")?;
            ItemSource::Instructions(Instructions {
                location: folder(&instructions.volume),
                file: instructions.file,
                images: location.clone(),
                limit: images.limit,
                order: Order::Seeded,
                on_unreadable: images.on_unreadable,
            })
        }
    };
    let run = Validated {
        run,
        profile: *profile,
        seed: *seed,
        adapter: init_from
            .as_ref()
            .map(|init| AdapterLocation { location: folder(&init.adapter.volume), digest: None }),
        items,
        images: location,
        data: DataRecipe::Preferences(recipe(*profile, preferences, templates.generation)?),
        shards: preferences.shards,
        train: training_recipe(*profile, preferences, training, init_from.is_some(), templates.training)?,
        layouts: train::layouts(*profile),
        precision: validated::precision(training.precision, &pods, hardware),
        model,
        output,
        operation: Operation {
            pods,
            backoff_limit: backoff.limit,
            active_deadline_seconds: *active_deadline_seconds,
            suspend: *suspend,
            retention: retention.clone(),
            queue_labels: validated::for_queue(&object.metadata.labels),
            queue_annotations: validated::for_queue(&object.metadata.annotations),
        },
    };
    validated::check_mounts(&run)?;
    Ok(run)
}

/// The steps that a spec's corruptions can act in.
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
    // The released code never passes its corruption flag: what should come from a corrupted image comes from the
    // caption prompt on the clean one. That is what an empty list means.
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
        sampling: train::sampling(&spec.sampling, "spec.preferences.sampling")?,
        chat_template,
    })
}

fn weighted(i: usize, spec: &preferences::Corruption) -> Result<WeightedCorruption, Refusal> {
    let at = |name: &str| format!("spec.preferences.corruptions[{i}].{name}");
    let missing = |name: &str| Refusal::invalid(at(name), "is missing", "give it, or change kind");
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
        precision: _,
        save_steps,
    } = spec;
    let released = profile == Profile::OfficialCompat;
    let mut optimizer = train::optimizer(optimizer)?;
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
        lora: if continues { None } else { Some(train::lora(&lora.clone().unwrap_or_default())?) },
        optimizer,
        epochs: *epochs,
        global_batch_size: *global_batch_size,
        max_length: released.then_some(RELEASED_MAX_LENGTH),
        with_image: !released,
        chat_template,
        save_steps: *save_steps,
    })
}
