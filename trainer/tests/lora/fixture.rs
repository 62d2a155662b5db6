//! The models, an example for each of them, and adapters.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use stic_contract::recipe::{Dpo, DpoLoss, Lora, LoraTarget, Reference, RejectedTerm};
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::algorithm::losses::PairLoss;
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::model::Gradients;
use stic_trainer::model::VisionLanguageModel;
use stic_trainer::model::language::PassLimits;
use stic_trainer::model::lora::{ActiveAdapter, LoraAdapter, LoraPair, projection_shape};
use stic_trainer::training::step::{
    preference_step, reference_log_probs, response_log_probs, supervised_step,
};
use stic_trainer::training::{Branches, Pair, SupervisedExample};

pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) model: VisionLanguageModel,
    /// The features of the image, `[n, hidden]`.
    pub(crate) features: Tensor,
    pub(crate) prompt: Vec<u32>,
    pub(crate) chosen: Vec<u32>,
    pub(crate) rejected: Vec<u32>,
}

impl Fixture {
    pub(crate) fn both() -> [Self; 2] {
        ["llava", "next"].map(Self::load)
    }

    /// Both models, and the second with a sliding window of `window` tokens, whose files are written to `dir`.
    pub(crate) fn with_window(window: usize, dir: &Path) -> [Self; 3] {
        let [llava, next] = Self::both();
        std::fs::copy(next.dir.join("model.safetensors"), dir.join("model.safetensors")).unwrap();
        let text = std::fs::read_to_string(next.dir.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["text_config"]["sliding_window"] = window.into();
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let windowed = Self { name: "next, windowed".into(), model: load_model(dir), ..Self::load("next") };
        assert_eq!(windowed.model.config().text.sliding_window, Some(window));
        [llava, next, windowed]
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

    /// The pair of both responses.
    pub(crate) fn responses(&self) -> [&[u32]; 2] {
        [&self.chosen, &self.rejected]
    }

    pub(crate) fn branches<'a>(&'a self, responses: &'a [&'a [u32]; 2]) -> Branches<'a> {
        Branches { prompt: &self.prompt, features: Some(&self.features), responses }
    }

    pub(crate) fn pair(&self) -> Pair<'_> {
        Pair {
            prompt: &self.prompt,
            features: Some(&self.features),
            rejected_features: None,
            responses: self.responses(),
        }
    }

    /// The prompt and its chosen response as one conversation, with the response as labels.
    pub(crate) fn conversation(&self) -> (Vec<u32>, Vec<bool>) {
        let ids = [self.prompt.as_slice(), &self.chosen].concat();
        let learned = (0..ids.len()).map(|i| i >= self.prompt.len()).collect();
        (ids, learned)
    }

    pub(crate) fn supervised<'a>(&'a self, conversation: &'a (Vec<u32>, Vec<bool>)) -> SupervisedExample<'a> {
        SupervisedExample { ids: &conversation.0, features: Some(&self.features), learned: &conversation.1 }
    }

    /// log p of every token of both responses.
    pub(crate) fn log_probs(&self, adapter: Option<ActiveAdapter<'_>>) -> Vec<f32> {
        log_probs(&self.model, self, adapter)
    }

    /// A new adapter: B is zero.
    pub(crate) fn fresh(&self, targets: &[LoraTarget]) -> LoraAdapter {
        let lora = Lora { rank: 4, alpha: 24.0, dropout: 0.0, targets: targets.to_vec() };
        LoraAdapter::new(&self.model.config().text, &lora, 7, &Device::Cpu).unwrap()
    }

    /// An adapter of rank 4 with all weights drawn by `seed`. Its change is about `size` times the fixtures' weights.
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

/// The scale of B A x.
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

    /// alpha/r or alpha/sqrt(r), with rank 4.
    pub(crate) const fn scale(self) -> f64 {
        self.alpha / if self.rslora { 2.0 } else { 4.0 }
    }
}

pub(crate) fn load_model(dir: &Path) -> VisionLanguageModel {
    VisionLanguageModel::load(dir, DType::F32, &Device::Cpu).unwrap()
}

pub(crate) fn log_probs(
    model: &VisionLanguageModel,
    fixture: &Fixture,
    adapter: Option<ActiveAdapter<'_>>,
) -> Vec<f32> {
    let responses = fixture.responses();
    response_log_probs(model, &fixture.branches(&responses), adapter).unwrap().concat()
}

/// One step over pairs as one sequence: the loss of each, and the gradients of `weight` times their sum. `graph_bytes`
/// as in [`PassLimits`].
pub(crate) fn prefer(
    model: &VisionLanguageModel,
    pairs: &[Pair<'_>],
    (adapted, reference): (ActiveAdapter<'_>, Option<&LoraAdapter>),
    dpo: &Dpo,
    weight: f64,
    graph_bytes: u64,
) -> (Vec<PairLoss>, Gradients) {
    let stop = CancellationToken::default();
    let known = |pair: &Pair<'_>| {
        reference_log_probs(model, pair, reference, dpo.rejected_term, true, &stop).unwrap()
    };
    let pairs: Vec<_> = pairs.iter().map(|pair| (pair.clone(), known(pair))).collect();
    let limits = PassLimits { cancellation: &stop, graph_bytes };
    let mut gradients = Gradients::default();
    let losses = preference_step(model, &pairs, adapted, dpo, weight, limits, &mut gradients).unwrap();
    (PairLoss::read(&read(&losses)).collect(), gradients)
}

/// One step over conversations as one sequence: log p of each, and the gradients of minus `weight` times their sum.
pub(crate) fn supervise(
    model: &VisionLanguageModel,
    examples: &[SupervisedExample<'_>],
    adapted: ActiveAdapter<'_>,
    weight: f64,
    graph_bytes: u64,
) -> (Vec<f64>, Gradients) {
    let limits = PassLimits { cancellation: &CancellationToken::default(), graph_bytes };
    let mut gradients = Gradients::default();
    let sums = supervised_step(model, examples, adapted, weight, limits, &mut gradients).unwrap();
    (read(&sums), gradients)
}

/// All elements of a tensor in f64.
pub(crate) fn read(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ids(expected: &HashMap<String, Tensor>, key: &str) -> Vec<u32> {
    let ids: Vec<i64> = expected[key].flatten_all().unwrap().to_vec1().unwrap();
    ids.into_iter().map(|id| id as u32).collect()
}

/// The objective of the paper.
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

pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// The norm of the difference of two tensors, relative to that of `b`.
pub(crate) fn relative_distance(a: &Tensor, b: &Tensor) -> f64 {
    norm(&values(&(a - b).unwrap())) / norm(&values(b))
}

/// Bitwise equality: 0.0 differs from -0.0, and NaN equals NaN.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
