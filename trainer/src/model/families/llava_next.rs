//! LLaVA-1.6 (transformers `models/llava_next`): as LLaVA-1.5, with images in tiles of high resolution (anyres).

use candle_core::Tensor;

use super::llava;
use super::model_config::{CheckpointLayout, Family, ModelConfig};
use crate::data::anyres::{DEFAULT_PINPOINTS, Packing};
use crate::data::fields::Fields;
use crate::data::processor::ProcessorDefaults;
use crate::error::Result;
use crate::model::config::VisionTowerKind;
use crate::model::renames::Rename;
use crate::model::weights::Weights;

/// `model_type` in transformers' layout.
pub(super) const MODEL_TYPE: &str = "llava_next";
pub(super) const VISION_TOWER: VisionTowerKind = llava::VISION_TOWER;
pub(super) const PROCESSOR_DEFAULTS: ProcessorDefaults =
    ProcessorDefaults { pinpoints: &DEFAULT_PINPOINTS, image_tokens };
/// In addition to those of LLaVA-1.5.
pub(super) const RENAMES: &[Rename] = &[("model.image_newline", "image_newline")];

/// Whether an original repository is of this family.
pub(super) fn is_original(root: &Fields<'_>) -> Result<bool> {
    Ok(root.text("image_aspect_ratio")?.is_some_and(|ratio| ratio.starts_with("anyres")))
}

pub(super) fn read_config(root: &Fields<'_>, layout: CheckpointLayout) -> Result<ModelConfig> {
    let config = llava::read_config(root, layout)?;
    if config.keep_class_token {
        let field = match layout {
            CheckpointLayout::Transformers => llava::SELECT_STRATEGY,
            CheckpointLayout::Original => llava::SELECT_FEATURE,
        };
        return Err(root.error(
            field,
            "the class token has no place among the features of LLaVA-1.6, which are laid out as a plane; use \"default\" (\"patch\" in an original LLaVA), with the weights of a model that was trained so",
        ));
    }
    if layout == CheckpointLayout::Original && root.text("mm_patch_merge_type")? != Some("spatial_unpad") {
        return Err(
            root.wrong("mm_patch_merge_type", "spatial_unpad, as in LLaVA-1.6 checkpoints with anyres")
        );
    }
    let grid_pinpoints =
        root.pinpoints("image_grid_pinpoints")?.unwrap_or_else(|| DEFAULT_PINPOINTS.to_vec());
    Ok(ModelConfig { family: Family::LlavaNext, grid_pinpoints, ..config })
}

/// Without a packing, the recipe has the image in one crop.
fn image_tokens(crop_features: usize, packing: Option<&Packing>) -> usize {
    packing.map_or(crop_features, Packing::tokens)
}

/// The embedding that ends each row of tiles, `[width]`.
pub(super) fn load_newline(weights: &Weights, width: usize) -> Result<Tensor> {
    weights.get(width, "image_newline")
}

/// Projected crops `[crops, side * side, width]`, the base crop first, to tokens `[tokens, width]`: the base crop, then
/// the rows of the tiled image that show the image and not padding, each followed by a newline
/// (transformers `pack_image_features`).
pub(super) fn pack(crops: &Tensor, packing: &Packing, newline: &Tensor) -> Result<Tensor> {
    let (count, _, width) = crops.dims3()?;
    let side = packing.side;
    let (down, across) = packing.grid;
    let (rows, columns) = (&packing.rows, &packing.cols);
    let base = crops.get(0)?;
    if rows.is_empty() {
        return Ok(base);
    }
    let tiles = crops.narrow(0, 1, count - 1)?;
    // (grid rows, side, grid columns, side) are the rows and columns of one image.
    let image = tiles
        .reshape((down, across, side, side, width))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((down * side, across * side, width))?
        .narrow(0, rows.start, rows.len())?
        .narrow(1, columns.start, columns.len())?
        .contiguous()?;
    let newlines = newline.reshape((1, 1, width))?.expand((rows.len(), 1, width))?;
    let rows = Tensor::cat(&[image, newlines.contiguous()?], 1)?;
    Ok(Tensor::cat(&[base, rows.flatten_to(1)?], 0)?)
}
