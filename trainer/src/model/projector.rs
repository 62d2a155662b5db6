//! The projector: two linear layers from the vision tower's width to the language model's.

use candle_core::Tensor;

use super::config::Activation;
use super::families::ModelConfig;
use super::linear::FrozenLinear;
use super::weights::Weights;
use crate::error::Result;

pub(super) struct Projector {
    linear_1: FrozenLinear,
    linear_2: FrozenLinear,
    act: Activation,
}

impl Projector {
    pub(super) fn load(weights: &Weights, config: &ModelConfig, vision_width: usize) -> Result<Self> {
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
        })
    }

    /// `[crops, patches, vision width]` to `[crops, patches, width]`.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let inner = self.act.forward(&self.linear_1.forward(features)?)?;
        Ok(self.linear_2.forward(&inner)?)
    }
}
