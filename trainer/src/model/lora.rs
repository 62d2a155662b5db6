//! LoRA adapters: `y = Wx + scale * B A x` on projections of the language model.
//!
//! The base weights do not refer to an adapter. Each forward pass takes one, or none (the reference policy).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use stic_contract::recipe::{Lora, LoraTarget};

use super::config::TextConfig;
use super::linear::FrozenLinear;
use super::mode::Mode;
use crate::algorithm::draw::Draw;
use crate::error::{Error, Result};
use crate::kernels::lora::LoraDelta;

/// A and B of one projection, in f32 whatever the type of the base weights.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// `[rank, in]`.
    pub a: Var,
    /// `[out, rank]`.
    pub b: Var,
}

/// An adapter over the language model.
#[derive(Debug, Clone)]
pub struct LoraAdapter {
    rank: usize,
    alpha: f64,
    scale: f64,
    dropout: f64,
    layers: Vec<BTreeMap<LoraTarget, LoraPair>>,
}

/// Which half of a pair a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// `[rank, in]`.
    A,
    /// `[out, rank]`.
    B,
}

/// The key of dropout on the input of A. The dropped elements are a function of the key, not of the order of calls.
#[derive(Debug, Clone)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The item's id.
    pub item: String,
    /// Epoch and sequence, so that two passes over an item differ.
    pub pass: String,
}

/// How a forward pass uses an adapter.
#[derive(Debug, Clone, Copy)]
pub struct ActiveAdapter<'a> {
    pub adapter: &'a LoraAdapter,
    /// Present in training with an adapter that has dropout.
    pub dropout: Option<&'a DropoutKey>,
    /// Compute `(W + scale B A) x` in f32 instead of `Wx + scale B (A x)`, as a merged export does. One merged
    /// projection is in memory at a time.
    pub merged: bool,
}

impl<'a> From<&'a LoraAdapter> for ActiveAdapter<'a> {
    fn from(adapter: &'a LoraAdapter) -> Self {
        Self { adapter, dropout: None, merged: false }
    }
}

/// (out, in) of a projection.
#[must_use]
pub const fn projection_shape(config: &TextConfig, target: LoraTarget) -> (usize, usize) {
    let attention = config.num_attention_heads * config.head_dim;
    let key_value = config.num_key_value_heads * config.head_dim;
    match target {
        LoraTarget::QProj => (attention, config.hidden_size),
        LoraTarget::KProj | LoraTarget::VProj => (key_value, config.hidden_size),
        LoraTarget::OProj => (config.hidden_size, attention),
        LoraTarget::GateProj | LoraTarget::UpProj => (config.intermediate_size, config.hidden_size),
        LoraTarget::DownProj => (config.hidden_size, config.intermediate_size),
    }
}

impl LoraAdapter {
    /// A new adapter: A uniform in ±1/sqrt(in) (peft's Kaiming initialisation with a = sqrt(5)), B zero.
    ///
    /// # Errors
    /// [`Error::Config`] for a rank of 0 or no targets.
    pub fn new(config: &TextConfig, lora: &Lora, seed: u64, device: &Device) -> Result<Self> {
        if lora.rank == 0 || lora.targets.is_empty() {
            return Err(Error::Config(format!(
                "training.lora: rank is {} and targets has {} entries; give a rank of at least 1 and at least one target",
                lora.rank,
                lora.targets.len()
            )));
        }
        let rank = lora.rank as usize;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut pairs = BTreeMap::new();
            for target in &lora.targets {
                let (out, input) = projection_shape(config, *target);
                let mut draw = Draw::new(seed, &tensor_name(layer, *target, Half::A), "lora-init");
                let bound = 1.0 / (input as f64).sqrt();
                let a: Vec<f32> =
                    (0..rank * input).map(|_| ((draw.uniform() * 2.0 - 1.0) * bound) as f32).collect();
                let pair = LoraPair {
                    a: Var::from_vec(a, (rank, input), device)?,
                    b: Var::zeros((out, rank), DType::F32, device)?,
                };
                pairs.insert(*target, pair);
            }
            layers.push(pairs);
        }
        Ok(Self::from_parts(rank, lora.alpha, lora.alpha / rank as f64, lora.dropout, layers))
    }

    /// An adapter of given weights, a map for each layer; `scale` is alpha/rank, or alpha/sqrt(rank) for rslora.
    #[must_use]
    pub const fn from_parts(
        rank: usize,
        alpha: f64,
        scale: f64,
        dropout: f64,
        layers: Vec<BTreeMap<LoraTarget, LoraPair>>,
    ) -> Self {
        Self { rank, alpha, scale, dropout, layers }
    }

    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    #[must_use]
    pub const fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The factor of B A x.
    #[must_use]
    pub const fn scale(&self) -> f64 {
        self.scale
    }

    /// The probability that an element of the input of A is dropped in training.
    #[must_use]
    pub const fn dropout(&self) -> f64 {
        self.dropout
    }

    /// The projections that any layer adapts.
    #[must_use]
    pub fn targets(&self) -> Vec<LoraTarget> {
        LoraTarget::ALL
            .into_iter()
            .filter(|t| self.layers.iter().any(|layer| layer.contains_key(t)))
            .collect()
    }

    /// The projections that each layer adapts.
    #[must_use]
    pub fn targets_by_layer(&self) -> Vec<Vec<LoraTarget>> {
        self.layers.iter().map(|layer| layer.keys().copied().collect()).collect()
    }

    /// Bytes of all weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let pairs = self.layers.iter().flat_map(BTreeMap::values);
        let values = pairs.map(|pair| pair.a.elem_count() + pair.b.elem_count()).sum::<usize>();
        (values * size_of::<f32>()) as u64
    }

    #[must_use]
    pub fn pair(&self, layer: usize, target: LoraTarget) -> Option<&LoraPair> {
        self.layers.get(layer)?.get(&target)
    }

    /// Every trainable tensor with its canonical name, sorted by name: sums over them follow this order.
    #[must_use]
    pub fn named_vars(&self) -> Vec<(String, Var)> {
        let mut vars: Vec<_> = self
            .layers
            .iter()
            .enumerate()
            .flat_map(|(layer, pairs)| {
                pairs.iter().flat_map(move |(target, pair)| {
                    [
                        (tensor_name(layer, *target, Half::A), pair.a.clone()),
                        (tensor_name(layer, *target, Half::B), pair.b.clone()),
                    ]
                })
            })
            .collect();
        vars.sort_by(|(a, _), (b, _)| a.cmp(b));
        vars
    }

    /// A copy that later changes of the weights do not affect.
    pub fn frozen_copy(&self) -> Result<Self> {
        let mut copy = self.clone();
        for pair in copy.layers.iter_mut().flat_map(BTreeMap::values_mut) {
            pair.a = Var::from_tensor(&pair.a.as_tensor().copy()?)?;
            pair.b = Var::from_tensor(&pair.b.as_tensor().copy()?)?;
        }
        Ok(copy)
    }

    /// `scale * B A`, `[out, in]` in f32, which a merge adds to W.
    pub fn delta(&self, layer: usize, target: LoraTarget) -> Result<Option<Tensor>> {
        Ok(self.pair(layer, target).map(|pair| pair.delta(self.scale)).transpose()?)
    }
}

impl LoraPair {
    fn delta(&self, scale: f64) -> candle_core::Result<Tensor> {
        self.b.as_detached_tensor().matmul(&self.a.as_detached_tensor())? * scale
    }
}

/// The tensor's canonical name, which is PEFT's without its prefix.
#[must_use]
pub fn tensor_name(layer: usize, target: LoraTarget, half: Half) -> String {
    let half = match half {
        Half::A => "lora_A",
        Half::B => "lora_B",
    };
    format!("layers.{layer}.{}.{}.{half}.weight", target.block(), target.as_str())
}

/// A frozen projection, with the place of its pair in an adapter.
#[derive(Debug, Clone)]
pub(super) struct AdaptableLinear {
    base: FrozenLinear,
    layer: usize,
    target: LoraTarget,
}

impl AdaptableLinear {
    pub(super) const fn new(base: FrozenLinear, layer: usize, target: LoraTarget) -> Self {
        Self { base, layer, target }
    }

    /// `[1, tokens, in]` to `[1, tokens, out]`.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        adapted: Option<ActiveAdapter<'_>>,
        mode: Mode,
    ) -> candle_core::Result<Tensor> {
        let pair =
            adapted.and_then(|adapted| Some((adapted, adapted.adapter.pair(self.layer, self.target)?)));
        let Some((adapted, pair)) = pair else {
            return match mode {
                Mode::Inference | Mode::Training => self.base.forward(xs),
                Mode::Decoding => self.base.forward_rows(xs),
            };
        };
        if adapted.merged {
            let merged = self.base.plus(&pair.delta(adapted.adapter.scale)?)?;
            return merged.forward(&xs.to_dtype(DType::F32)?)?.to_dtype(xs.dtype());
        }
        let (a, b) = match mode {
            Mode::Training => (pair.a.as_tensor().clone(), pair.b.as_tensor().clone()),
            Mode::Inference | Mode::Decoding => (pair.a.as_detached_tensor(), pair.b.as_detached_tensor()),
        };
        let delta = LoraDelta { a, b, scale: adapted.adapter.scale };
        let p = adapted.adapter.dropout;
        match (adapted.dropout.filter(|_| p > 0.0), mode) {
            (Some(key), _) => {
                let kept = (xs.to_dtype(DType::F32)? * self.dropout_mask(xs, key, p)?)?;
                delta.add_to(&self.base.forward(xs)?, &kept)
            }
            (None, Mode::Inference | Mode::Training) => self.base.adapted(xs, &delta),
            (None, Mode::Decoding) => self.base.adapted_rows(xs, &delta),
        }
    }

    /// 0 with probability p, else 1/(1-p). The same when the backward pass runs the layer again.
    fn dropout_mask(&self, xs: &Tensor, key: &DropoutKey, p: f64) -> candle_core::Result<Tensor> {
        let purpose = format!("dropout {} {}", key.pass, tensor_name(self.layer, self.target, Half::A));
        let mut draw = Draw::new(key.seed, &key.item, &purpose);
        let keep = (1.0 / (1.0 - p)) as f32;
        let mask: Vec<f32> =
            (0..xs.elem_count()).map(|_| if draw.uniform() < p { 0.0 } else { keep }).collect();
        Tensor::from_vec(mask, xs.shape(), xs.device())
    }
}
