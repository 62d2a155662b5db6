//! Recipes that both kinds build in the same way.

use stic_contract::recipe::{self, ChatTemplate, ImageLayout};
use stic_crds::lifecycle::Profile;
use stic_crds::preferences::Sampling;
use stic_crds::training::{Lora, Optimizer};

use super::validation::number;
use crate::refusal::Refusal;
use crate::validated::Layouts;

pub(super) struct Templates {
    pub generation: ChatTemplate,
    pub training: ChatTemplate,
}

/// A template that the spec names is used throughout; otherwise the profile decides.
pub(super) fn templates(profile: Profile, requested: Option<ChatTemplate>) -> Templates {
    match (requested, profile) {
        (Some(template), _) => Templates { generation: template, training: template },
        (None, Profile::Paper) => Templates { generation: ChatTemplate::Auto, training: ChatTemplate::Auto },
        (None, Profile::OfficialCompat) => {
            Templates { generation: ChatTemplate::MistralInstruct, training: ChatTemplate::VicunaV1 }
        }
    }
}

pub(super) const fn layouts(profile: Profile) -> Layouts {
    let training = match profile {
        Profile::Paper => ImageLayout::Model,
        Profile::OfficialCompat => ImageLayout::Pad,
    };
    Layouts { generation: ImageLayout::Model, training }
}

pub(super) fn lora(lora: &Lora) -> Result<recipe::Lora, Refusal> {
    let Lora { rank, alpha, dropout, targets } = lora;
    // Sorted, so that the order in the spec does not change the key of the artifact.
    let mut targets = targets.clone();
    targets.sort_unstable();
    targets.dedup();
    Ok(recipe::Lora {
        rank: *rank,
        alpha: f64::from(*alpha),
        dropout: number("spec.training.lora.dropout", dropout)?,
        targets,
    })
}

pub(super) fn optimizer<const STAGE: u8>(optimizer: &Optimizer<STAGE>) -> Result<recipe::Optimizer, Refusal> {
    let Optimizer { learning_rate, schedule, warmup_ratio, weight_decay, max_gradient_norm } = optimizer;
    let at = |name: &str| format!("spec.training.optimizer.{name}");
    Ok(recipe::Optimizer {
        learning_rate: number(&at("learningRate"), learning_rate)?,
        schedule: *schedule,
        warmup_ratio: number(&at("warmupRatio"), warmup_ratio)?,
        weight_decay: number(&at("weightDecay"), weight_decay)?,
        max_gradient_norm: number(&at("maxGradientNorm"), max_gradient_norm)?,
    })
}

pub(super) fn sampling(sampling: &Sampling, field: &str) -> Result<recipe::Sampling, Refusal> {
    let Sampling { temperature, top_p, top_k, max_new_tokens } = sampling;
    Ok(recipe::Sampling {
        temperature: number(&format!("{field}.temperature"), temperature)?,
        top_p: number(&format!("{field}.topP"), top_p)?,
        top_k: *top_k,
        max_new_tokens: *max_new_tokens,
    })
}
