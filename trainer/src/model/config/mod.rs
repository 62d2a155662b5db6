//! Readers for the parts that model families have in common: the language model, the vision tower and activations.
//! What a `config.json` leaves out takes transformers' class default.

mod activation;
pub(super) mod quantization;
mod text;
mod vision;

pub use self::activation::Activation;
pub use self::text::TextConfig;
pub use self::vision::{VisionConfig, VisionTowerKind};
pub(crate) use crate::data::files::CONFIG_FILE;
