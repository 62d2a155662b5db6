//! The projector, and the packing of anyres tiles into one sequence
//! (transformers `models/llava_next/modeling_llava_next.py`, `pack_image_features`).

use candle_core::Tensor;

use super::config::{Activation, LlavaConfig};
use super::linear::FrozenLinear;
use super::weights::Weights;
use crate::data::anyres::Packing;
use crate::error::Result;

pub(super) struct Projector {
    linear_1: FrozenLinear,
    linear_2: FrozenLinear,
    act: Activation,
    newline: Option<Tensor>,
}

impl Projector {
    pub(super) fn load(weights: &Weights, config: &LlavaConfig, vision_width: usize) -> Result<Self> {
        let width = config.text.hidden_size;
        let linear = |part: &str, input: usize| -> Result<FrozenLinear> {
            let name = format!("multi_modal_projector.{part}");
            let bias =
                if config.projector_bias { Some(weights.get(width, &format!("{name}.bias"))?) } else { None };
            Ok(FrozenLinear::new(weights.get((width, input), &format!("{name}.weight"))?, bias))
        };
        Ok(Self {
            linear_1: linear("linear_1", vision_width)?,
            linear_2: linear("linear_2", width)?,
            act: config.projector_activation,
            newline: if config.grid_pinpoints.is_empty() {
                None
            } else {
                Some(weights.get(width, "image_newline")?)
            },
        })
    }

    /// `[crops, patches, vision width]` to `[crops, patches, width]`.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let inner = self.act.forward(&self.linear_1.forward(features)?)?;
        Ok(self.linear_2.forward(&inner)?)
    }

    /// Projected crops `[crops, side², width]`, the base crop first, to `[tokens, width]`: the base crop, then
    /// the rows of the tiled image that its aspect ratio leaves, each followed by a newline.
    pub(super) fn pack(&self, crops: &Tensor, packing: Option<&Packing>) -> Result<Tensor> {
        let (count, patches, width) = crops.dims3()?;
        let (Some(newline), Some(packing)) = (&self.newline, packing) else {
            return Ok(crops.reshape((count * patches, width))?);
        };
        let side = packing.side;
        let (down, across) = packing.grid;
        let (rows, columns) = (&packing.rows, &packing.cols);
        let base = crops.get(0)?;
        if rows.is_empty() {
            return Ok(base);
        }
        let tiles = crops.narrow(0, 1, count - 1)?;
        // (grid rows, side, grid columns, side): the rows of one image.
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
}
