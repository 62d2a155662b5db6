//! What goes into the model: images to pixel values, conversations to token ids, and the readers of both.
//!
//! Architecture Invariant: nothing here knows tensors or weights. A value leaves this room as plain bytes, `f32`s or
//! token ids, equal to what Pillow, transformers and sentencepiece make of the same file.

pub mod anyres;
pub(crate) mod array;
pub mod encode;
pub(crate) mod files;
pub mod image;
pub mod images_dir;
pub mod instructions;
pub mod jsonl;
pub(crate) mod names;
pub mod processor;
pub mod resample;
pub mod template;
pub mod tokenizer;
