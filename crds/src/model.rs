//! The base model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::ChatTemplate;

use crate::volumes::VolumeFolder;
use crate::{cel, choices};

/// A base model: a LLaVA checkpoint in one of the layouts in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = cel::exactly_one(&["volume", "image", "huggingFace"])))]
pub struct ModelSource {
    /// A folder on a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeFolder>,
    /// A container image that holds the model, mounted as a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ModelImage>,
    /// A repository of the Hugging Face hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFace>,
    /// The template that wraps prompts: Auto is the model's own. Absent means the profile's: Auto in Paper;
    /// MistralInstruct for generation and VicunaV1 for training in OfficialCompat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "choices::chat_template")]
    pub chat_template: Option<ChatTemplate>,
}

/// A container image that holds a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelImage {
    /// The image. Name it by digest: a tag may mean another model tomorrow.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// The model's folder in the image. Empty means its root.
    #[serde(default)]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = cel::relative_path()))]
    pub path: String,
}

/// A repository of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFace {
    /// Owner and name, such as llava-hf/llava-v1.6-mistral-7b-hf.
    #[schemars(
        length(max = 256),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub repository: String,
    /// The commit: a branch may mean another model tomorrow.
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"), length(max = 40))]
    pub revision: String,
    /// The Secret that holds an access token, in the run's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKey>,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A LoRA adapter in PEFT's layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterSource {
    /// Its folder.
    pub volume: VolumeFolder,
}
