//! AdamW (Loshchilov and Hutter, arXiv 1711.05101; `torch.optim.AdamW`), with moments that can be saved:
//! candle's own keeps them private.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::model::Gradients;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The optimizer of an adapter.
#[derive(Debug)]
pub struct AdamW {
    weight_decay: f64,
    steps: u64,
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    weight: Var,
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    /// Over the tensors given, moments zero.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn new(vars: Vec<(String, Var)>, weight_decay: f64) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for (name, weight) in vars {
            let (first, second) = (weight.zeros_like()?, weight.zeros_like()?);
            slots.insert(name, Slot { weight, first, second });
        }
        Ok(Self { weight_decay, steps: 0, slots })
    }

    /// Steps taken.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// One step at `learning_rate`.
    ///
    /// # Errors
    /// A tensor without a gradient, and those of the tensor library.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let t = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let step_size = learning_rate / (1.0 - BETA_1.powi(t));
        let second_scale = (1.0 - BETA_2.powi(t)).sqrt();
        for (name, slot) in &mut self.slots {
            let gradient = gradients
                .get(name)
                .ok_or_else(|| candle_core::Error::Msg(format!("{name} has no gradient")))?;
            slot.first = ((&slot.first * BETA_1)? + (gradient * (1.0 - BETA_1))?)?;
            slot.second = ((&slot.second * BETA_2)? + (gradient.sqr()? * (1.0 - BETA_2))?)?;
            let denominator = ((slot.second.sqrt()? / second_scale)? + EPSILON)?;
            let decayed = (slot.weight.as_detached_tensor() * (1.0 - learning_rate * self.weight_decay))?;
            let update = ((&slot.first / denominator)? * step_size)?;
            slot.weight.set(&(decayed - update)?)?;
        }
        Ok(())
    }

    /// Weights and moments by name, for [`AdamW::restore`].
    #[must_use]
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.slots
            .iter()
            .flat_map(|(name, slot)| {
                [
                    (format!("weight.{name}"), slot.weight.as_detached_tensor()),
                    (format!("exp_avg.{name}"), slot.first.clone()),
                    (format!("exp_avg_sq.{name}"), slot.second.clone()),
                ]
            })
            .collect()
    }

    /// Goes on from a saved state after `steps` steps: from the whole of it or, where it fails, from none.
    ///
    /// # Errors
    /// [`Error::Data`] for a state that is not of these tensors.
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
            .slots
            .iter()
            .map(|(name, slot)| {
                Ok([
                    take(format!("weight.{name}"), slot.weight.as_tensor())?,
                    take(format!("exp_avg.{name}"), &slot.first)?,
                    take(format!("exp_avg_sq.{name}"), &slot.second)?,
                ])
            })
            .collect::<Result<Vec<_>>>()?;
        for (slot, [weight, first, second]) in self.slots.values_mut().zip(restored) {
            slot.weight.set(&weight)?;
            slot.first = first;
            slot.second = second;
        }
        self.steps = steps;
        Ok(())
    }
}
