//! What goes into the model: images to pixel values, conversations to token ids, and the readers of both.
//!
//! Architecture Invariant: nothing here knows tensors, weights or model families. What a family decides comes in as a
//! parameter ([`processor::ProcessorDefaults`]). A value leaves this module as plain bytes, `f32`s or token ids, equal
//! to what Pillow, transformers and sentencepiece compute from the same file.

pub mod anyres;
mod container;
pub mod encode;
mod exif;
pub(crate) mod fields;
pub(crate) mod files;
pub mod image;
mod image_field;
pub mod image_list;
pub mod images_dir;
pub mod instructions;
pub mod preferences;
pub mod processor;
pub mod resample;
pub mod row_problem;
pub mod rows;
pub mod template;
pub mod tokenizer;
pub mod unique_rows;
