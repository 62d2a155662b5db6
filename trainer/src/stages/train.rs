//! `train`: seals the data, trains a LoRA adapter on it, verifies and publishes the adapter.

mod batches;
mod degenerate;
mod examples;
mod inputs;
mod memory_plan;
mod model_card;
mod packing;
mod reference_log_probs;
mod sealing;
mod space_check;
mod train_loop;
mod verification;

use std::path::Path;

use serde_json::{Value, json};
use stic_contract::config::Train;
use stic_contract::recipe::{Objective, TrainRecipe};
use stic_contract::result::ItemCounts;
use stic_contract::{Artifact, ArtifactKind, Digest, RunKind, StepName, StepResult};

use self::degenerate::DegeneratePairs;
pub(super) use self::examples::noise_steps;
use self::examples::{Example, ExampleBuilder, TrainingRecord};
use self::inputs::TrainingInputs;
use self::model_card::ModelCard;
pub(super) use self::packing::MAX_TOKENS as MAX_PACK_TOKENS;
use self::reference_log_probs::ReferenceLogProbs;
use self::sealing::{discard, seal};
use self::space_check::check_disk_space;
use self::train_loop::{TrainingOutputs, train};
use super::context::Execution;
use super::inputs::{load_adapter, load_model};
use super::items::PreparedItems;
use super::records::{DescriptionRecord, PreferenceRecord};
use crate::checkpoint::adapter::{self, AdapterNames};
use crate::error::{Error, Result};
use crate::io::artifact::read_marker;
use crate::io::atomic;
use crate::io::journal;
use crate::io::metrics;

pub(super) fn run(task: &Train, execution: Execution<'_>) -> Result<StepResult> {
    match execution.config.run.kind {
        RunKind::StageOneRun => train_on::<PreferenceRecord>(task, execution),
        RunKind::StageTwoRun => train_on::<DescriptionRecord>(task, execution),
        RunKind::EvaluationRun => Err(Error::Config(
            "run.kind: an EvaluationRun has no step train; use the run config of a StageOneRun or StageTwoRun".into(),
        )),
    }
}

fn train_on<R: TrainingRecord>(task: &Train, execution: Execution<'_>) -> Result<StepResult> {
    let Execution { config, devices, context, output, reporter } = execution;
    let [device] = devices else {
        let message = "training uses one GPU; request one in pod.training.resources";
        return Err(Error::Config(message.into()));
    };
    let prepared = PreparedItems::open(&context.volumes, &task.items, &task.images)?;
    let (data, data_dir) = seal::<R>(task, &prepared, context, output)?;
    let key = key(task, &data.digest, config.seed);
    let name = output.name(ArtifactKind::Adapter, &key);
    // Whoever trained the adapter, its own metrics are reported.
    let result = |adapter: Artifact| -> Result<StepResult> {
        let dir = output.root().join(&name);
        let total = prepared.len() as u64;
        let done = read_marker(&dir)?.and_then(|marker| marker.facts["examples"].as_u64()).unwrap_or(total);
        let skipped = total.saturating_sub(done);
        Ok(StepResult {
            artifacts: vec![data.clone(), adapter],
            items: Some(ItemCounts { total, done, skipped }),
            metrics: metrics::last(&dir)?,
            message: (skipped > 0).then(|| {
                format!("{skipped} of {total} items were too long to train on; raise training.maxLength or lower maxNewTokens, or see the log of the step that trained the adapter for the reason of each")
            }),
            ..StepResult::new(StepName::Train)
        })
    };
    let state_dir = output.partial().join(format!("{name}.state"));
    if let Some(existing) = output.find(&name)? {
        // An attempt that was killed while publishing, or that another run overtook, leaves gigabytes.
        for unfinished in [&state_dir, &output.partial().join(&name)] {
            discard(unfinished)?;
        }
        return result(existing);
    }

    check_disk_space(task, &prepared, context, output, 0)?;
    let vlm = load_model(&context.volumes, &task.model, task.precision, device)?;
    let encoder = vlm.files.encoder(task.recipe.chat_template)?;
    let builder = ExampleBuilder { vlm: &vlm, encoder: &encoder, recipe: &task.recipe };
    let examples = read_examples::<R>(&builder, &prepared, &data_dir)?;
    let initial_adapter = load_adapter(&context.volumes, &vlm, task.adapter.as_ref())?;

    let draft = output.begin(ArtifactKind::Adapter, key)?;
    atomic::create_dir(&state_dir)?;
    let inputs = TrainingInputs {
        vlm: &vlm,
        prepared: &prepared,
        examples: &examples,
        recipe: &task.recipe,
        activation_checkpointing: task.activation_checkpointing,
        seed: config.seed,
        initial_adapter: initial_adapter.as_ref(),
        context,
    };
    let outputs = TrainingOutputs {
        state_dir: &state_dir,
        draft: &draft.dir,
        references: reference_log_probs(task, &data.digest, &state_dir),
        reporter,
    };
    let (trained, metrics) = train(&inputs, outputs)?;

    let base = task.model.location.path.rsplit('/').next().filter(|s| !s.is_empty()).unwrap_or("base");
    adapter::save(&trained, &draft.dir, base, AdapterNames::Transformers)?;
    let verification = verification::verify(&inputs, &trained, &draft.dir)?;
    let card = ModelCard {
        config,
        task,
        data: &data,
        base,
        rank: trained.rank(),
        alpha: trained.alpha(),
        verification: &verification,
        examples: examples.len(),
        metrics: &metrics,
    };
    atomic::write(&draft.dir.join("README.md"), card.render().as_bytes())?;
    let facts = json!({"examples": examples.len(), "steps": inputs.total_steps(), "proof": verification});
    let artifact = output.finish(draft, StepName::Train, facts)?;
    discard(&state_dir)?;
    result(artifact)
}

/// What determines the bytes of the adapter, and so names its folder.
fn key(task: &Train, data: &Digest, seed: u64) -> Value {
    // How often the training state is saved changes no weight.
    let recipe = TrainRecipe { save_steps: 0, ..task.recipe.clone() };
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "recipe": recipe,
        "model": task.model.digest,
        "imageLayout": task.model.image_layout,
        "adapter": task.adapter.as_ref().map(|adapter| &adapter.digest),
        "data": data,
        "items": task.items.digest,
        "seed": seed,
        "precision": task.precision,
        "worldSize": 1,
    })
}

/// Cached if a pair occurs more than once with the same image.
fn reference_log_probs(task: &Train, data: &Digest, state_dir: &Path) -> ReferenceLogProbs {
    let TrainRecipe { objective, max_length, with_image, chat_template, .. } = &task.recipe;
    let reusable = matches!(objective, Objective::Dpo(_)) && noise_steps(&task.recipe).is_none();
    if task.recipe.epochs < 2 || !reusable {
        return ReferenceLogProbs::uncached();
    }
    let key = json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "objective": objective,
        "maxLength": max_length,
        "withImage": with_image,
        "chatTemplate": chat_template,
        "model": task.model.digest,
        "imageLayout": task.model.image_layout,
        "adapter": task.adapter.as_ref().map(|adapter| &adapter.digest),
        "data": data,
        "items": task.items.digest,
        "precision": task.precision,
    });
    ReferenceLogProbs::open(state_dir, Digest::of_json(&key))
}

/// One example per row of the sealed data, without those that cannot be made.
fn read_examples<R: TrainingRecord>(
    builder: &ExampleBuilder<'_>,
    prepared: &PreparedItems,
    data_dir: &Path,
) -> Result<Vec<Example>> {
    let path = data_dir.join(R::KIND.payload_file());
    let mut degenerate = DegeneratePairs::default();
    let mut examples = Vec::new();
    let mut left_out = None;
    for record in journal::read::<R>(&path)? {
        let record = record?;
        record.count_in(&mut degenerate);
        let index = prepared.index_of(record.id())?;
        match record.example(builder, index, &prepared.get(index)?)? {
            Ok(example) => examples.push(example),
            Err(reason) => {
                tracing::warn!("left out item {:?}: {reason}", record.id());
                left_out.get_or_insert((record.id().to_owned(), reason));
            }
        }
    }
    match left_out {
        Some((id, reason)) if examples.is_empty() => {
            return Err(Error::Data(format!("no item can be trained on (the first, {id:?}: {reason})")));
        }
        None if examples.is_empty() => {
            return Err(Error::Data(format!(
                "{}: no rows to train on; run the step that generates the data again",
                path.display()
            )));
        }
        _ => {}
    }
    let noisy = noise_steps(builder.recipe).is_some();
    degenerate.check(&builder.recipe.objective, noisy).map_err(|e| e.in_row(&path.display().to_string()))?;
    Ok(examples)
}
