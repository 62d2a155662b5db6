//! The whole model: images and token ids in, hidden states and logits out.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::families::{FeaturePacking, ModelConfig};
use super::language::LanguageModel;
use super::projector::Projector;
use super::separate_tower::resolve_vision;
use super::vision_tower::VisionTower;
use super::weights::Weights;
use crate::cancellation::CancellationToken;
use crate::data::anyres::Packing;
use crate::data::processor::PixelValues;
use crate::error::{Error, Result};

/// Vision tower, projector and language model of any family.
pub struct VisionLanguageModel {
    config: ModelConfig,
    vision_tower: VisionTower,
    projector: Projector,
    packing: FeaturePacking,
    pub language: LanguageModel,
    device: Device,
    weight_bytes: u64,
}

impl VisionLanguageModel {
    /// Loads the checkpoint in `dir`, converted to `dtype` on `device`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field or tensor.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = ModelConfig::from_dir(dir)?;
        let mut weights = Weights::open(dir, config.family.renames(), dtype, device)?;
        let model = Self::build(dir, config, &mut weights, device)?;
        Ok(Self { weight_bytes: weights.read_bytes(), ..model })
    }

    /// Checks that every tensor is present and has the right shape, without reading one. Returns the config and the bytes that
    /// the weights take in `dtype`.
    ///
    /// # Errors
    /// As [`VisionLanguageModel::load`].
    pub fn check(dir: &Path, dtype: DType) -> Result<(ModelConfig, u64)> {
        let config = ModelConfig::from_dir(dir)?;
        let mut weights = Weights::open_to_check(dir, config.family.renames(), dtype)?;
        let model = Self::build(dir, config, &mut weights, &Device::Cpu)?;
        Ok((model.config, weights.read_bytes()))
    }

    fn build(dir: &Path, mut config: ModelConfig, weights: &mut Weights, device: &Device) -> Result<Self> {
        let vision = resolve_vision(dir, &config, weights)?;
        let vision_width = vision.hidden_size * config.vision_feature_layers.len();
        let vision_tower =
            VisionTower::load(weights, &vision, &config.vision_feature_layers, config.keep_class_token)?;
        config.vision = Some(vision);
        Ok(Self {
            vision_tower,
            projector: Projector::load(weights, &config, vision_width)?,
            packing: FeaturePacking::load(config.family, weights, config.text.hidden_size)?,
            language: LanguageModel::load(weights, &config.text)?,
            config,
            device: device.clone(),
            weight_bytes: 0,
        })
    }

    /// The config, with that of the vision tower.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of all weights.
    #[must_use]
    pub const fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// The features of one image, `[tokens, hidden]`. `packing` is that of its tiles, `None` for a single crop.
    ///
    /// # Errors
    /// [`Error::Config`] when the crops do not have the size that the vision tower takes; [`Error::Interrupted`] between
    /// two layers.
    pub fn image_features(
        &self,
        pixels: &PixelValues,
        packing: Option<&Packing>,
        cancellation: &CancellationToken,
    ) -> Result<Tensor> {
        let shape = (pixels.crops, 3, pixels.height, pixels.width);
        let tensor = Tensor::from_slice(&pixels.data, shape, &self.device)?;
        let projected = self.projector.forward(&self.vision_tower.forward(&tensor, cancellation)?)?;
        self.packing.pack(&projected, packing)
    }

    /// Embeds `ids` as `[tokens, hidden]`, with the rows of `features` `[n, hidden]` in the places of the n image tokens.
    ///
    /// # Errors
    /// [`Error::Data`] unless exactly n image tokens follow each other.
    pub fn embed(&self, ids: &[u32], features: Option<&Tensor>) -> Result<Tensor> {
        let image = self.config.image_token_id;
        let Some(first) = ids.iter().position(|id| *id == image) else {
            return match features {
                Some(_) => Err(Error::Data("the prompt has no image token for its image".into())),
                None => self.language.embed(ids),
            };
        };
        let places = ids.iter().filter(|id| **id == image).count();
        let rows = features.map_or(Ok(0), |f| f.dim(0))?;
        if places != rows || ids[first..first + places].iter().any(|id| *id != image) {
            return Err(Error::Data(format!(
                "the prompt has {places} image tokens for {rows} image features; their numbers must be equal, and the tokens must follow each other"
            )));
        }
        let mut parts = Vec::with_capacity(3);
        if first > 0 {
            parts.push(self.language.embed(&ids[..first])?);
        }
        parts.extend(features.cloned());
        if first + places < ids.len() {
            parts.push(self.language.embed(&ids[first + places..])?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}
