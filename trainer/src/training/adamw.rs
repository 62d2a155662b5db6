//! AdamW (Loshchilov and Hutter, arXiv 1711.05101; `torch.optim.AdamW`). candle's own keeps its moments
//! private, so its state cannot be saved.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::model::Gradients;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
pub struct AdamW {
    weight_decay: f64,
    steps: u64,
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Debug)]
struct Parameter {
    weight: Var,
    /// The exponential moving average of the gradient.
    first_moment: Tensor,
    /// The exponential moving average of its square.
    second_moment: Tensor,
}

impl AdamW {
    /// Starts with moments of zero.
    pub fn new(vars: Vec<(String, Var)>, weight_decay: f64) -> Result<Self> {
        let mut parameters = BTreeMap::new();
        for (name, weight) in vars {
            let (first_moment, second_moment) = (weight.zeros_like()?, weight.zeros_like()?);
            parameters.insert(name, Parameter { weight, first_moment, second_moment });
        }
        Ok(Self { weight_decay, steps: 0, parameters })
    }

    /// Steps taken.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// One step at `learning_rate`.
    ///
    /// # Errors
    /// Where a parameter has no gradient.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let t = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let step_size = learning_rate / (1.0 - BETA_1.powi(t));
        let second_scale = (1.0 - BETA_2.powi(t)).sqrt();
        for (name, parameter) in &mut self.parameters {
            let gradient = gradients
                .get(name)
                .ok_or_else(|| candle_core::Error::Msg(format!("{name} has no gradient")))?;
            let Parameter { weight, first_moment, second_moment } = parameter;
            *first_moment = ((&*first_moment * BETA_1)? + (gradient * (1.0 - BETA_1))?)?;
            *second_moment = ((&*second_moment * BETA_2)? + (gradient.sqr()? * (1.0 - BETA_2))?)?;
            let denominator = ((second_moment.sqrt()? / second_scale)? + EPSILON)?;
            let decayed = (weight.as_detached_tensor() * (1.0 - learning_rate * self.weight_decay))?;
            let update = ((&*first_moment / denominator)? * step_size)?;
            weight.set(&(decayed - update)?)?;
        }
        Ok(())
    }

    /// Weights and moments by name, for [`AdamW::restore`].
    #[must_use]
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.parameters
            .iter()
            .flat_map(|(name, parameter)| {
                [
                    (format!("weight.{name}"), parameter.weight.as_detached_tensor()),
                    (format!("exp_avg.{name}"), parameter.first_moment.clone()),
                    (format!("exp_avg_sq.{name}"), parameter.second_moment.clone()),
                ]
            })
            .collect()
    }

    /// Restores a state that was saved after `steps` steps. Where it fails, nothing has changed.
    ///
    /// # Errors
    /// [`Error::Data`] for a state of other parameters.
    pub fn restore(
        &mut self,
        mut state: std::collections::HashMap<String, Tensor>,
        steps: u64,
        device: &Device,
    ) -> Result<()> {
        let mut take = |key: String, like: &Tensor| {
            state
                .remove(&key)
                .filter(|tensor| tensor.shape() == like.shape() && tensor.dtype() == like.dtype())
                .ok_or_else(|| {
                    Error::Data(format!("it has no {key} of shape {:?}, {:?}", like.dims(), like.dtype()))
                })
                .and_then(|tensor| Ok(tensor.to_device(device)?))
        };
        let restored = self
            .parameters
            .iter()
            .map(|(name, parameter)| {
                Ok([
                    take(format!("weight.{name}"), parameter.weight.as_tensor())?,
                    take(format!("exp_avg.{name}"), &parameter.first_moment)?,
                    take(format!("exp_avg_sq.{name}"), &parameter.second_moment)?,
                ])
            })
            .collect::<Result<Vec<_>>>()?;
        for (parameter, [weight, first, second]) in self.parameters.values_mut().zip(restored) {
            parameter.weight.set(&weight)?;
            parameter.first_moment = first;
            parameter.second_moment = second;
        }
        self.steps = steps;
        Ok(())
    }
}
