//! A model with its processor, tokenizer and templates: what a step needs to read and write.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use stic_contract::ArtifactRef;
use stic_contract::recipe::{ChatTemplate, ImageLayout, Precision};

use crate::data::anyres::Packing;
use crate::data::encode::Encoder;
use crate::data::processor::{Family, ImageProcessor, PixelValues};
use crate::data::template::Template;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::generation::{Footprint, Largest, responses_at_once};
use crate::io::adapter;
use crate::io::artifact::open_input;
use crate::io::file_digest;
use crate::io::stop::Stop;
use crate::io::volumes::Volumes;
use crate::kernels::pool::on_pool;
use crate::model::config::{CONFIG_FILE, Flavour};
use crate::model::lora::LoraAdapter;
use crate::model::weights::checkpoint_files;
use crate::model::{Llava, LlavaConfig};
use crate::{device, memory};

/// What is counted for a prompt beside its image.
const PROMPT_TOKENS: usize = 512;

/// All of a model but its weights.
#[derive(Debug)]
pub struct Checked {
    /// Its folder.
    pub dir: PathBuf,
    /// Its config.
    pub config: LlavaConfig,
    /// Images to crops.
    pub processor: ImageProcessor,
}

impl Checked {
    /// Reads config and processor.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field.
    pub fn open(dir: &Path, layout: ImageLayout) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::Config(format!(
                "{}: no such folder; the model's path must be one",
                dir.display()
            )));
        }
        let config = LlavaConfig::from_dir(dir)?;
        let family = if config.grid_pinpoints.is_empty() { Family::Llava } else { Family::LlavaNext };
        let processor = ImageProcessor::from_dir(dir, family)?
            .with_layout(layout)
            .with_class_token(config.keep_class_token);
        let checked = Self { dir: dir.to_owned(), config, processor };
        checked.require_crops_of_tower()?;
        Ok(checked)
    }

    fn require_crops_of_tower(&self) -> Result<()> {
        let Some(vision) = &self.config.vision else { return Ok(()) };
        // An original repository's tower may lie elsewhere, with a config of its own.
        if self.config.flavour == Flavour::Original {
            return Ok(());
        }
        let (height, width) = self.processor.crop_size();
        let side = vision.image_size;
        if (height as usize, width as usize) == (side, side) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: its image processor makes crops of {width}x{height} pixels, but image_size of the vision tower in {CONFIG_FILE} is {side}; copy the processor's config and {CONFIG_FILE} from the same revision of the model",
            self.dir.display()
        )))
    }

    /// An encoder under `template`.
    ///
    /// # Errors
    /// [`Error::Config`] naming what is missing.
    pub fn encoder(&self, template: ChatTemplate) -> Result<Encoder> {
        let tokenizer = Tokenizer::from_dir(&self.dir)?;
        let vocabulary = self.config.text.vocab_size;
        if let Some((token, id)) = tokenizer.last_token(self.config.image_token_id)
            && id as usize >= vocabulary
        {
            return Err(Error::Config(format!(
                "{}: its tokenizer has a token {token:?} of id {id}, but vocab_size in {CONFIG_FILE} is {vocabulary}; copy both from the same revision of the model",
                self.dir.display()
            )));
        }
        Ok(Encoder::new(tokenizer, Template::load(&self.dir, template)?, self.config.image_token_id))
    }

    /// The most tokens a sequence can have.
    #[must_use]
    pub const fn max_tokens(&self) -> usize {
        self.config.text.max_position_embeddings
    }

    /// The size of its weight files.
    ///
    /// # Errors
    /// As [`checkpoint_files`].
    pub fn weight_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for path in checkpoint_files(&self.dir)? {
            bytes += std::fs::metadata(&path).map_err(Error::storage(&path))?.len();
        }
        Ok(bytes)
    }
}

/// A loaded model.
pub struct Vlm {
    /// All but the weights.
    pub checked: Checked,
    /// The weights.
    pub model: Llava,
}

/// An image as the model sees it.
pub struct SeenImage {
    /// `[tokens, hidden]`.
    pub features: Tensor,
    /// How many tokens.
    pub tokens: usize,
}

impl Vlm {
    /// Loads the model in `dir`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field or tensor.
    pub fn load(dir: &Path, layout: ImageLayout, precision: Precision) -> Result<Self> {
        let checked = Checked::open(dir, layout)?;
        let device = device::choose()?;
        let model = Llava::load(dir, device::dtype(precision), &device)?;
        tracing::info!(model = %dir.display(), "loaded the model");
        Ok(Self { checked, model })
    }

    /// The features of preprocessed crops.
    ///
    /// # Errors
    /// As [`Llava::image_features`].
    pub fn see_pixels(&self, pixels: &PixelValues, stop: &Stop) -> Result<SeenImage> {
        let packing: Option<Packing> = self.checked.processor.packing(pixels.original);
        let features = on_pool(self.device(), || self.model.image_features(pixels, packing.as_ref(), stop))?;
        let tokens = features.dim(0)?;
        Ok(SeenImage { features, tokens })
    }

    /// The adapter an artifact holds.
    ///
    /// # Errors
    /// As [`adapter::load`].
    pub fn load_adapter(&self, dir: &Path) -> Result<LoraAdapter> {
        let imported = adapter::load(dir, &self.checked.config.text, self.model.device())?;
        if !imported.dropped.is_empty() {
            tracing::warn!(
                adapter = %dir.display(),
                dropped = imported.dropped.len(),
                first = imported.dropped[0],
                "left out LoRA weights of the vision tower, which LLaVA never trains"
            );
        }
        Ok(imported.adapter)
    }

    /// How many responses of at most `new_tokens` tokens are written at once: `asked`; where that is 0, as many as memory
    /// holds.
    #[must_use]
    pub fn responses_at_once(&self, asked: usize, new_tokens: u32) -> usize {
        let processor = &self.checked.processor;
        // An image of a grid's own size fills it; without grids all images are alike.
        let sizes = processor.geometry().map_or_else(|| vec![(1, 1)], |geometry| geometry.pinpoints.clone());
        let most = |of: &dyn Fn((u32, u32)) -> usize| sizes.iter().map(|size| of(*size)).max().unwrap_or(1);
        let image_tokens = most(&|size| processor.image_tokens(size));
        let largest = Largest {
            crops: most(&|size| processor.packing(size).map_or(1, |packing| packing.tiles() + 1)),
            image_tokens,
            tokens: (image_tokens + PROMPT_TOKENS + new_tokens as usize).min(self.checked.max_tokens()),
        };
        let dtype = self.model.language.dtype();
        let footprint = Footprint::of(self.model.config(), dtype, self.device(), largest);
        let budget = memory::budget_bytes_on(self.device());
        let at_once = responses_at_once(asked, budget, footprint, self.device());
        tracing::info!(
            at_once,
            budget,
            image = footprint.image,
            response = footprint.response,
            "writes responses"
        );
        at_once
    }

    /// Where its weights are.
    #[must_use]
    pub const fn device(&self) -> &Device {
        self.model.device()
    }
}

/// The folder of an adapter a run continues from: an artifact of ours, verified, or a user's own.
pub(super) fn adapter_dir(volumes: &Volumes, reference: &ArtifactRef) -> Result<PathBuf> {
    let dir = volumes.resolve(&reference.location)?;
    if crate::io::artifact::read_marker(&dir)?.is_some() {
        return open_input(volumes, reference);
    }
    let path = dir.join(adapter::WEIGHTS_FILE);
    let found = file_digest(&path)?;
    if found != reference.digest {
        return Err(Error::Data(format!(
            "{}: has digest {found}, {} was recorded; the adapter was changed after the run began",
            path.display(),
            reference.digest
        )));
    }
    Ok(dir)
}
