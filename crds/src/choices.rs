//! Schemas of the contract's enums. The contract does not depend on schemars, so they cannot be derived there.

use schemars::{Schema, SchemaGenerator, json_schema};
use stic_contract::evaluation::{BenchmarkName, Prompting, Scorer};
use stic_contract::recipe::{
    ActivationCheckpointing, ChatTemplate, DpoLoss, ImageLayout, LoraTarget, Negatives, OnUnreadable, Order,
    PreferenceSource, Reference, RejectedTerm, Schedule,
};
use stic_contract::{ArtifactKind, StepName};

macro_rules! choices {
    ($($function:ident: $type:ident;)*) => {$(
        pub(crate) fn $function(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "string", "enum": $type::ALL})
        }
    )*};
}

choices! {
    chat_template: ChatTemplate;
    image_layout: ImageLayout;
    rejected_term: RejectedTerm;
    on_unreadable: OnUnreadable;
    order: Order;
    negatives: Negatives;
    preference_source: PreferenceSource;
    dpo_loss: DpoLoss;
    reference: Reference;
    schedule: Schedule;
    lora_target: LoraTarget;
    activation_checkpointing: ActivationCheckpointing;
    step_name: StepName;
    artifact_kind: ArtifactKind;
    benchmark: BenchmarkName;
    one_prompting: Prompting;
    scorer: Scorer;
}

/// A list of some of the choices, at least one and each once.
fn set_of(choice: &Schema, choices: usize) -> Schema {
    json_schema!({
        "type": "array",
        "items": choice,
        "minItems": 1,
        "maxItems": choices,
        "x-kubernetes-list-type": "set",
    })
}

pub(crate) fn lora_targets(generator: &mut SchemaGenerator) -> Schema {
    set_of(&lora_target(generator), LoraTarget::ALL.len())
}

pub(crate) fn prompting(generator: &mut SchemaGenerator) -> Schema {
    set_of(&one_prompting(generator), Prompting::ALL.len())
}

pub(crate) fn scorers(generator: &mut SchemaGenerator) -> Schema {
    set_of(&scorer(generator), Scorer::ALL.len())
}
