//! Which layers keep their activations, by what the training takes of memory.

use stic_contract::recipe::ActivationCheckpointing;

use super::batches;
use super::examples::noise_steps;
use super::inputs::TrainingInputs;
use crate::error::Result;
use crate::io::human_bytes;
use crate::memory;
use crate::memory::estimate::{AdapterMemory, LargestPass, TrainingMemory, usable};
use crate::model::lora::LoraAdapter;

/// Bytes that the activations of layers may take between the forward and the backward pass. On a GPU they follow from its
/// size alone.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] for a GPU on which the training cannot fit.
pub(super) fn graph_bytes(inputs: &TrainingInputs<'_>, adapter: &LoraAdapter, packed: bool) -> Result<u64> {
    let policy = inputs.context.activation_checkpointing.unwrap_or(inputs.activation_checkpointing);
    let Some(total) = memory::gpu_bytes(inputs.vlm.device())? else {
        return Ok(match policy {
            ActivationCheckpointing::None => u64::MAX,
            ActivationCheckpointing::EveryLayer => 0,
            ActivationCheckpointing::Auto => memory::budget_bytes(),
        });
    };
    let memory = training_memory(inputs, adapter, packed);
    let (kept, bytes) = match policy {
        ActivationCheckpointing::None => (memory.layers, u64::MAX),
        ActivationCheckpointing::EveryLayer => (0, 0),
        ActivationCheckpointing::Auto => {
            let kept = memory.kept_layers(usable(total));
            let left = usable(total).saturating_sub(memory.peak(0));
            // The pass leaves room for one layer that it builds and for the gradients in it, which the estimate has counted.
            (kept, if kept == 0 { 0 } else { left + 2 * memory.layer })
        }
    };
    memory::require("training", memory.peak(0), total)?;
    tracing::info!(
        expected_bytes = memory.peak(kept),
        device_bytes = total,
        "training takes {} of the GPU's {}; {kept} of {} layers keep their activations",
        human_bytes(memory.peak(kept)),
        human_bytes(total),
        memory.layers
    );
    Ok(bytes)
}

fn training_memory(inputs: &TrainingInputs<'_>, adapter: &LoraAdapter, packed: bool) -> TrainingMemory {
    let shared = adapter.dropout() == 0.0 && noise_steps(inputs.recipe).is_none();
    let (tokens, learned) = largest_pack(inputs, packed, shared);
    let sequence = inputs.examples.iter().map(|example| example.tokens.sequence()).max().unwrap_or_default();
    let crops = if inputs.recipe.with_image { inputs.vlm.files.largest_image().0 } else { 0 };
    let adapter = AdapterMemory {
        bytes: adapter.bytes(),
        rank: adapter.rank(),
        continues: inputs.initial_adapter.is_some(),
        dropout: adapter.dropout() > 0.0,
    };
    inputs.vlm.memory().training(adapter, LargestPass { tokens, sequence, learned, crops })
}

/// Tokens of the largest pack, and how many of them are learned.
fn largest_pack(inputs: &TrainingInputs<'_>, packed: bool, shared: bool) -> (usize, usize) {
    let epochs = if packed { u64::from(inputs.recipe.epochs) } else { 1 };
    let mut largest = (0, 0);
    for epoch in 0..epochs {
        for batch in batches::order(inputs, epoch).chunks(inputs.batch_size()) {
            for pack in batches::packs(batch, packed) {
                let tokens = pack.iter().map(|example| example.tokens.in_pass(shared)).sum();
                let learned = pack.iter().map(|example| example.tokens.learned()).sum();
                largest = largest.max((tokens, learned));
            }
        }
    }
    largest
}
