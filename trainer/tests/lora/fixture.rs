//! The models, an example for each, and adapters on them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use stic_contract::recipe::{Dpo, DpoLoss, Lora, LoraTarget, Reference, RejectedTerm};
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::model::Llava;
use stic_trainer::model::lora::{Adapted, LoraAdapter, LoraPair, projection_shape};
use stic_trainer::training::step::{Branches, Supervised, response_log_probs};

pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) model: Llava,
    /// Of the image, `[n, hidden]`.
    pub(crate) features: Tensor,
    pub(crate) prompt: Vec<u32>,
    pub(crate) chosen: Vec<u32>,
    pub(crate) rejected: Vec<u32>,
}

impl Fixture {
    pub(crate) fn both() -> [Self; 2] {
        ["llava", "next"].map(Self::load)
    }

    fn load(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let expected = candle_core::safetensors::load(dir.join("fixture.safetensors"), &Device::Cpu).unwrap();
        Self {
            name: name.to_owned(),
            model: load_model(&dir),
            features: expected["feats"].clone(),
            prompt: ids(&expected, "prompt"),
            chosen: ids(&expected, "yw"),
            rejected: ids(&expected, "yl"),
            dir,
        }
    }

    /// The pair, both responses of it.
    pub(crate) fn responses(&self) -> [&[u32]; 2] {
        [&self.chosen, &self.rejected]
    }

    pub(crate) fn branches<'a>(&'a self, responses: &'a [&'a [u32]; 2]) -> Branches<'a> {
        Branches { prompt: &self.prompt, features: Some(&self.features), responses }
    }

    /// The prompt and its chosen response as one conversation of which the response is learned.
    pub(crate) fn conversation(&self) -> (Vec<u32>, Vec<bool>) {
        let ids = [self.prompt.as_slice(), &self.chosen].concat();
        let learned = (0..ids.len()).map(|i| i >= self.prompt.len()).collect();
        (ids, learned)
    }

    pub(crate) fn supervised<'a>(&'a self, conversation: &'a (Vec<u32>, Vec<bool>)) -> Supervised<'a> {
        Supervised { ids: &conversation.0, features: Some(&self.features), learned: &conversation.1 }
    }

    /// log p of every token of both responses.
    pub(crate) fn log_probs(&self, adapter: Option<Adapted<'_>>) -> Vec<f32> {
        log_probs(&self.model, self, adapter)
    }

    /// As a run begins: B is zero.
    pub(crate) fn fresh(&self, targets: &[LoraTarget]) -> LoraAdapter {
        let lora = Lora { rank: 4, alpha: 24.0, dropout: 0.0, targets: targets.to_vec() };
        LoraAdapter::new(&self.model.config().text, &lora, 7, &Device::Cpu).unwrap()
    }

    /// One of rank 4 of which every tensor has weights drawn by `seed`; what it adds is about as large as `size`
    /// times the weights of the fixtures.
    pub(crate) fn random(&self, seed: u64, shape: Shape, size: f64) -> LoraAdapter {
        let config = &self.model.config().text;
        let rank = 4;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let pair = |target: &LoraTarget| {
                    let (out, input) = projection_shape(config, *target);
                    let draw = |half: &str, rows: usize, columns: usize, scale: f64| {
                        let purpose = format!("{layer} {} {half}", target.as_str());
                        let mut draw = Draw::new(seed, "adapter", &purpose);
                        let values: Vec<f32> =
                            (0..rows * columns).map(|_| (draw.normal() * scale) as f32).collect();
                        Var::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
                    };
                    let b = size / shape.scale();
                    (*target, LoraPair { a: draw("a", rank, input, 0.2), b: draw("b", out, rank, b) })
                };
                LoraTarget::ALL.iter().map(pair).collect::<BTreeMap<_, _>>()
            })
            .collect();
        LoraAdapter::from_parts(rank, shape.alpha, shape.scale(), shape.dropout, layers)
    }
}

/// What is done with B A x.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) alpha: f64,
    pub(crate) rslora: bool,
    pub(crate) dropout: f64,
}

impl Shape {
    pub(crate) const fn plain(alpha: f64) -> Self {
        Self { alpha, rslora: false, dropout: 0.0 }
    }

    /// alpha/r, or alpha/sqrt(r), of rank 4.
    pub(crate) const fn scale(self) -> f64 {
        self.alpha / if self.rslora { 2.0 } else { 4.0 }
    }
}

pub(crate) fn load_model(dir: &Path) -> Llava {
    Llava::load(dir, DType::F32, &Device::Cpu).unwrap()
}

pub(crate) fn log_probs(model: &Llava, fixture: &Fixture, adapter: Option<Adapted<'_>>) -> Vec<f32> {
    let responses = fixture.responses();
    response_log_probs(model, &fixture.branches(&responses), adapter).unwrap().concat()
}

fn ids(expected: &HashMap<String, Tensor>, key: &str) -> Vec<u32> {
    let ids: Vec<i64> = expected[key].flatten_all().unwrap().to_vec1().unwrap();
    ids.into_iter().map(|id| id as u32).collect()
}

/// The paper's objective.
pub(crate) const STIC: Dpo = Dpo {
    loss: DpoLoss::Sigmoid,
    beta: 0.1,
    label_smoothing: 0.0,
    chosen_log_prob_weight: 1.0 / 1024.0,
    rejected_term: RejectedTerm::LogProb,
    reference: Reference::Base,
    rejected_image_noise_steps: None,
};

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |worst, v| if v.is_nan() { f32::NAN } else { worst.max(v.abs()) })
}

pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    largest(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// Bit for bit: 0.0 is not -0.0, and NaN is NaN.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
