//! The gradients of an adapter, by tensor name.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use stic_contract::recipe::LoraTarget;

use super::lora::{Half, LoraAdapter, tensor_name};
use crate::error::Result;

/// Sums of gradients in f32, ordered by name. candle's own store is a hash map, and the norm over it would depend on
/// its order, which varies.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    by_name: BTreeMap<String, Tensor>,
}

impl Gradients {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// All gradients, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// Adds the gradients in `found` for the pairs of one layer. Callers must add examples in a fixed order, because sums
    /// of floats depend on it.
    ///
    /// # Errors
    /// A trainable tensor without a gradient, which happens silently where an operation has no backward pass.
    pub fn add_layer(&mut self, adapter: &LoraAdapter, layer: usize, found: &mut GradStore) -> Result<()> {
        for target in LoraTarget::ALL {
            let Some(pair) = adapter.pair(layer, target) else { continue };
            for (half, var) in [(Half::A, &pair.a), (Half::B, &pair.b)] {
                let name = tensor_name(layer, target, half);
                let gradient = found
                    .remove(var.as_tensor())
                    .ok_or_else(|| candle_core::Error::Msg(format!("{name} received no gradient")))?;
                self.add_one(name, &gradient)?;
            }
        }
        Ok(())
    }

    fn add_one(&mut self, name: String, gradient: &Tensor) -> Result<()> {
        let sum = match self.by_name.get(&name) {
            Some(sum) => (sum + gradient)?,
            None => gradient.clone(),
        };
        self.by_name.insert(name, sum.detach());
        Ok(())
    }

    /// The global L2 norm, a scalar on the device, summed in f64 in the order of names.
    fn norm(&self) -> Result<Tensor> {
        let squares = self.by_name.values().map(|gradient| gradient.to_dtype(DType::F64)?.sqr()?.sum_all());
        let squares = squares.collect::<candle_core::Result<Vec<_>>>()?;
        if squares.is_empty() {
            return Ok(Tensor::zeros((), DType::F64, &Device::Cpu)?);
        }
        Ok(Tensor::stack(&squares, 0)?.sum_all()?.sqrt()?)
    }

    /// Scales the gradients down to `max_norm` as `torch.nn.utils.clip_grad_norm_` does, and returns the norm before, a
    /// scalar in f64 that stays on the device. A `max_norm` of 0 disables clipping.
    pub fn clip(&mut self, max_norm: f64) -> Result<Tensor> {
        let norm = self.norm()?;
        if max_norm > 0.0 {
            let factor = ((&norm + 1e-6)?.recip()? * max_norm)?.minimum(1.0)?.to_dtype(DType::F32)?;
            for gradient in self.by_name.values_mut() {
                *gradient = gradient.broadcast_mul(&factor)?;
            }
        }
        Ok(norm)
    }
}
