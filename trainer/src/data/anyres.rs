//! The geometry of anyres (LLaVA-1.6): which grid an image gets, which rows and columns of its features are padding,
//! and how many tokens it becomes. Sizes are (height, width) throughout, as in transformers.
//!
//! Source: transformers 5.23 `image_processing_utils.py` and `models/llava_next/{processing,modeling}_llava_next.py`.

use std::ops::Range;

use serde_json::Value;

use crate::{Error, Result};

/// The class default of `LlavaNextImageProcessor`, (height, width) in pixels.
pub const DEFAULT_PINPOINTS: [(u32, u32); 5] = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];

/// The longest side of a pinpoint: each image is brought to that size in memory.
const PINPOINT_SIDE_MAX: u32 = 16384;

/// `image_grid_pinpoints` of a config: pairs of pixels, or the text of a Python list of pairs, which some original
/// repositories have. `None` for anything else.
///
/// The original LLaVA means (width, height). transformers' conversion reads the same numbers as (height, width), and so
/// do we: the published lists are symmetric, so only the choice between two equally good grids depends on the order.
pub(crate) fn parse_pinpoints(value: &Value) -> Option<Vec<(u32, u32)>> {
    let parsed;
    let list = match value {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(&text.replace('(', "[").replace(')', "]")).ok()?;
            parsed.as_array()?
        }
        other => other.as_array()?,
    };
    let side = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    list.iter()
        .map(|pair| match pair.as_array()?.as_slice() {
            [first, second] => side(first).zip(side(second)),
            _ => None,
        })
        .collect()
}

/// The grids that a model tiles images in, and the size of one crop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Resolutions an image may be resized to, (height, width) in pixels, multiples of `crop`.
    pub pinpoints: Vec<(u32, u32)>,
    /// The side of a crop, in pixels (336).
    pub crop: u32,
    /// The side of a crop, in features (24).
    pub side: usize,
}

/// How the features of an image's crops become its tokens.
///
/// The base crop's `side * side` features come first. The tiles, row-major in `grid`, are laid out as one plane of
/// `side * grid.0` by `side * grid.1` features, of which `rows` x `cols` are kept. One newline token ends each kept row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    /// Features along a side of one crop.
    pub side: usize,
    /// Tiles down and across.
    pub grid: (usize, usize),
    /// Rows of the plane that show the image and not padding; empty for an extremely narrow image.
    pub rows: Range<usize>,
    /// Columns of the plane that show the image and not padding.
    pub cols: Range<usize>,
}

impl Packing {
    /// The number of tiles, the base crop not included.
    #[must_use]
    pub const fn tiles(&self) -> usize {
        self.grid.0 * self.grid.1
    }

    /// The number of tokens: base features, kept features, and one newline for each kept row.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.side * self.side + self.rows.len() * (self.cols.len() + 1)
    }
}

impl Geometry {
    /// # Errors
    /// [`Error::Config`] for a size of 0, no pinpoint, or a pinpoint that is not a multiple of the crop.
    pub fn new(pinpoints: Vec<(u32, u32)>, crop: u32, side: usize) -> Result<Self> {
        if crop == 0 || side == 0 {
            return Err(Error::Config(format!(
                "a crop of {crop} pixels and {side} features a side holds no image; check crop_size and patch_size"
            )));
        }
        if pinpoints.is_empty() {
            return Err(Error::Config(
                "image_grid_pinpoints is empty; give at least one [height, width]".into(),
            ));
        }
        if let Some((height, width)) =
            pinpoints.iter().find(|(h, w)| *h == 0 || *w == 0 || h % crop != 0 || w % crop != 0)
        {
            return Err(Error::Config(format!(
                "image_grid_pinpoints holds [{height}, {width}], which is not made of whole crops of {crop} pixels; \
                 use multiples of {crop}"
            )));
        }
        if let Some((height, width)) = pinpoints.iter().find(|(h, w)| h.max(w) > &PINPOINT_SIDE_MAX) {
            return Err(Error::Config(format!(
                "image_grid_pinpoints holds [{height}, {width}], which is more than {PINPOINT_SIDE_MAX} pixels a side; \
                 copy the list of the model's repository again"
            )));
        }
        Ok(Self { pinpoints, crop, side })
    }

    /// The pinpoint that an image of this size is resized to, (height, width) in pixels.
    #[must_use]
    pub fn best_resolution(&self, size: (u32, u32)) -> (u32, u32) {
        select_best_resolution(size, &self.pinpoints).unwrap_or((self.crop, self.crop))
    }

    /// How the crops of an image of this size are packed.
    #[must_use]
    pub fn packing(&self, size: (u32, u32)) -> Packing {
        let (height, width) = self.best_resolution(size);
        let grid = ((height / self.crop) as usize, (width / self.crop) as usize);
        let (rows, cols) = unpad((self.side * grid.0, self.side * grid.1), size);
        Packing { side: self.side, grid, rows, cols }
    }
}

/// The pinpoint with the largest effective area; among equals the one that wastes least, then the first.
#[must_use]
pub fn select_best_resolution(size: (u32, u32), pinpoints: &[(u32, u32)]) -> Option<(u32, u32)> {
    let (original_height, original_width) = (f64::from(size.0), f64::from(size.1));
    let original_area = u64::from(size.0) * u64::from(size.1);
    let mut best = None;
    for &(height, width) in pinpoints {
        let scale = (f64::from(width) / original_width).min(f64::from(height) / original_height);
        let scaled_area = (original_width * scale) as u64 * (original_height * scale) as u64;
        let effective = scaled_area.min(original_area);
        let wasted = (u64::from(width) * u64::from(height)).saturating_sub(effective);
        let better =
            best.is_none_or(|(most, least, _)| effective > most || (effective == most && wasted < least));
        if better {
            best = Some((effective, wasted, (height, width)));
        }
    }
    best.map(|(.., resolution)| resolution)
}

/// The size of an image that is fitted into `target`, both (height, width) in pixels: `get_patch_output_size`.
#[must_use]
pub fn patch_output_size(size: (u32, u32), target: (u32, u32)) -> (u32, u32) {
    let (height, width) = (f64::from(size.0), f64::from(size.1));
    let (scale_w, scale_h) = (f64::from(target.1) / width, f64::from(target.0) / height);
    if scale_w < scale_h {
        (((height * scale_w).ceil() as u32).min(target.0), target.1)
    } else {
        (target.0, ((width * scale_h).ceil() as u32).min(target.1))
    }
}

/// Rows and columns of a plane of `plane` (height, width) features that show an image of `size` pixels.
fn unpad(plane: (usize, usize), size: (u32, u32)) -> (Range<usize>, Range<usize>) {
    let (height, width) = (f64::from(size.0), f64::from(size.1));
    let (rows, cols) = plane;
    if width / height > cols as f64 / rows as f64 {
        let kept = round_to_int(height * (cols as f64 / width));
        let padding = rows.saturating_sub(kept) / 2;
        (padding..rows - padding, 0..cols)
    } else {
        let kept = round_to_int(width * (rows as f64 / height));
        let padding = cols.saturating_sub(kept) / 2;
        (0..rows, padding..cols - padding)
    }
}

/// Python's `int(round(x, 7))`: decimal rounding of the exact value, as formatting does it, then truncation.
fn round_to_int(x: f64) -> usize {
    let rounded = format!("{x:.7}");
    rounded.split('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
