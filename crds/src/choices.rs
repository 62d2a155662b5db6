//! Schemas of the contract's enums, which know no schemars.

use schemars::{Schema, SchemaGenerator, json_schema};
use stic_contract::ArtifactKind;
use stic_contract::pipeline::StepName;
use stic_contract::recipe::{
    ChatTemplate, DpoLoss, ImageLayout, LoraTarget, Negatives, OnUnreadable, Order, PreferenceSource,
    Reference, RejectedTerm, Schedule,
};

macro_rules! choices {
    ($($name:ident: $type:ident = $($variant:ident)|+;)*) => {$(
        pub(crate) fn $name(_: &mut SchemaGenerator) -> Schema {
            // A variant that is added there and forgotten here does not compile.
            let _all = |value: $type| match value { $($type::$variant => ()),+ };
            json_schema!({"type": "string", "enum": [$($type::$variant),+]})
        }
    )*};
}

choices! {
    chat_template: ChatTemplate = Auto | MistralInstruct | VicunaV1;
    image_layout: ImageLayout = Model | Pad;
    rejected_term: RejectedTerm = LogProb | TopLogit;
    on_unreadable: OnUnreadable = Skip | Fail;
    order: Order = Seeded | FirstN;
    negatives: Negatives = Both | PromptsOnly | ImagesOnly | None;
    preference_source: PreferenceSource = Generate | File | Instructions;
    dpo_loss: DpoLoss = Sigmoid | Hinge | Ipo;
    reference: Reference = Base | InitialAdapter;
    schedule: Schedule = Cosine | Linear | Constant;
    lora_target: LoraTarget = QProj | KProj | VProj | OProj | GateProj | UpProj | DownProj;
    step_name: StepName = Prepare | Generate | Describe | Train;
    artifact_kind: ArtifactKind = Prepared | Preferences | Descriptions | Adapter;
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
