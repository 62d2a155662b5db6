//! The whole model: images and token ids in, hidden states and logits out.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::config::{LlavaConfig, VisionConfig};
use super::language::LanguageModel;
use super::projector::Projector;
use super::vision_tower::VisionTower;
use super::weights::Weights;
use crate::data::anyres::Packing;
use crate::data::processor::PixelValues;
use crate::error::{Error, Result};
use crate::io::stop::Stop;

/// LLaVA-1.5 or LLaVA-1.6.
pub struct Llava {
    config: LlavaConfig,
    vision_tower: VisionTower,
    projector: Projector,
    /// The language model.
    pub language: LanguageModel,
    device: Device,
}

impl Llava {
    /// Loads the checkpoint in `dir`, converted to `dtype` on `device`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field or tensor.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        Self::build(dir, Weights::open(dir, dtype, device)?, device)
    }

    /// Checks that every tensor is there and has its shape, without reading one.
    ///
    /// # Errors
    /// As [`Llava::load`].
    pub fn check(dir: &Path) -> Result<()> {
        Self::build(dir, Weights::open_to_check(dir)?, &Device::Cpu).map(|_| ())
    }

    fn build(dir: &Path, mut weights: Weights, device: &Device) -> Result<Self> {
        let mut config = LlavaConfig::from_dir(dir)?;
        let vision = resolve_vision(dir, &config, &mut weights)?;
        let vision_width = vision.hidden_size * config.vision_feature_layers.len();
        let vision_tower =
            VisionTower::load(&weights, &vision, &config.vision_feature_layers, config.keep_class_token)?;
        config.vision = Some(vision);
        Ok(Self {
            vision_tower,
            projector: Projector::load(&weights, &config, vision_width)?,
            language: LanguageModel::load(&weights, &config.text, device)?,
            config,
            device: device.clone(),
        })
    }

    /// Its config, the vision tower's included.
    #[must_use]
    pub const fn config(&self) -> &LlavaConfig {
        &self.config
    }

    /// Where its weights are.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// The features of one image, `[tokens, hidden]`: `packing` says what of the tiles is kept, absent for a
    /// single crop.
    ///
    /// # Errors
    /// [`Error::Config`] when the processor's crops are not the vision tower's; [`Error::Interrupted`] between two layers.
    pub fn image_features(
        &self,
        pixels: &PixelValues,
        packing: Option<&Packing>,
        stop: &Stop,
    ) -> Result<Tensor> {
        let shape = (pixels.crops, 3, pixels.height, pixels.width);
        let tensor = Tensor::from_slice(&pixels.data, shape, &Device::Cpu)?
            .to_dtype(self.language.dtype())?
            .to_device(&self.device)?;
        let projected = self.projector.forward(&self.vision_tower.forward(&tensor, stop)?)?;
        self.projector.pack(&projected, packing)
    }

    /// Embeds `ids`, with the rows of `features` `[n, hidden]` in the places of the n image tokens.
    ///
    /// # Errors
    /// [`Error::Data`] when there are not n of them in a row.
    pub fn embed(&self, ids: &[u32], features: Option<&Tensor>) -> Result<Tensor> {
        let image = self.config.image_token_id;
        let Some(first) = ids.iter().position(|id| *id == image) else {
            return match features {
                Some(_) => Err(Error::Data("the prompt has no place for its image".into())),
                None => self.language.embed(ids),
            };
        };
        let places = ids.iter().filter(|id| **id == image).count();
        let rows = features.map_or(Ok(0), |f| f.dim(0))?;
        if places != rows || ids[first..first + places].iter().any(|id| *id != image) {
            return Err(Error::Data(format!(
                "the prompt has {places} image tokens for {rows} image features; they must be equal and in a row"
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

/// The vision tower's config; where an original repository keeps the tower elsewhere, its weights are added.
fn resolve_vision(dir: &Path, config: &LlavaConfig, weights: &mut Weights) -> Result<VisionConfig> {
    let name = config.vision_tower_name.as_deref().unwrap_or_default();
    let separate = SeparateTower::of(dir, config, weights);
    match (&config.vision, separate) {
        (_, Some(SeparateTower { dir: tower, has_weights })) => {
            if has_weights {
                weights.add_vision_tower(&tower)?;
            }
            VisionConfig::from_clip_dir(&tower)
        }
        (Some(vision), None) if has_tower(weights) => Ok(vision.clone()),
        (None, None) if has_tower(weights) => Err(Error::Config(format!(
            "{}: field mm_vision_tower: {name:?} is not a CLIP this trainer knows the sizes of; put its config.json into {}",
            dir.join(super::config::CONFIG_FILE).display(),
            dir.join("vision_tower").display()
        ))),
        (_, None) => Err(Error::Config(format!(
            "{}: the checkpoint has no vision tower of its own (LLaVA-1.5's original repositories keep it in {name:?}); put that repository into {}",
            dir.display(),
            dir.join("vision_tower").display()
        ))),
    }
}

fn has_tower(weights: &Weights) -> bool {
    weights.contains("vision_tower.embeddings.class_embedding")
}

/// The folder that a part of the model's vision tower lies in.
#[derive(Debug)]
pub(super) struct SeparateTower {
    /// It holds the tower's config.
    pub dir: PathBuf,
    /// And its weights: the checkpoint has none.
    pub has_weights: bool,
}

impl SeparateTower {
    /// Where the model in `dir` has one.
    pub(super) fn of(dir: &Path, config: &LlavaConfig, weights: &Weights) -> Option<Self> {
        let has_weights = !has_tower(weights);
        if !has_weights && config.vision.is_some() {
            return None;
        }
        let dir = vision_tower_dir(dir, config.vision_tower_name.as_deref().unwrap_or_default())?;
        Some(Self { dir, has_weights })
    }
}

/// The folder of a separate vision tower: `vision_tower/`, or one named as `mm_vision_tower` is, in the model's
/// folder or beside it.
fn vision_tower_dir(dir: &Path, name: &str) -> Option<PathBuf> {
    let last = name.rsplit('/').next().filter(|last| !last.is_empty() && *last != "..");
    let mut places = vec![dir.join("vision_tower")];
    if let Some(last) = last {
        places.push(dir.join(last));
        places.extend(dir.parent().map(|parent| parent.join(last)));
    }
    places.into_iter().find(|place| place.join(super::config::CONFIG_FILE).is_file())
}
