//! A loaded vision-language model with its processor, tokenizer and templates.

use std::path::Path;

use candle_core::{Device, Tensor};
use stic_contract::recipe::{ImageLayout, Precision};

use super::generation_plan::GenerationPlan;
use super::model_files::ModelFiles;
use crate::cancellation::CancellationToken;
use crate::checkpoint::adapter::{self, TrainedProjector};
use crate::data::anyres::Packing;
use crate::data::processor::PixelValues;
use crate::device::dtype;
use crate::error::Result;
use crate::kernels::pool::on_pool;
use crate::memory;
use crate::memory::estimate::{ModelMemory, usable};
use crate::model::VisionLanguageModel;
use crate::model::lora::LoraAdapter;

/// Beyond this, a decoding step on a CPU is bound by arithmetic instead of reading weights: a larger batch gains nothing.
const MAX_ON_CPU: usize = 32;
const MAX_ON_GPU: usize = 256;

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
        if let Some(total) = memory::gpu_bytes(device)? {
            let (_, needed) = VisionLanguageModel::check(&files.dir, dtype(precision))?;
            memory::require("the model", needed, total)?;
        }
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

    /// What is known of its memory.
    #[must_use]
    pub fn memory(&self) -> ModelMemory<'_> {
        let model = &self.model;
        ModelMemory { config: model.config(), dtype: model.language.dtype(), weights: model.weight_bytes() }
    }

    /// How many responses to generate at a time.
    ///
    /// # Errors
    /// [`crate::Error::GpuTooSmall`] if not even one fits.
    pub fn batch_size(&self, plan: &GenerationPlan) -> Result<usize> {
        let request = plan.largest_request(&self.files, self.files.largest_image().1);
        let memory = self.memory().generation(plan.adapter_bytes, request);
        let total = memory::gpu_bytes(self.device())?;
        let (usable, most) = match total {
            Some(total) => {
                memory::require("generation", memory.peak(1), total)?;
                (usable(total), MAX_ON_GPU)
            }
            // The weights are in memory already.
            None => (memory::budget_bytes() + memory.weights, MAX_ON_CPU),
        };
        let batch_size = plan.batch_size(memory.batch_size(usable, most));
        tracing::info!(
            batch_size,
            expected_bytes = memory.peak(batch_size),
            device_bytes = total,
            "chose the batch size of generation"
        );
        Ok(batch_size)
    }

    /// Where the weights are.
    #[must_use]
    pub const fn device(&self) -> &Device {
        self.model.device()
    }
}
