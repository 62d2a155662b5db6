//! Image preprocessing: from an image to the crops that a vision tower reads, bit for bit as
//! `LlavaNextImageProcessorPil`, `LlavaImageProcessorPil` and `CLIPImageProcessorPil` of transformers 5.23.

mod config;

use ::image::{Rgb, RgbImage, imageops};
use stic_contract::recipe::ImageLayout;

use crate::data::anyres::{Geometry, Packing, patch_output_size};
use crate::data::image::ImageLimits;
use crate::data::resample::{Filter, resize};
use crate::{Error, Result};

const CHANNELS: usize = 3;

/// What a model family decides about images where the processor's file says nothing.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorDefaults {
    /// Grids that images are tiled in, (height, width) in pixels; empty for a family whose images are one crop.
    pub pinpoints: &'static [(u32, u32)],
    /// The number of tokens of an image, from the number of features of one crop and the packing of its tiles.
    pub image_tokens: fn(crop_features: usize, packing: Option<&Packing>) -> usize,
}

/// Preprocessed crops of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelValues {
    /// `[crops, 3, height, width]`, row-major; normalised.
    pub data: Vec<f32>,
    /// The number of crops: the base crop first, then the tiles in row-major order.
    pub crops: usize,
    /// The height of each crop, in pixels.
    pub height: usize,
    /// The width of each crop, in pixels.
    pub width: usize,
    /// (height, width) of the image, in pixels.
    pub original: (u32, u32),
}

/// The size that images are resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// The shorter side gets this length; the aspect ratio is kept.
    ShortestEdge(u32),
    /// (height, width), whatever the aspect ratio.
    Exact(u32, u32),
}

impl Size {
    /// The (height, width) that an image of (height, width) is resized to; never 0.
    fn apply(self, (height, width): (u32, u32)) -> (u32, u32) {
        match self {
            Self::Exact(height, width) => (height, width),
            Self::ShortestEdge(edge) => {
                let (short, long) = (height.min(width), height.max(width));
                let long = (f64::from(edge) * f64::from(long) / f64::from(short)) as u32;
                if width <= height { (long, edge) } else { (edge, long) }
            }
        }
    }

    const fn square(self) -> (u32, u32) {
        match self {
            Self::ShortestEdge(edge) => (edge, edge),
            Self::Exact(height, width) => (height, width),
        }
    }
}

/// How an image is cut before its crops are preprocessed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CropLayout {
    /// One crop.
    Single,
    /// One crop of the image, padded with this colour to a square of its longer side.
    Square(Rgb<u8>),
    /// A base crop and tiles.
    Anyres(Geometry),
}

/// A model's image processor.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    layout: CropLayout,
    filter: Filter,
    /// Absent where `do_resize` is false.
    resize: Option<Size>,
    /// The base crop of anyres is resized to this whatever `do_resize` says.
    base: Size,
    /// (height, width); absent where `do_center_crop` is false.
    center_crop: Option<(u32, u32)>,
    /// Absent where `do_rescale` is false.
    rescale: Option<f64>,
    /// Absent where `do_normalize` is false.
    normalize: Option<Normalize>,
    /// The colour of a padded square.
    mean_color: Rgb<u8>,
    patch_size: u32,
    /// Whether the features of a single crop keep the class token (`vision_feature_select_strategy: full`).
    class_token: bool,
    image_tokens: fn(usize, Option<&Packing>) -> usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Normalize {
    mean: [f64; CHANNELS],
    std: [f64; CHANNELS],
}

impl ImageProcessor {
    /// Applies the recipe's layout: [`ImageLayout::Pad`] is the original LLaVA's square padding, in one crop.
    #[must_use]
    pub fn with_layout(mut self, layout: ImageLayout) -> Self {
        match layout {
            ImageLayout::Model => {}
            ImageLayout::Pad => self.layout = CropLayout::Square(self.mean_color),
        }
        self
    }

    /// Sets whether the features of a single crop keep the class token.
    #[must_use]
    pub const fn with_class_token(mut self, kept: bool) -> Self {
        self.class_token = kept;
        self
    }

    /// Sets the side of a patch, in pixels: the vision tower's own config may be in another folder than the processor's.
    #[must_use]
    pub fn with_patch_size(mut self, patch_size: u32) -> Self {
        self.patch_size = patch_size.max(1);
        if let CropLayout::Anyres(geometry) = &mut self.layout {
            geometry.side = (geometry.crop / self.patch_size) as usize;
        }
        self
    }

    /// Whether all crops have [`Self::crop_size`], whatever the image.
    #[must_use]
    pub const fn has_fixed_crops(&self) -> bool {
        self.center_crop.is_some() || matches!(self.resize, Some(Size::Exact(..)))
    }

    /// (height, width) of every crop, in pixels.
    #[must_use]
    pub fn crop_size(&self) -> (u32, u32) {
        self.center_crop.unwrap_or_else(|| self.resize.unwrap_or(self.base).square())
    }

    /// The side of a patch of the vision tower, in pixels.
    #[must_use]
    pub const fn patch_size(&self) -> u32 {
        self.patch_size
    }

    /// The anyres geometry, where images become several crops.
    #[must_use]
    pub const fn geometry(&self) -> Option<&Geometry> {
        match &self.layout {
            CropLayout::Anyres(geometry) => Some(geometry),
            CropLayout::Single | CropLayout::Square(_) => None,
        }
    }

    /// How the crops of an image of `original` (height, width) are packed; `None` where the image is one crop.
    #[must_use]
    pub fn packing(&self, original: (u32, u32)) -> Option<Packing> {
        self.geometry().map(|geometry| geometry.packing(original))
    }

    /// The number of tokens of an image of `original` (height, width).
    #[must_use]
    pub fn image_tokens(&self, original: (u32, u32)) -> usize {
        let (height, width) = self.crop_size();
        let patches = (height / self.patch_size) as usize * (width / self.patch_size) as usize;
        (self.image_tokens)(patches + usize::from(self.class_token), self.packing(original).as_ref())
    }

    /// Cuts `image` into crops and normalises them.
    ///
    /// # Errors
    /// [`Error::Data`] for an image without pixels or of an extreme aspect ratio, and for one whose crops would differ
    /// in size.
    pub fn preprocess(&self, image: &RgbImage) -> Result<PixelValues> {
        let original = (image.height(), image.width());
        if original.0 == 0 || original.1 == 0 {
            return Err(Error::Data("the image has no pixels; replace or remove it".into()));
        }
        self.check_aspect(original)?;
        let crops = match &self.layout {
            CropLayout::Single => vec![self.crop(image)],
            CropLayout::Square(color) => vec![self.crop(&pad_to_square(image, *color))],
            CropLayout::Anyres(geometry) => {
                self.anyres_crops(image, geometry).iter().map(|crop| self.crop(crop)).collect()
            }
        };
        let (width, height) = crops.first().map_or((0, 0), RgbImage::dimensions);
        if let Some(other) = crops.iter().find(|crop| crop.dimensions() != (width, height)) {
            return Err(Error::Data(format!(
                "an image of {}x{} pixels becomes crops of {width}x{height} and {}x{}; set do_center_crop in the \
                 model's preprocessor_config.json",
                original.1,
                original.0,
                other.width(),
                other.height()
            )));
        }
        let data = self.normalised(&crops, width as usize * height as usize);
        Ok(PixelValues { data, crops: crops.len(), height: height as usize, width: width as usize, original })
    }

    /// `[crops, 3, height, width]` from crops of `plane` pixels each.
    fn normalised(&self, crops: &[RgbImage], plane: usize) -> Vec<f32> {
        let tables = self.tables();
        let mut data = Vec::with_capacity(crops.len() * CHANNELS * plane);
        for crop in crops {
            for (channel, table) in tables.iter().enumerate() {
                let samples = crop.as_raw().iter().skip(channel).step_by(CHANNELS);
                data.extend(samples.map(|&sample| table[usize::from(sample)]));
            }
        }
        data
    }

    /// An image one pixel wide would become enormous when its shorter side is resized to that of a crop, or when it is
    /// padded to a square.
    ///
    /// # Errors
    /// [`Error::Data`] where the resized or padded image would exceed [`ImageLimits::max_pixels`].
    pub fn check_aspect(&self, original: (u32, u32)) -> Result<()> {
        let (height, width) = match (&self.layout, self.resize) {
            (CropLayout::Single, Some(size @ Size::ShortestEdge(_))) => size.apply(original),
            (CropLayout::Square(_), _) => (original.0.max(original.1), original.0.max(original.1)),
            _ => return Ok(()),
        };
        if u64::from(height) * u64::from(width) <= ImageLimits::default().max_pixels {
            return Ok(());
        }
        Err(Error::Data(format!(
            "an image of {}x{} pixels is too narrow: it would become one of {width}x{height}; crop it or remove the item",
            original.1, original.0
        )))
    }

    /// The normalised value of each of the 256 sample values, per channel. The order and precision of the operations
    /// are numpy's: rescaled in f64, rounded to f32, then normalised in f32.
    fn tables(&self) -> [[f32; 256]; CHANNELS] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|sample| {
                let value = self.rescale.map_or(sample as f32, |scale| (sample as f64 * scale) as f32);
                self.normalize.map_or(value, |Normalize { mean, std }| {
                    (value - mean[channel] as f32) / std[channel] as f32
                })
            })
        })
    }

    fn crop(&self, image: &RgbImage) -> RgbImage {
        let resized = self.resize.map(|size| {
            let (height, width) = size.apply((image.height(), image.width()));
            resize(image, width, height, self.filter)
        });
        let resized = resized.as_ref().unwrap_or(image);
        self.center_crop.map_or_else(|| resized.clone(), |size| center_crop(resized, size))
    }

    /// The base crop and the tiles, before the steps that apply to every crop.
    fn anyres_crops(&self, image: &RgbImage, geometry: &Geometry) -> Vec<RgbImage> {
        let original = (image.height(), image.width());
        let best = geometry.best_resolution(original);
        let (height, width) = patch_output_size(original, best);
        let mut canvas = RgbImage::new(best.1, best.0);
        let fitted = resize(image, width, height, self.filter);
        imageops::replace(
            &mut canvas,
            &fitted,
            i64::from((best.1 - width) / 2),
            i64::from((best.0 - height) / 2),
        );

        let (base_height, base_width) = self.base.square();
        let mut crops = vec![resize(image, base_width, base_height, self.filter)];
        let side = geometry.crop;
        for top in (0..best.0).step_by(side as usize) {
            for left in (0..best.1).step_by(side as usize) {
                crops.push(imageops::crop_imm(&canvas, left, top, side, side).to_image());
            }
        }
        crops
    }
}

/// `expand2square`: the image in the middle of a square of its longer side.
fn pad_to_square(image: &RgbImage, color: Rgb<u8>) -> RgbImage {
    let (width, height) = image.dimensions();
    if width == height {
        return image.clone();
    }
    let side = width.max(height);
    let mut square = RgbImage::from_pixel(side, side, color);
    imageops::replace(&mut square, image, i64::from((side - width) / 2), i64::from((side - height) / 2));
    square
}

/// `image_transforms.center_crop`: an image smaller than the crop is padded with zeros.
fn center_crop(image: &RgbImage, (height, width): (u32, u32)) -> RgbImage {
    let start = |from: u32, to: u32| (i64::from(from) - i64::from(to)).div_euclid(2);
    let mut out = RgbImage::new(width, height);
    imageops::replace(&mut out, image, -start(image.width(), width), -start(image.height(), height));
    out
}
