//! The model card beside an adapter: the hub's YAML front matter, and what the adapter was made from. It carries no
//! times and no run's name: the same adapter has the same card.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use stic_contract::Artifact;
use stic_contract::config::{RunConfig, RunKind, Train};
use stic_contract::recipe::{Objective, TrainRecipe};

use super::proof::Proof;

/// What a card says.
pub(super) struct Card<'a> {
    pub config: &'a RunConfig,
    pub task: &'a Train,
    pub data: &'a Artifact,
    pub base: &'a str,
    pub rank: usize,
    pub alpha: f64,
    pub proof: &'a Proof,
    pub examples: usize,
    pub last: &'a BTreeMap<String, f64>,
}

/// As Markdown.
pub(super) fn render(card: &Card<'_>) -> String {
    let (stage, method) = match (card.config.run.kind, &card.task.recipe.objective) {
        (RunKind::StageOneRun, Objective::Dpo(_)) => ("stage 1", "DPO on self-generated preference pairs"),
        (RunKind::StageOneRun, Objective::Sft { .. }) => ("stage 1", "SFT on self-generated descriptions"),
        (RunKind::StageTwoRun, _) => ("stage 2", "SFT on description-infused instructions"),
    };
    let tag = if stage == "stage 1" && matches!(card.task.recipe.objective, Objective::Dpo(_)) {
        "dpo"
    } else {
        "sft"
    };
    let mut text = format!(
        "---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: image-text-to-text\ntags:\n- base_model:adapter:{base}\n- lora\n- stic\n- {tag}\n---\n\n\
# {base}, STIC {stage}\n\n\
A LoRA adapter made by STIC (Self-Training on Image Comprehension, [arXiv 2405.19716](https://arxiv.org/abs/2405.19716)), {stage}: {method}.\n\n\
```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForImageTextToText\n\n\
model = AutoModelForImageTextToText.from_pretrained(\"PATH OF {base}\")\nmodel = PeftModel.from_pretrained(model, \"PATH OF THIS FOLDER\")\n```\n\n\
## Made from\n\n| what | digest |\n|---|---|\n",
        base = card.base,
    );
    let mut row = |what: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "| {what} | `{value}` |");
    };
    row("base model", &card.task.model.digest);
    if let Some(adapter) = &card.task.adapter {
        row("adapter continued", &adapter.digest);
    }
    row("items", &card.task.items.digest);
    row(card.data.kind.folder_prefix(), &card.data.digest);
    let _ = write!(
        text,
        "\nSeed {}, {} examples, rank {}, alpha {}, trainer {}.\n\n## Hyperparameters\n\n```json\n{}\n```\n\n## Last step\n\n| metric | value |\n|---|---|\n",
        card.config.seed,
        card.examples,
        card.rank,
        card.alpha,
        env!("CARGO_PKG_VERSION"),
        hyperparameters(&card.task.recipe),
    );
    for (name, value) in card.last {
        let _ = writeln!(text, "| {name} | {value:.6} |");
    }
    let _ = write!(
        text,
        "\n## Proof\n\nLargest difference of a token's log-probability over {} tokens: {} after saving and loading again, {:.3e} after merging in f32. The adapter itself moves one by up to {:.3e}.\n\n\
Framework versions: STIC trainer {}, adapter format of PEFT 0.21.\n",
        card.proof.tokens,
        card.proof.reloaded,
        card.proof.merged,
        card.proof.effect,
        env!("CARGO_PKG_VERSION"),
    );
    text
}

/// The recipe but for how often state is saved, which decides nothing of the adapter.
fn hyperparameters(recipe: &TrainRecipe) -> String {
    let mut recipe = serde_json::to_value(recipe).unwrap_or_default();
    if let Some(recipe) = recipe.as_object_mut() {
        recipe.remove("saveSteps");
    }
    format!("{recipe:#}")
}
