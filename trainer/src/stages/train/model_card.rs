//! The model card of an adapter: the hub's YAML front matter, and what the adapter was made from. It contains neither
//! times nor the run's name: the same adapter has the same card.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use stic_contract::Artifact;
use stic_contract::RunKind;
use stic_contract::config::{RunConfig, Train};
use stic_contract::recipe::{Objective, TrainRecipe};

use super::verification::Verification;
use crate::io::metrics::display;

pub(super) struct ModelCard<'a> {
    pub config: &'a RunConfig,
    pub task: &'a Train,
    pub data: &'a Artifact,
    pub base: &'a str,
    pub rank: usize,
    pub alpha: f64,
    pub verification: &'a Verification,
    pub examples: usize,
    /// Of the last step.
    pub metrics: &'a BTreeMap<String, f64>,
}

impl ModelCard<'_> {
    /// The card as Markdown.
    pub(super) fn render(&self) -> String {
        let (stage, method) = match (self.config.run.kind, &self.task.recipe.objective) {
            (RunKind::StageOneRun, Objective::Dpo(_)) => {
                ("stage 1", "DPO on self-generated preference pairs")
            }
            (RunKind::StageOneRun, Objective::Sft { .. }) => {
                ("stage 1", "SFT on self-generated descriptions")
            }
            // An evaluation does not train.
            (RunKind::StageTwoRun | RunKind::EvaluationRun, _) => {
                ("stage 2", "SFT on description-infused instructions")
            }
        };
        let tag = if stage == "stage 1" && matches!(self.task.recipe.objective, Objective::Dpo(_)) {
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
            base = self.base,
        );
        let mut row = |what: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "| {what} | `{value}` |");
        };
        row("base model", &self.task.model.digest);
        if let Some(adapter) = &self.task.adapter {
            row("adapter continued", &adapter.digest);
        }
        row("items", &self.task.items.digest);
        row(self.data.kind.folder_prefix(), &self.data.digest);
        let _ = write!(
            text,
            "\nSeed {}, {} examples, rank {}, alpha {}, trainer {}.\n\n## Hyperparameters\n\n```json\n{}\n```\n\n## Last step\n\n| metric | value |\n|---|---|\n",
            self.config.seed,
            self.examples,
            self.rank,
            self.alpha,
            env!("CARGO_PKG_VERSION"),
            hyperparameters(&self.task.recipe),
        );
        for (name, value) in self.metrics {
            let _ = writeln!(text, "| {name} | {} |", display(*value));
        }
        let _ = write!(
            text,
            "\n## Proof\n\nLargest difference of a token's log-probability over {} tokens: {} after saving and loading again, {:.3e} after merging in f32. The adapter itself moves one by up to {:.3e}.\n\n\
Framework versions: STIC trainer {}, adapter format of PEFT 0.21. Loads with transformers 4.52 or later; `stic-trainer export adapter --names` writes the names of earlier ones and of the original LLaVA.\n",
            self.verification.tokens,
            self.verification.reloaded,
            self.verification.merged,
            self.verification.effect,
            env!("CARGO_PKG_VERSION"),
        );
        text
    }
}

/// The recipe without the interval of saves, which does not change the adapter.
fn hyperparameters(recipe: &TrainRecipe) -> String {
    let mut recipe = serde_json::to_value(recipe).unwrap_or_default();
    if let Some(recipe) = recipe.as_object_mut() {
        recipe.remove("saveSteps");
    }
    format!("{recipe:#}")
}
