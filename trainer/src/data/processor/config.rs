//! Reads an [`ImageProcessor`] from a model's folder.

use std::path::Path;

use ::image::Rgb;
use serde_json::{Map, Value};

use super::{CHANNELS, Family, ImageProcessor, Layout, Normalize, Size};
use crate::data::anyres::{DEFAULT_PINPOINTS, Geometry, parse_pinpoints};
use crate::data::files::read_json;
use crate::data::resample::Filter;
use crate::{Error, Result};

const CLIP_MEAN: [f64; CHANNELS] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; CHANNELS] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
/// The grids of anyres.
const PINPOINTS: &str = "image_grid_pinpoints";
/// The longest side of a crop: no vision tower takes more, and memory is allocated for it.
const SIDE_MAX: u32 = 16384;
/// The class default of `patch_size`, also where old revisions say `null`.
const DEFAULT_PATCH_SIZE: u32 = 14;

impl ImageProcessor {
    /// Reads `processor_config.json` (`image_processor` nested, transformers 5), else `preprocessor_config.json`; an
    /// original LLaVA folder has neither and is derived from its `config.json`. What a file leaves out takes the
    /// default of the class in transformers.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file and the field, [`Error::Storage`] where a file cannot be read.
    pub fn from_dir(dir: &Path, family: Family) -> Result<Self> {
        let outer = read_json(&dir.join("processor_config.json"))?;
        let inner = read_json(&dir.join("preprocessor_config.json"))?;
        let model = read_json(&dir.join("config.json"))?.unwrap_or_default();
        let nested = outer.as_ref().and_then(|outer| outer.get("image_processor")).and_then(Value::as_object);
        let (name, fields) = match (nested, &inner) {
            (Some(nested), _) => ("processor_config.json", nested),
            (None, Some(inner)) => ("preprocessor_config.json", inner),
            (None, None) if model.contains_key("mm_vision_tower") => {
                return bare_original(dir, &model, family);
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
        let fields = Fields { path: dir.join(name).display().to_string(), map: fields };
        let patch_size = patch_size(dir, outer.as_ref(), &model)?;
        hub(dir, &fields, &model, family, patch_size)
    }
}

/// The patch size of the vision tower: `config.json` decides what the tower does, the processor's copy may be null.
fn patch_size(dir: &Path, outer: Option<&Map<String, Value>>, model: &Map<String, Value>) -> Result<u32> {
    let of_model = model.get("vision_config").and_then(|vision| vision.get("patch_size"));
    let of_processor = outer.and_then(|outer| outer.get("patch_size"));
    match of_model.or(of_processor) {
        None | Some(Value::Null) => Ok(DEFAULT_PATCH_SIZE),
        Some(value) => to_u32(value).ok_or_else(|| {
            Error::Config(format!(
                "{}: patch_size is {value}; it must be a whole number of pixels above 0",
                dir.join("config.json").display()
            ))
        }),
    }
}

fn hub(
    dir: &Path,
    fields: &Fields<'_>,
    model: &Map<String, Value>,
    family: Family,
    patch_size: u32,
) -> Result<ImageProcessor> {
    let size = fields.size("size", Size::ShortestEdge(224))?;
    let crop_size = match fields.size("crop_size", Size::Exact(224, 224))? {
        Size::Exact(height, width) => (height, width),
        Size::ShortestEdge(_) => return Err(fields.wrong("crop_size", "an object with height and width")),
    };
    let mean = fields.triple("image_mean", CLIP_MEAN)?;
    let std = fields.triple("image_std", CLIP_STD)?;
    if std.contains(&0.0) {
        return Err(fields.wrong("image_std", "three numbers other than 0"));
    }
    let mean_color = mean_color(mean);
    let class = fields.map.get("image_processor_type").and_then(Value::as_str).unwrap_or_default();
    let of_llava = class.starts_with("LlavaImageProcessor") || class.starts_with("LlavaNextImageProcessor");
    let layout = if model.contains_key("mm_vision_tower") && !of_llava {
        // CLIP's own file, beside an original LLaVA, says nothing of the layout.
        let config = Fields { path: dir.join("config.json").display().to_string(), map: model };
        original_layout(&config, family, crop_size.0, patch_size, mean_color)?
    } else {
        match family {
            Family::LlavaNext => anyres(fields, crop_size.0, patch_size)?,
            // CLIP's own `do_pad` fills a batch of unlike images and does nothing to one.
            Family::Llava if class.starts_with("LlavaImageProcessor") && fields.flag("do_pad", false)? => {
                Layout::Square(mean_color)
            }
            Family::Llava => Layout::Single,
        }
    };
    if let (Layout::Anyres(geometry), Some(of_model)) =
        (&layout, model.get(PINPOINTS).and_then(parse_pinpoints))
        && geometry.pinpoints != of_model
    {
        return Err(fields.wrong(PINPOINTS, "the same list as config.json's"));
    }
    Ok(ImageProcessor {
        layout,
        filter: match fields.map.get("resample") {
            None | Some(Value::Null) => Filter::Bicubic,
            Some(value) => Filter::from_pillow(
                value.as_u64().ok_or_else(|| fields.wrong("resample", "a whole number from 0 to 5"))?,
            )
            .map_err(|error| fields.beside(&error))?,
        },
        resize: fields.flag("do_resize", true)?.then_some(size),
        base: size,
        center_crop: fields.flag("do_center_crop", true)?.then_some(crop_size),
        rescale: match fields.flag("do_rescale", true)? {
            true => Some(fields.number("rescale_factor", 1.0 / 255.0)?),
            false => None,
        },
        normalize: fields.flag("do_normalize", true)?.then_some(Normalize { mean, std }),
        mean_color,
        patch_size,
        class_token: false,
    })
}

/// The original LLaVA has no processor file: the tower's name gives the crop, `image_aspect_ratio` the layout.
fn bare_original(dir: &Path, model: &Map<String, Value>, family: Family) -> Result<ImageProcessor> {
    let path = dir.join("config.json").display().to_string();
    let fields = Fields { path, map: model };
    let tower = model.get("mm_vision_tower").and_then(Value::as_str).unwrap_or_default();
    let side = match tower.rsplit('/').next().unwrap_or_default() {
        name if name.ends_with("clip-vit-large-patch14-336") => 336,
        name if name.ends_with("clip-vit-large-patch14") => 224,
        _ => {
            return Err(fields.wrong(
                "mm_vision_tower",
                "openai/clip-vit-large-patch14-336 or openai/clip-vit-large-patch14; for another tower, add the \
                 preprocessor_config.json of its repository to this folder",
            ));
        }
    };
    let mean_color = mean_color(CLIP_MEAN);
    let layout = original_layout(&fields, family, side, DEFAULT_PATCH_SIZE, mean_color)?;
    Ok(ImageProcessor {
        layout,
        filter: Filter::Bicubic,
        resize: Some(Size::ShortestEdge(side)),
        base: Size::ShortestEdge(side),
        center_crop: Some((side, side)),
        rescale: Some(1.0 / 255.0),
        normalize: Some(Normalize { mean: CLIP_MEAN, std: CLIP_STD }),
        mean_color,
        patch_size: DEFAULT_PATCH_SIZE,
        class_token: false,
    })
}

/// What `image_aspect_ratio` of an original LLaVA's `config.json` says.
fn original_layout(
    config: &Fields<'_>,
    family: Family,
    crop: u32,
    patch_size: u32,
    mean_color: Rgb<u8>,
) -> Result<Layout> {
    match (config.map.get("image_aspect_ratio").and_then(Value::as_str), family) {
        (Some("anyres"), _) | (None, Family::LlavaNext) => anyres(config, crop, patch_size),
        (Some("pad"), _) => Ok(Layout::Square(mean_color)),
        (Some("square") | None, _) => Ok(Layout::Single),
        (Some(_), _) => Err(config.wrong("image_aspect_ratio", "anyres, pad or square")),
    }
}

/// Anyres in the grids that `fields` have.
fn anyres(fields: &Fields<'_>, crop: u32, patch_size: u32) -> Result<Layout> {
    let pinpoints = match fields.map.get(PINPOINTS) {
        Some(value) => {
            parse_pinpoints(value).ok_or_else(|| fields.wrong(PINPOINTS, "a list of [height, width]"))?
        }
        None => DEFAULT_PINPOINTS.to_vec(),
    };
    Geometry::new(pinpoints, crop, (crop / patch_size) as usize)
        .map(Layout::Anyres)
        .map_err(|error| fields.beside(&error))
}

/// `tuple(int(x * 255) for x in image_mean)`.
fn mean_color(mean: [f64; CHANNELS]) -> Rgb<u8> {
    Rgb(mean.map(|x| (x * 255.0) as u8))
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

/// One file's fields, and how to complain about them.
struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, expected: &str) -> Error {
        let found = self.map.get(field).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::Config(format!("{}: {field} is {found}; it must be {expected}", self.path))
    }

    /// An error about this file's values, with its path.
    fn beside(&self, error: &Error) -> Error {
        Error::Config(format!("{}: {error}", self.path))
    }

    /// A field that is set: absent and `null` take the class default.
    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool> {
        self.get(field)
            .map_or(Ok(default), |value| value.as_bool().ok_or_else(|| self.wrong(field, "true or false")))
    }

    fn number(&self, field: &str, default: f64) -> Result<f64> {
        self.get(field)
            .map_or(Ok(default), |value| value.as_f64().ok_or_else(|| self.wrong(field, "a number")))
    }

    /// Three numbers, or one for all channels.
    fn triple(&self, field: &str, default: [f64; CHANNELS]) -> Result<[f64; CHANNELS]> {
        let Some(value) = self.get(field) else { return Ok(default) };
        let parsed = match value {
            Value::Array(values) => values.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
            other => other.as_f64().map(|number| vec![number; CHANNELS]),
        };
        parsed.and_then(|values| values.try_into().ok()).ok_or_else(|| self.wrong(field, "three numbers"))
    }

    /// `get_size_dict`: an int is the shortest edge of `size` and the square of `crop_size`.
    fn size(&self, field: &str, default: Size) -> Result<Size> {
        const EXPECTED: &str =
            "a number, {\"shortest_edge\": n} or {\"height\": h, \"width\": w}, from 1 to 16384";
        let Some(value) = self.get(field) else { return Ok(default) };
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
        let sane = |size: &Size| matches!(size.square(), (1..=SIDE_MAX, 1..=SIDE_MAX));
        parsed.filter(sane).ok_or_else(|| self.wrong(field, EXPECTED))
    }
}
