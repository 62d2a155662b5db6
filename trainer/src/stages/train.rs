//! `train`: seals the data, trains a LoRA adapter on it, proves and publishes the adapter.

mod batch;
mod packs;
mod read_ahead;
mod references;
mod steps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use stic_contract::config::{RunConfig, RunKind, Train, TrainData};
use stic_contract::recipe::Objective;
use stic_contract::result::ItemCounts;
use stic_contract::{Artifact, ArtifactKind, Digest, StepName, StepResult};

use self::references::References;
use self::steps::{Places, Training};
use super::disk::{self, Need};
use super::examples::{Example, ExampleBuilder, noise_steps};
use super::items::{Item, PreparedItems};
use super::model_card::{self, Card};
use super::rows::{DescriptionRow, PreferenceRow};
use super::shards::shard_path;
use super::vlm::{Checked, Vlm, adapter_dir};
use super::{StepContext, keys};
use crate::error::{Error, Result};
use crate::io::artifact::{Output, open_input};
use crate::io::journal::{self, Row};
use crate::io::progress::Reporter;
use crate::io::{adapter, atomic};

pub(super) fn run(
    task: &Train,
    config: &RunConfig,
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
) -> Result<StepResult> {
    let prepared = PreparedItems::open(&context.volumes, &task.items, &task.images)?;
    let (data, data_dir) = match config.run.kind {
        RunKind::StageOneRun => {
            seal::<PreferenceRow>(task, &prepared, context, output, ArtifactKind::Preferences)?
        }
        RunKind::StageTwoRun => {
            seal::<DescriptionRow>(task, &prepared, context, output, ArtifactKind::Descriptions)?
        }
    };
    let key = keys::adapter(
        &task.recipe,
        &task.model,
        task.adapter.as_ref().map(|a| &a.digest),
        &data.digest,
        &task.items.digest,
        config.seed,
        task.precision,
    );
    let name = output.name(ArtifactKind::Adapter, &key);
    let result = |adapter: Artifact, metrics| StepResult {
        artifacts: vec![data.clone(), adapter],
        items: Some(ItemCounts { total: prepared.len() as u64, done: prepared.len() as u64, skipped: 0 }),
        metrics,
        ..StepResult::new(StepName::Train)
    };
    let state_dir = output.partial().join(format!("{name}.state"));
    if let Some(there) = output.find(&name)? {
        // An attempt that was killed as it published, or one that another run has overtaken, leaves gigabytes.
        for unfinished in [&state_dir, &output.partial().join(&name)] {
            discard(unfinished)?;
        }
        return Ok(result(there, BTreeMap::new()));
    }

    require_disk(task, &prepared, context, output, 0)?;
    let vlm =
        Vlm::load(&context.volumes.resolve(&task.model.location)?, task.model.image_layout, task.precision)?;
    let encoder = vlm.checked.encoder(task.recipe.chat_template)?;
    let builder = ExampleBuilder { vlm: &vlm, encoder: &encoder, recipe: &task.recipe };
    let examples = build_examples(config.run.kind, &builder, &prepared, &data_dir)?;
    let start = task
        .adapter
        .as_ref()
        .map(|reference| vlm.load_adapter(&adapter_dir(&context.volumes, reference)?))
        .transpose()?;

    let draft = output.begin(ArtifactKind::Adapter, key)?;
    atomic::create_dir(&state_dir)?;
    let training = Training {
        vlm: &vlm,
        prepared: &prepared,
        examples: &examples,
        recipe: &task.recipe,
        seed: config.seed,
        start: start.as_ref(),
        context,
    };
    let places = Places {
        state: &state_dir,
        draft: &draft.dir,
        references: references(task, &data.digest, &state_dir),
        reporter,
    };
    let (trained, last) = training.run(places)?;

    let base = task.model.location.path.rsplit('/').next().filter(|s| !s.is_empty()).unwrap_or("base");
    adapter::save(&trained, &draft.dir, base)?;
    let proof = training.prove(&trained, &draft.dir)?;
    let card = Card {
        config,
        task,
        data: &data,
        base,
        rank: trained.rank(),
        alpha: trained.alpha(),
        proof: &proof,
        examples: examples.len(),
        last: &last,
    };
    atomic::write(&draft.dir.join("README.md"), model_card::render(&card).as_bytes())?;
    let facts = json!({"examples": examples.len(), "steps": training.total_steps(), "proof": proof});
    let artifact = output.finish(draft, StepName::Train, facts)?;
    discard(&state_dir)?;
    let metrics = last.into_iter().map(|(name, value)| (name, format!("{value:.6}"))).collect();
    Ok(result(artifact, metrics))
}

/// Refuses to start where the disk has no room for `sealed` bytes of data, the adapter and its states.
fn require_disk(
    task: &Train,
    prepared: &PreparedItems,
    context: &StepContext,
    output: &Output,
    sealed: u64,
) -> Result<()> {
    let adapter = match (&task.adapter, &task.recipe.lora) {
        // One that is not there is refused where it is read.
        (Some(reference), _) => {
            let weights = context.volumes.resolve(&reference.location)?.join(adapter::WEIGHTS_FILE);
            std::fs::metadata(&weights).map_or(0, |metadata| metadata.len())
        }
        (None, Some(lora)) => {
            let dir = context.volumes.resolve(&task.model.location)?;
            disk::adapter_bytes(&Checked::open(&dir, task.model.image_layout)?.config.text, lora)
        }
        (None, None) => 0,
    };
    let items = prepared.len() as u64;
    let epochs = u64::from(task.recipe.epochs);
    let steps = items.div_ceil(u64::from(task.recipe.global_batch_size.max(1))) * epochs;
    let pairs = if matches!(task.recipe.objective, Objective::Dpo(_)) && epochs > 1 { items } else { 0 };
    // Whatever this step has written of states and of the adapter lies where the rest will.
    let written = output.unfinished(ArtifactKind::Adapter.folder_prefix())?;
    Need::default()
        .and("the sealed data", sealed)
        .and_training(adapter, written)
        .and_references(pairs)
        .and_metrics(steps)
        .require(StepName::Train.as_str(), output.root())
}

/// The data artifact: sealed from the run's own shards, or one that is whole already.
fn seal<R: Row>(
    task: &Train,
    prepared: &PreparedItems,
    context: &StepContext,
    output: &Output,
    kind: ArtifactKind,
) -> Result<(Artifact, PathBuf)> {
    let step = if kind == ArtifactKind::Preferences { StepName::Generate } else { StepName::Describe };
    let set = match &task.data {
        TrainData::Sealed(reference) => {
            let dir = open_input(&context.volumes, reference)?;
            let artifact = Artifact {
                kind,
                location: reference.location.clone(),
                digest: reference.digest.clone(),
                size_bytes: crate::io::artifact::read_marker(&dir)?.map_or(0, |m| m.size_bytes),
                step,
                reused: true,
            };
            return Ok((artifact, dir));
        }
        TrainData::Shards(set) => set,
    };
    let shards_dir = output.partial().join(&set.folder);
    if let Some(there) = output.find(&set.folder)? {
        discard(&shards_dir)?;
        discard(&output.partial().join(format!("{}.sealed", set.folder)))?;
        return Ok((there, output.root().join(&set.folder)));
    }
    require_disk(task, prepared, context, output, output.unfinished(&set.folder)?)?;
    let draft = output.reopen_for_sealing(kind, &set.folder)?;
    let shards: Vec<PathBuf> = (0..set.shards.max(1)).map(|i| shard_path(&shards_dir, i)).collect();
    journal::seal::<R, _>(&shards, &draft.dir.join(kind.payload_file()), prepared.rows())?;
    let artifact = output.finish(draft, step, json!({"rows": prepared.len()}))?;
    discard(&shards_dir)?;
    Ok((artifact, output.root().join(&set.folder)))
}

/// Kept where a pair is met more than once under the same image.
fn references(task: &Train, data: &Digest, state_dir: &Path) -> References {
    let same = matches!(task.recipe.objective, Objective::Dpo(_)) && noise_steps(&task.recipe).is_none();
    if task.recipe.epochs > 1 && same {
        References::open(state_dir, Digest::of_json(&keys::references(task, data)))
    } else {
        References::forgotten()
    }
}

/// Removes a folder of unfinished work, if it is there.
fn discard(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::storage(dir)(error)),
        _ => Ok(()),
    }
}

fn build_examples(
    kind: RunKind,
    builder: &ExampleBuilder<'_>,
    prepared: &PreparedItems,
    data_dir: &Path,
) -> Result<Vec<Example>> {
    let path = |kind: ArtifactKind| data_dir.join(kind.payload_file());
    let examples: Vec<Example> = match kind {
        RunKind::StageOneRun => join(prepared, &path(ArtifactKind::Preferences), |i, item, row| {
            builder.of_preference(i, item, row)
        })?,
        RunKind::StageTwoRun => join(prepared, &path(ArtifactKind::Descriptions), |i, item, row| {
            builder.of_description(i, item, row)
        })?,
    };
    if examples.is_empty() {
        return Err(Error::Data(format!("{}: there is nothing to train on", data_dir.display())));
    }
    Ok(examples)
}

/// An example of each row of sealed data.
fn join<R: Row>(
    prepared: &PreparedItems,
    data: &Path,
    build: impl Fn(usize, &Item, &R) -> Result<Example>,
) -> Result<Vec<Example>> {
    journal::read::<R>(data)?
        .map(|row| {
            let row = row?;
            let index = prepared.rows().index_of(row.id())?;
            build(index, &prepared.get(index)?, &row)
        })
        .collect()
}
