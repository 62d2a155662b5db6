//! Base models and adapters as inputs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::ChatTemplate;

use crate::volumes::VolumeFolder;
use crate::{cel, choices};

/// A base model: a LLaVA or LLaVA-NeXT checkpoint. Exactly one of volume, image and huggingFace must be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["volume", "image", "huggingFace"])))]
pub struct ModelSource {
    /// A folder on a volume with the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFolder>,
    /// A container image with the checkpoint, mounted as a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ModelImage>,
    /// A repository on the Hugging Face Hub with the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFace>,
    /// The template that wraps prompts; Auto is the model's own. Absent means the profile's: Auto with Paper;
    /// MistralInstruct for generation and VicunaV1 for training with OfficialCompat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "choices::chat_template")]
    pub chat_template: Option<ChatTemplate>,
}

/// A container image that contains a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelImage {
    /// The image reference. Use a digest: a tag can be moved to another model.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// The folder of the checkpoint in the image. Empty means the root.
    #[serde(default)]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub path: String,
}

/// A repository on the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFace {
    /// The owner and the name of the repository, such as llava-hf/llava-v1.6-mistral-7b-hf.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = cel::text(
        "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
        "must be the owner and the name of a repository, such as llava-hf/llava-v1.6-mistral-7b-hf",
    )))]
    pub repository: String,
    /// The commit to use, as 40 hexadecimal digits. Branches are not accepted, because they can be moved to another
    /// model.
    #[schemars(length(max = 40), extend("x-kubernetes-validations" = cel::text(
        "^[0-9a-f]{40}$",
        "must be a commit of 40 hexadecimal digits in quotes, because a branch can be moved to another model",
    )))]
    pub revision: String,
    /// The key of a Secret with an access token for the Hub. Absent means anonymous access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKey>,
}

/// A key of a Secret in the run's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A LoRA adapter in PEFT's layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterSource {
    /// The folder of the adapter, with adapter_config.json and adapter_model.safetensors.
    pub volume: VolumeFolder,
}
