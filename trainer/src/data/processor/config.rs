//! Reads an [`ImageProcessor`] from a model's folder.

use std::path::Path;

use ::image::Rgb;
use serde_json::{Map, Value};

use super::{CHANNELS, CropLayout, ImageProcessor, Normalize, ProcessorDefaults, Size};
use crate::data::anyres::Geometry;
use crate::data::fields::Fields;
use crate::data::files::{CONFIG_FILE, read_json};
use crate::data::resample::Filter;
use crate::{Error, Result};

const CLIP_MEAN: [f64; CHANNELS] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; CHANNELS] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
/// The grids of anyres.
const PINPOINTS: &str = "image_grid_pinpoints";
/// Present in the `config.json` of original LLaVA repositories only.
const ORIGINAL_TOWER: &str = "mm_vision_tower";
/// The longest side of a crop, in pixels. Memory is allocated for a crop, and no vision tower takes a larger one.
const SIDE_MAX: u32 = 16384;
/// The class default of `patch_size`, which also replaces the `null` of old revisions.
const DEFAULT_PATCH_SIZE: u32 = 14;

impl ImageProcessor {
    /// Reads `processor_config.json` (nested in `image_processor`, as transformers 5 writes it), else
    /// `preprocessor_config.json`. An original LLaVA folder has neither; its processor follows from `config.json`.
    /// Absent fields take the defaults of the class in transformers, then those of the model family.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field, [`Error::Storage`] where a file cannot be read.
    pub fn from_dir(dir: &Path, defaults: &ProcessorDefaults) -> Result<Self> {
        let outer = read_json(&dir.join("processor_config.json"))?;
        let inner = read_json(&dir.join("preprocessor_config.json"))?;
        let model = read_json(&dir.join(CONFIG_FILE))?.unwrap_or_default();
        let config_path = dir.join(CONFIG_FILE);
        let config = Fields::new(&config_path, &model);
        let nested = outer.as_ref().and_then(|outer| outer.get("image_processor")).and_then(Value::as_object);
        let (name, object) = match (nested, &inner) {
            (Some(nested), _) => ("processor_config.json", nested),
            (None, Some(inner)) => ("preprocessor_config.json", inner),
            (None, None) if config.raw(ORIGINAL_TOWER).is_some() => {
                return without_file(config, defaults);
            }
            (None, None) => {
                return Err(Error::Config(format!(
                    "{}: no image processor: looked for preprocessor_config.json, processor_config.json with \
                     image_processor, and config.json with mm_vision_tower; copy preprocessor_config.json from the \
                     model's repository",
                    dir.display()
                )));
            }
        };
        let path = dir.join(name);
        let patch_size = patch_size(config, outer.as_ref())?;
        from_file(Fields::new(&path, object), config, defaults, patch_size)
    }
}

/// The patch size of the vision tower. `config.json` takes precedence: it configures the tower, while the processor's
/// copy may be null.
fn patch_size(config: Fields<'_>, outer: Option<&Map<String, Value>>) -> Result<u32> {
    let of_model = config.raw("vision_config").and_then(|vision| vision.get("patch_size"));
    let of_processor = outer.and_then(|outer| outer.get("patch_size"));
    match of_model.or(of_processor) {
        None | Some(Value::Null) => Ok(DEFAULT_PATCH_SIZE),
        Some(value) => to_u32(value).ok_or_else(|| {
            config.error(
                "vision_config.patch_size",
                &format!("{value} is not a whole number of pixels above 0; copy the file from the model's repository again"),
            )
        }),
    }
}

fn from_file(
    fields: Fields<'_>,
    config: Fields<'_>,
    defaults: &ProcessorDefaults,
    patch_size: u32,
) -> Result<ImageProcessor> {
    let size = size(fields, "size", Size::ShortestEdge(224))?;
    let crop_size = match self::size(fields, "crop_size", Size::Exact(224, 224))? {
        Size::Exact(height, width) => (height, width),
        Size::ShortestEdge(_) => return Err(fields.wrong("crop_size", "an object with height and width")),
    };
    let mean = triple(fields, "image_mean", CLIP_MEAN)?;
    let std = triple(fields, "image_std", CLIP_STD)?;
    if std.contains(&0.0) {
        return Err(fields.wrong("image_std", "three numbers other than 0"));
    }
    let mean_color = mean_color(mean);
    let layout = layout(fields, config, defaults, crop_size.0, patch_size, mean_color)?;
    let flag = |key: &str| Ok::<_, Error>(fields.boolean(key)?.unwrap_or(true));
    Ok(ImageProcessor {
        layout,
        filter: filter(fields)?,
        resize: flag("do_resize")?.then_some(size),
        base: size,
        center_crop: flag("do_center_crop")?.then_some(crop_size),
        rescale: match flag("do_rescale")? {
            true => Some(fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0)),
            false => None,
        },
        normalize: flag("do_normalize")?.then_some(Normalize { mean, std }),
        mean_color,
        patch_size,
        class_token: false,
        image_tokens: defaults.image_tokens,
    })
}

fn layout(
    fields: Fields<'_>,
    config: Fields<'_>,
    defaults: &ProcessorDefaults,
    crop: u32,
    patch_size: u32,
    mean_color: Rgb<u8>,
) -> Result<CropLayout> {
    let class = fields.get("image_processor_type").and_then(Value::as_str).unwrap_or_default();
    let llava = class.starts_with("LlavaImageProcessor");
    let layout =
        if config.raw(ORIGINAL_TOWER).is_some() && !llava && !class.starts_with("LlavaNextImageProcessor") {
            // The file of CLIP beside an original LLaVA does not decide the layout.
            original_layout(config, defaults, crop, patch_size, mean_color)?
        } else if !defaults.pinpoints.is_empty() {
            anyres(fields, defaults, crop, patch_size)?
        } else if llava && fields.boolean("do_pad")?.unwrap_or(false) {
            // `do_pad` in CLIP's own file fills a batch of images of different sizes and does nothing to one image.
            CropLayout::Square(mean_color)
        } else {
            CropLayout::Single
        };
    if let (CropLayout::Anyres(geometry), Ok(Some(of_model))) = (&layout, config.pinpoints(PINPOINTS))
        && geometry.pinpoints != of_model
    {
        return Err(fields.wrong(PINPOINTS, "the same list as in config.json"));
    }
    Ok(layout)
}

/// The processor of an original LLaVA without a processor's file: the tower's name gives the crop.
fn without_file(config: Fields<'_>, defaults: &ProcessorDefaults) -> Result<ImageProcessor> {
    let tower = config.get(ORIGINAL_TOWER).and_then(Value::as_str).unwrap_or_default();
    let side = match tower.rsplit('/').next().unwrap_or_default() {
        name if name.ends_with("clip-vit-large-patch14-336") => 336,
        name if name.ends_with("clip-vit-large-patch14") => 224,
        _ => {
            return Err(config.wrong(
                ORIGINAL_TOWER,
                "openai/clip-vit-large-patch14-336 or openai/clip-vit-large-patch14; for another tower, add the \
                 preprocessor_config.json of its repository to this folder",
            ));
        }
    };
    let mean_color = mean_color(CLIP_MEAN);
    Ok(ImageProcessor {
        layout: original_layout(config, defaults, side, DEFAULT_PATCH_SIZE, mean_color)?,
        filter: Filter::Bicubic,
        resize: Some(Size::ShortestEdge(side)),
        base: Size::ShortestEdge(side),
        center_crop: Some((side, side)),
        rescale: Some(1.0 / 255.0),
        normalize: Some(Normalize { mean: CLIP_MEAN, std: CLIP_STD }),
        mean_color,
        patch_size: DEFAULT_PATCH_SIZE,
        class_token: false,
        image_tokens: defaults.image_tokens,
    })
}

/// The layout of `image_aspect_ratio` in an original LLaVA's `config.json`.
fn original_layout(
    config: Fields<'_>,
    defaults: &ProcessorDefaults,
    crop: u32,
    patch_size: u32,
    mean_color: Rgb<u8>,
) -> Result<CropLayout> {
    match config.raw("image_aspect_ratio").and_then(Value::as_str) {
        Some("anyres") => anyres(config, defaults, crop, patch_size),
        None if !defaults.pinpoints.is_empty() => anyres(config, defaults, crop, patch_size),
        Some("pad") => Ok(CropLayout::Square(mean_color)),
        Some("square") | None => Ok(CropLayout::Single),
        Some(_) => Err(config.wrong("image_aspect_ratio", "anyres, pad or square")),
    }
}

/// Anyres in the grids that `fields` list, or in the family's.
fn anyres(
    fields: Fields<'_>,
    defaults: &ProcessorDefaults,
    crop: u32,
    patch_size: u32,
) -> Result<CropLayout> {
    let pinpoints = fields.pinpoints(PINPOINTS)?.unwrap_or_else(|| defaults.pinpoints.to_vec());
    Geometry::new(pinpoints, crop, (crop / patch_size) as usize)
        .map(CropLayout::Anyres)
        .map_err(|error| fields.in_file(&error))
}

/// `tuple(int(x * 255) for x in image_mean)`.
fn mean_color(mean: [f64; CHANNELS]) -> Rgb<u8> {
    Rgb(mean.map(|x| (x * 255.0) as u8))
}

fn filter(fields: Fields<'_>) -> Result<Filter> {
    let Some(value) = fields.get("resample") else { return Ok(Filter::Bicubic) };
    let value = value.as_u64().ok_or_else(|| fields.wrong("resample", "a whole number from 0 to 5"))?;
    Filter::from_pillow(value).map_err(|error| fields.in_file(&error))
}

/// Three numbers, or one for all channels.
fn triple(fields: Fields<'_>, key: &str, default: [f64; CHANNELS]) -> Result<[f64; CHANNELS]> {
    let Some(value) = fields.get(key) else { return Ok(default) };
    let parsed = match value {
        Value::Array(values) => values.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
        other => other.as_f64().map(|number| vec![number; CHANNELS]),
    };
    parsed.and_then(|values| values.try_into().ok()).ok_or_else(|| fields.wrong(key, "three numbers"))
}

/// `get_size_dict`: a number is the shortest edge of `size` and the square of `crop_size`.
fn size(fields: Fields<'_>, key: &str, default: Size) -> Result<Size> {
    const EXPECTED: &str =
        "a number, {\"shortest_edge\": n} or {\"height\": h, \"width\": w}, from 1 to 16384";
    let Some(value) = fields.get(key) else { return Ok(default) };
    let parsed = match value {
        Value::Number(_) => to_u32(value).map(|side| match default {
            Size::ShortestEdge(_) => Size::ShortestEdge(side),
            Size::Exact(..) => Size::Exact(side, side),
        }),
        Value::Array(_) => pair(value).map(|(height, width)| Size::Exact(height, width)),
        Value::Object(map) => {
            let side = |key: &str| map.get(key).filter(|side| !side.is_null());
            match (side("shortest_edge"), side("height"), side("width"), side("longest_edge")) {
                (Some(edge), None, None, None) => to_u32(edge).map(Size::ShortestEdge),
                (None, Some(height), Some(width), None) => {
                    to_u32(height).zip(to_u32(width)).map(|(height, width)| Size::Exact(height, width))
                }
                _ => None,
            }
        }
        _ => None,
    };
    let in_range = |size: &Size| matches!(size.square(), (1..=SIDE_MAX, 1..=SIDE_MAX));
    parsed.filter(in_range).ok_or_else(|| fields.wrong(key, EXPECTED))
}

fn to_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|&number| number > 0)
}

fn pair(value: &Value) -> Option<(u32, u32)> {
    match value.as_array()?.as_slice() {
        [first, second] => Some((to_u32(first)?, to_u32(second)?)),
        _ => None,
    }
}
