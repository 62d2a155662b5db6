//! `train`: seals the data, trains a LoRA adapter on it, proves and publishes the adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use stic_contract::config::{RunConfig, RunKind, Train, TrainData};
use stic_contract::recipe::{Lora, Objective, TrainRecipe};
use stic_contract::result::ItemCounts;
use stic_contract::{Artifact, ArtifactKind, StepName, StepResult};

use super::examples::{Example, ExampleBuilder, Tokens, images_of};
use super::items::PreparedItems;
use super::model_card::{self, Card};
use super::proof::{self, Proof};
use super::rows::{DescriptionRow, PreferenceRow};
use super::shards::shard_path;
use super::vlm::{Vlm, adapter_dir};
use super::{StepContext, keys, pool};
use crate::algorithm::draw::Draw;
use crate::error::{Error, Result};
use crate::io::artifact::{Output, open_input};
use crate::io::journal::{self, Row};
use crate::io::metrics::{MetricsLog, StepMetrics};
use crate::io::progress::Reporter;
use crate::io::{adapter, atomic, resume};
use crate::model::lora::{DropoutKey, LoraAdapter};
use crate::training::Gradients;
use crate::training::adamw::AdamW;
use crate::training::checkpoint_policy::save_after;
use crate::training::schedule::learning_rate;
use crate::training::step::{Branches, Policies, Supervised, preference_step, supervised_step};

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
        items: Some(ItemCounts {
            total: prepared.items.len() as u64,
            done: prepared.items.len() as u64,
            skipped: 0,
        }),
        metrics,
        ..StepResult::new(StepName::Train)
    };
    if let Some(there) = output.find(&name)? {
        return Ok(result(there, BTreeMap::new()));
    }

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
    let state_dir = output.partial().join(format!("{name}.state"));
    atomic::create_dir(&state_dir)?;
    let training = Training {
        vlm: &vlm,
        prepared: &prepared,
        recipe: &task.recipe,
        seed: config.seed,
        start: start.as_ref(),
        context,
    };
    let (trained, last) = training.run(&examples, &state_dir, &draft.dir, reporter)?;

    let base = task.model.location.path.rsplit('/').next().filter(|s| !s.is_empty()).unwrap_or("base");
    adapter::save(&trained, &draft.dir, base)?;
    let proof = training.prove(&examples, &trained, &draft.dir)?;
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
    let facts =
        json!({"examples": examples.len(), "steps": training.total_steps(examples.len()), "proof": proof});
    let artifact = output.finish(draft, StepName::Train, facts)?;
    std::fs::remove_dir_all(&state_dir).map_err(Error::storage(&state_dir))?;
    let metrics = last.into_iter().map(|(name, value)| (name, format!("{value:.6}"))).collect();
    Ok(result(artifact, metrics))
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
        if shards_dir.exists() {
            std::fs::remove_dir_all(&shards_dir).map_err(Error::storage(&shards_dir))?;
        }
        return Ok((there, output.root().join(&set.folder)));
    }
    let draft = output.reopen_for_sealing(kind, &set.folder)?;
    let shards: Vec<PathBuf> = (0..set.shards.max(1)).map(|i| shard_path(&shards_dir, i)).collect();
    let rows: Vec<R> = journal::seal(
        &shards,
        &draft.dir.join(kind.payload_file()),
        prepared.items.iter().map(|item| item.id.as_str()),
    )?;
    let artifact = output.finish(draft, step, json!({"rows": rows.len()}))?;
    std::fs::remove_dir_all(&shards_dir).map_err(Error::storage(&shards_dir))?;
    Ok((artifact, output.root().join(&set.folder)))
}

fn build_examples(
    kind: RunKind,
    builder: &ExampleBuilder<'_>,
    prepared: &PreparedItems,
    data_dir: &Path,
) -> Result<Vec<Example>> {
    // Both are sorted by id, and sealing made sure that every item has its row.
    let path = |kind: ArtifactKind| data_dir.join(kind.payload_file());
    let examples: Vec<Example> = match kind {
        RunKind::StageOneRun => {
            let rows = by_id(journal::read::<PreferenceRow>(&path(ArtifactKind::Preferences))?);
            join(prepared, &rows, |i, item, row| builder.of_preference(i, item, row))?
        }
        RunKind::StageTwoRun => {
            let rows = by_id(journal::read::<DescriptionRow>(&path(ArtifactKind::Descriptions))?);
            join(prepared, &rows, |i, item, row| builder.of_description(i, item, row))?
        }
    };
    if examples.is_empty() {
        return Err(Error::Data(format!("{}: there is nothing to train on", data_dir.display())));
    }
    Ok(examples)
}

fn by_id<R: Row>(rows: Vec<R>) -> BTreeMap<String, R> {
    rows.into_iter().map(|row| (row.id().to_owned(), row)).collect()
}

fn join<R>(
    prepared: &PreparedItems,
    rows: &BTreeMap<String, R>,
    build: impl Fn(usize, &super::Item, &R) -> Result<Example>,
) -> Result<Vec<Example>> {
    prepared
        .items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| rows.get(&item.id).map(|row| build(i, item, row)))
        .collect()
}

struct Training<'a> {
    vlm: &'a Vlm,
    prepared: &'a PreparedItems,
    recipe: &'a TrainRecipe,
    seed: u64,
    start: Option<&'a LoraAdapter>,
    context: &'a StepContext,
}

impl Training<'_> {
    fn steps_per_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.recipe.global_batch_size.max(1) as usize) as u64
    }

    fn total_steps(&self, examples: usize) -> u64 {
        self.steps_per_epoch(examples) * u64::from(self.recipe.epochs)
    }

    fn initial_adapter(&self) -> Result<LoraAdapter> {
        match (self.start, &self.recipe.lora) {
            (Some(start), None) => start.frozen_copy(),
            (None, Some(lora)) => self.new_adapter(lora),
            (Some(_), Some(_)) => Err(Error::Config(
                "training.lora: may not be given when an adapter is continued; its own shape is used".into(),
            )),
            (None, None) => {
                Err(Error::Config("training.lora: missing, and there is no adapter to continue".into()))
            }
        }
    }

    fn new_adapter(&self, lora: &Lora) -> Result<LoraAdapter> {
        LoraAdapter::new(&self.vlm.checked.config.text, lora, self.seed, self.vlm.device())
    }

    /// All steps, from the last saved state on; the adapter and the last step's metrics.
    fn run(
        &self,
        examples: &[Example],
        state_dir: &Path,
        draft_dir: &Path,
        reporter: &mut Reporter,
    ) -> Result<(LoraAdapter, BTreeMap<String, f64>)> {
        let adapter = self.initial_adapter()?;
        let mut optimizer = AdamW::new(adapter.named_vars(), self.recipe.optimizer.weight_decay)?;
        if let Some(saved) = resume::load(state_dir)? {
            tracing::info!(step = saved.step, "goes on from saved state");
            optimizer.restore(saved.tensors, saved.step, self.vlm.device())?;
        }
        let total = self.total_steps(examples.len());
        let mut log = MetricsLog::open(draft_dir, optimizer.steps())?;
        reporter.begin("training", "steps", optimizer.steps(), total)?;
        let mut last = BTreeMap::new();
        while optimizer.steps() < total {
            let done = optimizer.steps();
            let begun = Instant::now();
            let epoch = done / self.steps_per_epoch(examples.len());
            let batch = self.batch(examples, epoch, done);
            let accumulated =
                match self.context.stop.check().and_then(|()| self.accumulate(&batch, &adapter, epoch)) {
                    Err(Error::Interrupted) => {
                        resume::save(state_dir, &optimizer)?;
                        return Err(Error::Interrupted);
                    }
                    other => other?,
                };
            let (mut gradients, mut values, tokens) = accumulated;
            let rate = learning_rate(&self.recipe.optimizer, done, total);
            let norm = gradients.clip(self.recipe.optimizer.max_gradient_norm)?;
            if !norm.is_finite() {
                return Err(Error::Data(format!(
                    "step {}: the gradient is not finite; lower training.optimizer.learningRate",
                    done + 1
                )));
            }
            optimizer.step(&gradients, rate)?;
            values.insert("learning_rate".into(), rate);
            values.insert("grad_norm".into(), norm);
            values.insert("tokens/s".into(), tokens as f64 / begun.elapsed().as_secs_f64());
            let step = optimizer.steps();
            log.append(&StepMetrics {
                step,
                epoch: step as f64 / self.steps_per_epoch(examples.len()) as f64,
                values: values.clone(),
            })?;
            reporter.metrics(values.clone());
            reporter.advance(1)?;
            last = values;
            if save_after(step, total, self.recipe.save_steps, false) {
                resume::save(state_dir, &optimizer)?;
            }
        }
        // What a step took is no fact of the adapter.
        last.remove("tokens/s");
        Ok((adapter, last))
    }

    /// The examples of step `done` (the first is 0): each epoch has an order of its own, drawn per item.
    fn batch<'e>(&self, examples: &'e [Example], epoch: u64, done: u64) -> Vec<&'e Example> {
        let size = self.recipe.global_batch_size.max(1) as usize;
        let mut order: Vec<_> = examples
            .iter()
            .map(|example| {
                let id = &self.prepared.items[example.item].id;
                (Draw::new(self.seed, id, &format!("order {epoch}")).uniform(), id, example)
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        let first = (done % self.steps_per_epoch(examples.len())) as usize * size;
        order.into_iter().skip(first).take(size).map(|(.., example)| example).collect()
    }

    /// The gradients of a batch, what to report of it, and the tokens read.
    fn accumulate(
        &self,
        batch: &[&Example],
        adapter: &LoraAdapter,
        epoch: u64,
    ) -> Result<(Gradients, BTreeMap<String, f64>, usize)> {
        let weight = match &self.recipe.objective {
            Objective::Dpo(_) => 1.0 / batch.len() as f64,
            Objective::Sft { .. } => {
                1.0 / batch.iter().map(|e| e.tokens.learned()).sum::<usize>().max(1) as f64
            }
        };
        let mut gradients = Gradients::default();
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let workers = pool::workers(self.vlm.device());
        // As many gradients as there are workers are in memory at once; they are added in the order of the batch.
        for group in batch.chunks(workers) {
            let mut results: Vec<Option<(Gradients, Vec<(&'static str, f64)>)>> = vec![None; group.len()];
            let indexed: Vec<(usize, &Example)> = group.iter().copied().enumerate().collect();
            pool::for_each(
                &indexed,
                workers,
                |(_, example)| {
                    self.context.stop.check()?;
                    self.example_step(example, adapter, weight, epoch)
                },
                |(slot, _), result| {
                    results[*slot] = Some(result);
                    Ok(())
                },
            )?;
            for (found, values) in results.into_iter().flatten() {
                gradients.add(&found)?;
                for (name, value) in values {
                    *sums.entry(name.to_owned()).or_default() += value;
                }
            }
        }
        Ok((gradients, sums, batch.iter().map(|e| e.tokens.len()).sum()))
    }

    /// One example's gradients, and its share of each metric of the batch.
    fn example_step(
        &self,
        example: &Example,
        adapter: &LoraAdapter,
        weight: f64,
        epoch: u64,
    ) -> Result<(Gradients, Vec<(&'static str, f64)>)> {
        let item = &self.prepared.items[example.item];
        let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
        let images = images_of(self.vlm, self.prepared, item, self.recipe, self.seed, epoch)?;
        let dropout = (adapter.dropout() > 0.0).then(|| DropoutKey {
            seed: self.seed,
            item: item.id.clone(),
            pass: format!("epoch {epoch}"),
        });
        let model = &self.vlm.model;
        match (&self.recipe.objective, &example.tokens) {
            (Objective::Dpo(dpo), Tokens::Pair { prompt, chosen, rejected }) => {
                let responses: [&[u32]; 2] = [chosen, rejected];
                let branches = Branches { prompt, features: images.clean.as_ref(), responses: &responses };
                let reference = proof::reference_adapter(dpo.reference, self.start);
                let policies = Policies { policy: adapter, reference };
                let noisy = images.noisy.as_ref();
                let (loss, policy, gradients) =
                    preference_step(model, &branches, noisy, policies, dpo, weight, dropout.as_ref())?;
                let (reward_chosen, reward_rejected) = (loss.reward_chosen, loss.reward_rejected);
                let right = if reward_chosen > reward_rejected { 1.0 } else { 0.0 };
                let values = vec![
                    ("loss", loss.loss * weight),
                    ("rewards/chosen", reward_chosen * weight),
                    ("rewards/rejected", reward_rejected * weight),
                    ("rewards/margins", (reward_chosen - reward_rejected) * weight),
                    ("rewards/accuracies", right * weight),
                    ("logps/chosen", policy.chosen.sum * weight),
                    ("logps/rejected", policy.rejected.sum * weight),
                ];
                Ok((gradients, values))
            }
            (Objective::Sft { .. }, Tokens::Conversation { ids, learned }) => {
                let example = Supervised { ids, features: images.clean.as_ref(), learned };
                let (sum, gradients) = supervised_step(model, &example, adapter, weight, dropout.as_ref())?;
                Ok((gradients, vec![("loss", -sum.sum * weight)]))
            }
            _ => Err(Error::Config("training.objective: is not that of the prepared examples".into())),
        }
    }

    fn prove(&self, examples: &[Example], trained: &LoraAdapter, dir: &Path) -> Result<Proof> {
        let reloaded = self.vlm.load_adapter(dir)?;
        let compared = examples
            .iter()
            .take(proof::EXAMPLES)
            .map(|example| {
                let item = &self.prepared.items[example.item];
                Ok((example, images_of(self.vlm, self.prepared, item, self.recipe, self.seed, 0)?))
            })
            .collect::<Result<Vec<_>>>()?;
        proof::prove(&self.vlm.model, trained, &reloaded, self.start, &compared)
    }
}
