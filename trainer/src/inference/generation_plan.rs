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
    /// Bytes of the adapter's weights; 0 without one.
    pub adapter_bytes: u64,
    /// Whether the GPU ran out of memory before.
    pub reduced: bool,
}

impl GenerationPlan {
    /// How many responses to generate at a time where `fitting` fit in memory: as many as requested, or as fit, but at least one
    /// and no more than there are. After the GPU ran out of memory, a quarter of those that were expected to fit.
    pub(super) fn batch_size(&self, fitting: usize) -> usize {
        let chosen = if self.requested == 0 { fitting } else { self.requested };
        let chosen = chosen.min(self.responses).max(1);
        if self.reduced { (chosen.min(fitting) / 4).max(1) } else { chosen }
    }

    /// The largest request, of a model with these files and an image of at most so many tokens.
    #[must_use]
    pub fn largest_request(&self, files: &ModelFiles, image_tokens: usize) -> LargestRequest {
        let text_tokens = self.prompt_tokens + self.max_new_tokens as usize;
        LargestRequest {
            crops: files.largest_image().0,
            image_tokens,
            text_tokens: text_tokens.min(files.max_tokens().saturating_sub(image_tokens)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::GenerationPlan;

    #[test]
    fn a_request_counts_up_to_the_number_of_responses() {
        let size = |requested, responses, reduced, fitting| {
            let plan = GenerationPlan {
                requested,
                responses,
                prompt_tokens: 10,
                max_new_tokens: 10,
                adapter_bytes: 0,
                reduced,
            };
            plan.batch_size(fitting)
        };
        assert_eq!([size(0, 100, false, 8), size(0, 3, false, 8), size(0, 0, false, 8)], [8, 3, 1]);
        assert_eq!([size(50, 100, false, 8), size(50, 20, false, 8)], [50, 20], "whatever fits");
        assert_eq!([size(0, 100, true, 8), size(50, 100, true, 8), size(2, 100, true, 8)], [2, 2, 1]);
    }
}
