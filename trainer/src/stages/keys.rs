//! What determines the bytes of each artifact, and so names its folder: recipes and digests, never places.

use serde_json::{Value, json};
use stic_contract::Digest;
use stic_contract::config::{DataRecipe, ModelInput, Train};
use stic_contract::recipe::{Precision, TrainRecipe};

const TRAINER: &str = env!("CARGO_PKG_VERSION");

/// Of the items: what was asked for, and every image's digest by way of the payload.
pub(super) fn prepared(payload: &Digest, model: &Digest, adapter: Option<&Digest>) -> Value {
    json!({"trainer": TRAINER, "items": payload, "model": model, "adapter": adapter})
}

/// Of generated data.
pub(super) fn data(
    recipe: &DataRecipe,
    model: &ModelInput,
    adapter: Option<&Digest>,
    items: &Digest,
    seed: u64,
    precision: Precision,
) -> Value {
    json!({
        "trainer": TRAINER,
        "recipe": recipe,
        "model": model.digest,
        "imageLayout": model.image_layout,
        "adapter": adapter,
        "items": items,
        "seed": seed,
        "precision": precision,
    })
}

/// Of a trained adapter.
pub(super) fn adapter(
    recipe: &TrainRecipe,
    model: &ModelInput,
    adapter: Option<&Digest>,
    data: &Digest,
    items: &Digest,
    seed: u64,
    precision: Precision,
) -> Value {
    // When state is saved changes no weight.
    let recipe = TrainRecipe { save_steps: 0, ..recipe.clone() };
    json!({
        "trainer": TRAINER,
        "recipe": recipe,
        "model": model.digest,
        "imageLayout": model.image_layout,
        "adapter": adapter,
        "data": data,
        "items": items,
        "seed": seed,
        "precision": precision,
        "worldSize": 1,
    })
}

/// Of the reference policy's log-probabilities.
pub(super) fn references(task: &Train, data: &Digest) -> Value {
    let TrainRecipe { objective, max_length, with_image, chat_template, .. } = &task.recipe;
    json!({
        "trainer": TRAINER,
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
    })
}
