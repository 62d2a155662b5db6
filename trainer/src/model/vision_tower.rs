//! Vision towers, frozen, up to the last hidden state that the features use: CLIP's vision transformer
//! (transformers `models/clip/modeling_clip.py`).

use candle_core::{D, DType, Result as TensorResult, Tensor};
use candle_nn::Module;
use candle_nn::ops::layer_norm;

use super::config::{Activation, VisionConfig, VisionTowerKind};
use super::linear::FrozenLinear;
use super::weights::Weights;
use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};
use crate::kernels::attention::{Heads, bidirectional};

pub(super) struct VisionTower {
    patch_embedding: candle_nn::Conv2d,
    class_embedding: Tensor,
    position_embedding: Tensor,
    pre_norm: LayerNorm,
    layers: Vec<Layer>,
    /// The hidden states that the features are taken from; 0 is the embedding.
    feature_states: Vec<usize>,
    keep_class_token: bool,
    channels: usize,
    image_size: usize,
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

struct Layer {
    norm1: LayerNorm,
    q: FrozenLinear,
    k: FrozenLinear,
    v: FrozenLinear,
    out: FrozenLinear,
    norm2: LayerNorm,
    fc1: FrozenLinear,
    fc2: FrozenLinear,
    act: Activation,
    heads: usize,
}

impl VisionTower {
    pub(super) fn load(
        weights: &Weights,
        config: &VisionConfig,
        feature_layers: &[i64],
        keep_class_token: bool,
    ) -> Result<Self> {
        // Another kind of tower gets a loader of its own here.
        let VisionTowerKind::Clip = config.kind;
        let states = config.num_hidden_layers as i64 + 1;
        let feature_states = feature_layers
            .iter()
            .map(|layer| {
                let index = if *layer < 0 { states + layer } else { *layer };
                usize::try_from(index).ok().filter(|_| index < states).ok_or_else(|| {
                    Error::Config(format!(
                        "{}: field vision_feature_layer: {layer} is not one of the vision tower's {states} hidden states; download the file again",
                        weights.config_path().display()
                    ))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let layers = config.num_hidden_layers;
        weights.require_last_layer(
            layers,
            &format!("vision_tower.encoder.layers.{layers}.layer_norm1.weight"),
        )?;
        let needed = feature_states.iter().copied().max().unwrap_or(0);
        let h = config.hidden_size;
        let name = |rest: &str| format!("vision_tower.{rest}");
        let kernel = weights.get_f32(
            (h, config.num_channels, config.patch_size, config.patch_size),
            &name("embeddings.patch_embedding.weight"),
        )?;
        let conv = candle_nn::Conv2dConfig { stride: config.patch_size, ..Default::default() };
        let positions = config.side() * config.side() + 1;
        Ok(Self {
            patch_embedding: candle_nn::Conv2d::new(kernel, None, conv),
            class_embedding: weights.get(h, &name("embeddings.class_embedding"))?,
            position_embedding: weights.get((positions, h), &name("embeddings.position_embedding.weight"))?,
            pre_norm: LayerNorm::load(weights, config, &name("pre_layrnorm"))?,
            layers: (0..needed)
                .map(|i| Layer::load(weights, config, &name(&format!("encoder.layers.{i}"))))
                .collect::<Result<_>>()?,
            feature_states,
            keep_class_token,
            channels: config.num_channels,
            image_size: config.image_size,
        })
    }

    /// `[crops, channels, size, size]` in f32 to `[crops, patches, hidden * feature states]`; the class token, if kept, is the
    /// first patch.
    pub(super) fn forward(&self, pixels: &Tensor, cancellation: &CancellationToken) -> Result<Tensor> {
        let (crops, channels, height, width) = pixels.dims4()?;
        if (channels, height, width) != (self.channels, self.image_size, self.image_size) {
            return Err(Error::Config(format!(
                "the image processor makes crops of {channels}x{height}x{width}, but the vision tower takes {}x{}x{}; preprocessor_config.json is of another model, copy it from this model's repository",
                self.channels, self.image_size, self.image_size
            )));
        }
        let patches = self.patch_embedding.forward(pixels)?.flatten_from(2)?.transpose(1, 2)?;
        let patches = patches.to_dtype(self.class_embedding.dtype())?;
        let hidden = patches.dim(2)?;
        let class = self.class_embedding.reshape((1, 1, hidden))?.expand((crops, 1, hidden))?;
        let embedded = Tensor::cat(&[class, patches], 1)?.broadcast_add(&self.position_embedding)?;
        let mut state = self.pre_norm.forward(&embedded)?;
        let mut states = vec![state.clone()];
        for layer in &self.layers {
            cancellation.check()?;
            state = layer.forward(&state)?;
            states.push(state.clone());
        }
        let states: Vec<_> = self.feature_states.iter().map(|i| states[*i].clone()).collect();
        let features = Tensor::cat(&states, D::Minus1)?;
        if self.keep_class_token {
            return Ok(features);
        }
        Ok(features.narrow(1, 1, features.dim(1)? - 1)?.contiguous()?)
    }
}

impl LayerNorm {
    fn load(weights: &Weights, config: &VisionConfig, name: &str) -> Result<Self> {
        Ok(Self {
            weight: weights.get_f32(config.hidden_size, &format!("{name}.weight"))?,
            bias: weights.get_f32(config.hidden_size, &format!("{name}.bias"))?,
            eps: config.layer_norm_eps as f32,
        })
    }

    fn forward(&self, xs: &Tensor) -> TensorResult<Tensor> {
        let wide = xs.to_dtype(DType::F32)?.contiguous()?;
        layer_norm(&wide, &self.weight, &self.bias, self.eps)?.to_dtype(xs.dtype())
    }
}

impl Layer {
    fn load(weights: &Weights, config: &VisionConfig, name: &str) -> Result<Self> {
        let linear = |part: &str, out: usize, input: usize| -> Result<FrozenLinear> {
            Ok(FrozenLinear::new(
                weights.get((out, input), &format!("{name}.{part}.weight"))?,
                Some(weights.get(out, &format!("{name}.{part}.bias"))?),
            ))
        };
        let (h, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            norm1: LayerNorm::load(weights, config, &format!("{name}.layer_norm1"))?,
            q: linear("self_attn.q_proj", h, h)?,
            k: linear("self_attn.k_proj", h, h)?,
            v: linear("self_attn.v_proj", h, h)?,
            out: linear("self_attn.out_proj", h, h)?,
            norm2: LayerNorm::load(weights, config, &format!("{name}.layer_norm2"))?,
            fc1: linear("mlp.fc1", inner, h)?,
            fc2: linear("mlp.fc2", h, inner)?,
            act: config.hidden_act,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, xs: &Tensor) -> TensorResult<Tensor> {
        let xs = (xs + self.attention(&self.norm1.forward(xs)?)?)?;
        let inner = self.act.forward(&self.fc1.forward(&self.norm2.forward(&xs)?)?)?;
        &xs + self.fc2.forward(&inner)?
    }

    fn attention(&self, xs: &Tensor) -> TensorResult<Tensor> {
        let head_dim = xs.dim(D::Minus1)? / self.heads;
        let heads = Heads { queries: self.heads, keys: self.heads, dim: head_dim };
        let (q, k, v) = (self.q.forward(xs)?, self.k.forward(xs)?, self.v.forward(xs)?);
        self.out.forward(&bidirectional(heads, (&q, &k, &v))?)
    }
}
