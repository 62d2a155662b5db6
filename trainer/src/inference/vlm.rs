//! A loaded vision-language model with its processor, tokenizer and templates.

use std::path::Path;

use candle_core::{Device, Tensor};
use stic_contract::recipe::{ImageLayout, Precision};

use super::model_files::ModelFiles;
use crate::cancellation::CancellationToken;
use crate::checkpoint::adapter::{self, TrainedProjector};
use crate::data::anyres::Packing;
use crate::data::processor::PixelValues;
use crate::device::dtype;
use crate::error::Result;
use crate::generation::{Footprint, LargestRequest, batch_size};
use crate::kernels::pool::on_pool;
use crate::memory;
use crate::model::VisionLanguageModel;
use crate::model::lora::LoraAdapter;

/// Counted for a prompt besides its image when memory is estimated.
const PROMPT_TOKENS: usize = 512;

/// A loaded model.
pub struct Vlm {
    pub files: ModelFiles,
    pub model: VisionLanguageModel,
}

/// An image after vision tower and projector.
pub struct ImageFeatures {
    /// `[tokens, hidden]`.
    pub features: Tensor,
    pub tokens: usize,
}

impl Vlm {
    /// Loads the model in `dir` to a device.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the file and the field or tensor.
    pub fn load(dir: &Path, layout: ImageLayout, precision: Precision, device: &Device) -> Result<Self> {
        Self::with_files(ModelFiles::open(dir, layout)?, precision, device)
    }

    /// Loads the model whose files were read already.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn with_files(files: ModelFiles, precision: Precision, device: &Device) -> Result<Self> {
        let model = VisionLanguageModel::load(&files.dir, dtype(precision), device)?;
        tracing::info!(model = %files.dir.display(), "loaded the model");
        Ok(Self { files, model })
    }

    /// The features of preprocessed crops.
    ///
    /// # Errors
    /// As [`VisionLanguageModel::image_features`].
    pub fn encode_image(
        &self,
        pixels: &PixelValues,
        cancellation: &CancellationToken,
    ) -> Result<ImageFeatures> {
        let packing: Option<Packing> = self.files.processor.packing(pixels.original);
        let features =
            on_pool(self.device(), || self.model.image_features(pixels, packing.as_ref(), cancellation))?;
        let tokens = features.dim(0)?;
        Ok(ImageFeatures { features, tokens })
    }

    /// The adapter in `dir`.
    ///
    /// # Errors
    /// As [`adapter::load`].
    pub fn load_adapter(&self, dir: &Path, projector: TrainedProjector) -> Result<LoraAdapter> {
        let imported = adapter::load(dir, &self.files.config.text, self.model.device(), projector)?;
        if !imported.dropped.is_empty() {
            tracing::warn!(
                adapter = %dir.display(),
                tensors = imported.dropped.len(),
                first = imported.dropped[0],
                "left out the adapter's LoRA weights of the vision tower or the projector, which are zero"
            );
        }
        Ok(imported.adapter)
    }

    /// How many responses of at most `max_new_tokens` tokens to generate at a time: `requested`; if that is 0, as many as
    /// fit in memory. A quarter of that with `reduced` memory.
    #[must_use]
    pub fn batch_size(&self, requested: usize, max_new_tokens: u32, reduced: bool) -> usize {
        let processor = &self.files.processor;
        // An image that has exactly the size of a grid fills it; without grids all images take the same.
        let sizes = processor.geometry().map_or_else(|| vec![(1, 1)], |geometry| geometry.pinpoints.clone());
        let largest =
            |of: &dyn Fn((u32, u32)) -> usize| sizes.iter().map(|size| of(*size)).max().unwrap_or(1);
        let image_tokens = largest(&|size| processor.image_tokens(size));
        let tokens = (image_tokens + PROMPT_TOKENS + max_new_tokens as usize).min(self.files.max_tokens());
        let crops = largest(&|size| processor.packing(size).map_or(1, |packing| packing.tiles() + 1));
        let request = LargestRequest { crops, image_tokens, tokens };
        let dtype = self.model.language.dtype();
        let footprint = Footprint::of(self.model.config(), dtype, self.device(), request);
        let budget = memory::budget_bytes_on(self.device());
        let planned = batch_size(requested, budget, footprint, self.device());
        let batch_size = if reduced { (planned / 4).max(1) } else { planned };
        tracing::info!(
            batch_size,
            budget_bytes = budget,
            image_bytes = footprint.image,
            response_bytes = footprint.response,
            "chose the batch size of generation"
        );
        batch_size
    }

    /// Where the weights are.
    #[must_use]
    pub const fn device(&self) -> &Device {
        self.model.device()
    }
}
