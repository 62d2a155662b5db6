//! The training loop: batches, optimizer steps, metrics and training states.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::batches::{self, Batches, GRADIENT_NORM};
use super::examples::ExamplePixels;
use super::inputs::TrainingInputs;
use super::memory_plan;
use super::reference_log_probs::ReferenceLogProbs;
use crate::checkpoint::training_state::TrainingStates;
use crate::error::{Error, Result};
use crate::inference::Prefetcher;
use crate::io::metrics::{MetricsLog, SPEED, StepMetrics};
use crate::io::progress::Reporter;
use crate::model::language::PassLimits;
use crate::model::lora::LoraAdapter;
use crate::training::adamw::AdamW;
use crate::training::schedule::learning_rate;

/// Where a training writes.
pub(super) struct TrainingOutputs<'a> {
    /// The folder of the training states that an interrupted training resumes from.
    pub(super) state_dir: &'a Path,
    /// The folder of the unfinished adapter.
    pub(super) draft: &'a Path,
    pub(super) references: ReferenceLogProbs,
    pub(super) reporter: &'a mut Reporter,
}

/// Trains from the newest training state to the end. Returns the adapter and the metrics of the last step.
pub(super) fn train(
    inputs: &TrainingInputs<'_>,
    mut outputs: TrainingOutputs<'_>,
) -> Result<(LoraAdapter, BTreeMap<String, f64>)> {
    let adapter = inputs.trainable_adapter()?;
    let mut optimizer = AdamW::new(adapter.named_vars(), inputs.recipe.optimizer.weight_decay)?;
    let device = inputs.vlm.device();
    let mut states = TrainingStates::open(
        outputs.state_dir,
        inputs.total_steps(),
        inputs.recipe.save_steps,
        &mut optimizer,
        device,
    )?;
    let packed = batches::is_packed(inputs, &adapter);
    let limits = PassLimits {
        cancellation: &inputs.context.cancellation,
        graph_bytes: memory_plan::graph_bytes(inputs, &adapter, packed)?,
    };
    let batches = Batches { inputs, adapter: &adapter, limits, packed };
    let metrics = std::thread::scope(|scope| {
        let remaining = optimizer.steps()..inputs.total_steps();
        // No buffer: only the pack that comes next is held besides the one in use.
        let pixels = Prefetcher::spawn(scope, 0, batches.pixels(remaining));
        run_steps(&batches, pixels, &mut optimizer, &mut states, &mut outputs)
    })?;
    Ok((adapter, metrics))
}

fn run_steps(
    batches: &Batches<'_, '_>,
    mut pixels: Prefetcher<Vec<ExamplePixels>>,
    optimizer: &mut AdamW,
    states: &mut TrainingStates,
    outputs: &mut TrainingOutputs<'_>,
) -> Result<BTreeMap<String, f64>> {
    let inputs = batches.inputs;
    let TrainingOutputs { draft, references, reporter, .. } = outputs;
    let total = inputs.total_steps();
    let mut log = MetricsLog::open(draft, optimizer.steps())?;
    reporter.begin("training", "steps", optimizer.steps(), total)?;
    let mut last = BTreeMap::new();
    while optimizer.steps() < total {
        let done = optimizer.steps();
        let started = Instant::now();
        let batch = batches.batch(done);
        let accumulated = inputs
            .context
            .cancellation
            .check()
            .and_then(|()| batches.accumulate(&batch, &mut pixels, references));
        // After either the step can be repeated: the optimizer was not changed.
        if matches!(accumulated, Err(Error::Interrupted | Error::OutOfMemory(_))) {
            references.save()?;
            states.keep(optimizer, true)?;
        }
        let (mut gradients, values) = accumulated?;
        let rate = learning_rate(&inputs.recipe.optimizer, done, total);
        let norm = gradients.clip(inputs.recipe.optimizer.max_gradient_norm)?;
        optimizer.step(&gradients, rate)?;
        let mut values = batches.metrics(&batch, &values, &norm, references)?;
        if !values.get(GRADIENT_NORM).is_some_and(|norm| norm.is_finite()) {
            return Err(Error::Data(format!(
                "step {}: the gradient is not finite; lower training.optimizer.learningRate",
                done + 1
            )));
        }
        values.insert("learning_rate".into(), rate);
        values.insert(SPEED.into(), batch.tokens() as f64 / started.elapsed().as_secs_f64());
        let step = optimizer.steps();
        let epoch = step as f64 / inputs.steps_per_epoch() as f64;
        log.append(&StepMetrics { step, epoch, values: values.clone() })?;
        reporter.set_metrics(values.clone());
        reporter.advance(1)?;
        last = values;
        if states.is_due(optimizer, false) {
            references.save()?;
            states.keep(optimizer, false)?;
        }
    }
    last.remove(SPEED);
    Ok(last)
}
