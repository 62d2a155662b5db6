//! Schemas of the contract's enums. The contract does not depend on schemars, so they cannot be derived there.

use schemars::{Schema, SchemaGenerator, json_schema};
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
}

pub(crate) fn lora_targets(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": lora_target(generator),
        "minItems": 1,
        "maxItems": LoraTarget::ALL.len(),
        "x-kubernetes-list-type": "set",
    })
}
