//! What is to be generated, as far as its memory depends on it.

use super::model_files::ModelFiles;
use crate::memory::estimate::LargestRequest;

/// Responses to generate.
#[derive(Debug, Clone, Copy)]
pub struct GenerationPlan {
    /// Responses at a time; 0 for as many as fit in memory.
    pub requested: usize,
    /// Responses in all.
    pub responses: usize,
    /// Tokens of the longest prompt, without its image.
    pub prompt_tokens: usize,
    pub max_new_tokens: u32,
    /// Responses about one image.
    pub responses_per_image: usize,
    /// Bytes of the adapter's weights; 0 without one.
    pub adapter_bytes: u64,
    /// Whether the GPU ran out of memory before.
    pub reduced: bool,
}

impl GenerationPlan {
    /// The largest request, of a model with these files.
    pub(super) fn largest_request(&self, files: &ModelFiles) -> LargestRequest {
        let (crops, image_tokens) = files.largest_image();
        let text_tokens = self.prompt_tokens + self.max_new_tokens as usize;
        LargestRequest {
            crops,
            image_tokens,
            text_tokens: text_tokens.min(files.max_tokens().saturating_sub(image_tokens)),
            responses_per_image: self.responses_per_image,
        }
    }
}
