//! Everything in a model's folder but the weights.

use std::path::{Path, PathBuf};

use image::RgbImage;
use stic_contract::recipe::{ChatTemplate, ImageLayout};

use crate::data::encode::Encoder;
use crate::data::processor::{ImageProcessor, PixelValues};
use crate::data::template::{IMAGE_PLACEHOLDER, PromptTemplate};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::io::volumes::contents;
use crate::model::config::CONFIG_FILE;
use crate::model::{CheckpointLayout, ModelConfig, complete_config};

/// A model's config and image processor, checked against each other; its tokenizer is read on demand.
#[derive(Debug)]
pub struct ModelFiles {
    pub dir: PathBuf,
    pub config: ModelConfig,
    pub processor: ImageProcessor,
}

impl ModelFiles {
    /// Reads config and processor.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field.
    pub fn open(dir: &Path, layout: ImageLayout) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::Config(format!(
                "{}: no such folder; {}; correct the path of the model",
                dir.display(),
                contents(dir)
            )));
        }
        let config = complete_config(dir)?;
        let mut processor = ImageProcessor::from_dir(dir, &config.family.processor_defaults())?
            .with_layout(layout)
            .with_class_token(config.keep_class_token);
        if let Some(vision) = &config.vision {
            processor = processor.with_patch_size(vision.patch_size as u32);
        }
        let files = Self { dir: dir.to_owned(), config, processor };
        files.check_crop_size()?;
        Ok(files)
    }

    /// The processor must make the crops that the vision tower expects.
    fn check_crop_size(&self) -> Result<()> {
        let Some(vision) = &self.config.vision else { return Ok(()) };
        let (height, width) = self.processor.crop_size();
        let side = vision.image_size;
        if (height as usize, width as usize) == (side, side) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: the image processor makes crops of {width}x{height} pixels, but image_size of the vision tower in {CONFIG_FILE} is {side}; copy the processor's config and {CONFIG_FILE} from the same revision of the model",
            self.dir.display()
        )))
    }

    /// Runs the shape arithmetic of an image of `size` (height, width): its features must be as many tokens as the
    /// processor promises.
    ///
    /// # Errors
    /// [`Error::Config`] when they are not.
    pub fn check_shapes(&self, size: (u32, u32)) -> Result<()> {
        let Some(vision) = &self.config.vision else { return Ok(()) };
        let packing = self.processor.packing(size);
        let crops = packing.as_ref().map_or(1, |packing| packing.tiles() + 1);
        let features = vision.side() * vision.side() + usize::from(self.config.keep_class_token);
        let promised = self.processor.image_tokens(size);
        let reason = match self.config.family.count_tokens(crops, features, packing.as_ref()) {
            Ok(found) if found == promised => return Ok(()),
            Ok(found) => {
                format!("becomes {found} tokens by {CONFIG_FILE}, but {promised} by the image processor")
            }
            Err(error) => format!("has features that cannot be laid out ({error})"),
        };
        Err(Error::Config(format!(
            "{}: an image of {}x{} pixels {reason}; copy the processor's config and {CONFIG_FILE} from the same revision of the model",
            self.dir.display(),
            size.1,
            size.0
        )))
    }

    /// Preprocesses `image`, whose crops must be those that the vision tower takes.
    ///
    /// # Errors
    /// [`Error::Config`] when they are not, [`Error::Data`] for an image that has no such crops.
    pub fn check_crops(&self, image: &RgbImage) -> Result<()> {
        let Some(vision) = &self.config.vision else { return Ok(()) };
        let PixelValues { crops, height, width, original, .. } = self.processor.preprocess(image)?;
        let expected = self.processor.packing(original).map_or(1, |packing| packing.tiles() + 1);
        let side = vision.image_size;
        if (crops, height, width) == (expected, side, side) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: an image of {}x{} pixels becomes {crops} crops of {width}x{height}, but {expected} of {side}x{side} are needed; set do_resize and do_center_crop in the processor's config, or copy it again",
            self.dir.display(),
            original.1,
            original.0
        )))
    }

    /// The tokenizer with `template`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file that is missing or does not match.
    pub fn encoder(&self, template: ChatTemplate) -> Result<Encoder> {
        let tokenizer = Tokenizer::from_dir(&self.dir)?;
        let vocabulary = self.config.text.vocab_size;
        if let Some((token, id)) = tokenizer.last_token(self.config.image_token_id)
            && id as usize >= vocabulary
        {
            return Err(Error::Config(format!(
                "{}: the tokenizer has token {token:?} with id {id}, but vocab_size in {CONFIG_FILE} is {vocabulary}; copy both from the same revision of the model",
                self.dir.display()
            )));
        }
        self.check_image_token(&tokenizer)?;
        Ok(Encoder::new(tokenizer, PromptTemplate::load(&self.dir, template)?, self.config.image_token_id))
    }

    /// transformers' processor writes the tokenizer's id of the image token, and its model looks for the config's. (The
    /// original LLaVA puts the image between the tokens of the text, whatever its tokenizer has.)
    fn check_image_token(&self, tokenizer: &Tokenizer) -> Result<()> {
        let configured = self.config.image_token_id;
        match tokenizer.token_to_id(IMAGE_PLACEHOLDER) {
            Some(found) if found != configured && self.config.layout == CheckpointLayout::Transformers => {
                Err(Error::Config(format!(
                    "{}: field image_token_index (or image_token_id) is {configured}, but the tokenizer gives {IMAGE_PLACEHOLDER:?} the id {found}; copy {CONFIG_FILE} and the tokenizer from the same revision of the model",
                    self.dir.join(CONFIG_FILE).display()
                )))
            }
            _ => Ok(()),
        }
    }

    /// The crops and the tokens of the largest image: one that has exactly the size of a grid fills it; without grids all
    /// images take the same.
    #[must_use]
    pub fn largest_image(&self) -> (usize, usize) {
        let processor = &self.processor;
        let sizes = processor.geometry().map_or_else(|| vec![(1, 1)], |geometry| geometry.pinpoints.clone());
        let largest =
            |of: &dyn Fn((u32, u32)) -> usize| sizes.iter().map(|size| of(*size)).max().unwrap_or(1);
        (
            largest(&|size| processor.packing(size).map_or(1, |packing| packing.tiles() + 1)),
            largest(&|size| processor.image_tokens(size)),
        )
    }

    /// The most tokens a sequence can have.
    #[must_use]
    pub const fn max_tokens(&self) -> usize {
        self.config.text.max_position_embeddings
    }
}
