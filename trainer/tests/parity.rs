//! The model, the losses and the optimizer against transformers, peft and torch.
//!
//! `tests/parity/make_fixtures.py` writes the models and the expected tensors. The two models in `tests/fixtures` are
//! always checked. `STIC_PARITY_DIR` names a folder with more of them, with other seeds, widths, head counts, grids and
//! prompts.

#![expect(clippy::unwrap_used, reason = "a test ends where its fixtures are not what they should be")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use stic_contract::recipe::{Dpo, DpoLoss, Reference, RejectedTerm, Sampling};
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::algorithm::losses::PairLoss;
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::checkpoint::adapter;
use stic_trainer::data::anyres::Geometry;
use stic_trainer::data::processor::PixelValues;
use stic_trainer::error::{Error, Result};
use stic_trainer::generation::{Generated, Generator, Request, RequestSource};
use stic_trainer::model::language::PassLimits;
use stic_trainer::model::lora::LoraAdapter;
use stic_trainer::model::{Gradients, VisionLanguageModel};
use stic_trainer::training::adamw::AdamW;
use stic_trainer::training::step::{preference_step, reference_log_probs, response_log_probs};
use stic_trainer::training::{Branches, Pair};

const FEATURES_AND_LOGITS: f32 = 1e-4;
const LOSS: f64 = 1e-5;
const GRADIENT_RELATIVE: f32 = 1e-4;
const STEP: f32 = 1e-6;
/// As in `tests/parity/check_bf16.py`.
const SAME_ROUNDINGS: f64 = 0.4;

struct Fixture {
    name: String,
    dir: PathBuf,
    expected: HashMap<String, Tensor>,
    model: VisionLanguageModel,
}

impl Fixture {
    fn all() -> Vec<Self> {
        let mut roots = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
        roots.extend(std::env::var_os("STIC_PARITY_DIR").map(PathBuf::from));
        let mut dirs: Vec<PathBuf> = roots
            .iter()
            .flat_map(|root| std::fs::read_dir(root).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("fixture.safetensors").exists())
            .collect();
        dirs.sort();
        assert!(dirs.len() >= 2, "the fixtures are missing");
        dirs.into_iter().map(Self::load).collect()
    }

    fn load(dir: PathBuf) -> Self {
        let expected = candle_core::safetensors::load(dir.join("fixture.safetensors"), &Device::Cpu).unwrap();
        let model = VisionLanguageModel::load(&dir, DType::F32, &Device::Cpu).unwrap();
        Self { name: dir.file_name().unwrap().to_string_lossy().into_owned(), dir, expected, model }
    }

    fn floats(&self, key: &str) -> Vec<f32> {
        self.expected[key].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        let ids: Vec<i64> = self.expected[key].flatten_all().unwrap().to_vec1().unwrap();
        ids.into_iter().map(|id| id as u32).collect()
    }

    fn features(&self) -> Tensor {
        let pixels = &self.expected["pixel_values"];
        let dims = pixels.dims();
        let (height, width) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let crops = dims[..dims.len() - 3].iter().product();
        let original = match self.expected.get("image_sizes") {
            Some(sizes) => {
                let sizes: Vec<i64> = sizes.flatten_all().unwrap().to_vec1().unwrap();
                (sizes[0] as u32, sizes[1] as u32)
            }
            None => (height as u32, width as u32),
        };
        let values = PixelValues { data: self.floats("pixel_values"), crops, height, width, original };
        let config = self.model.config();
        let side = config.vision.as_ref().unwrap().side();
        let packing = (!config.grid_pinpoints.is_empty()).then(|| {
            Geometry::new(config.grid_pinpoints.clone(), height as u32, side).unwrap().packing(original)
        });
        let cancelled = CancellationToken::default();
        cancelled.cancel();
        let ended = self.model.image_features(&values, packing.as_ref(), &cancelled);
        assert!(matches!(ended, Err(Error::Interrupted)), "{}: was not cancelled", self.name);
        self.model.image_features(&values, packing.as_ref(), &CancellationToken::default()).unwrap()
    }

    fn adapter(&self) -> LoraAdapter {
        adapter::load(
            &self.dir.join("adapter0"),
            &self.model.config().text,
            &Device::Cpu,
            adapter::TrainedProjector::Refuse,
        )
        .unwrap()
        .adapter
    }

    #[track_caller]
    fn close(&self, what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len(), "{} {what}", self.name);
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        // With `--nocapture`, shows the distance to the tolerance.
        println!("{} {what}: off by {worst:.1e} of {tolerance:.1e}", self.name);
        assert!(worst <= tolerance, "{} {what}: off by {worst}", self.name);
    }
}

/// The loss of the paper with beta 0.1 and alpha 1/1024, as in the fixtures.
const STIC: Dpo = Dpo {
    loss: DpoLoss::Sigmoid,
    beta: 0.1,
    label_smoothing: 0.0,
    chosen_log_prob_weight: 1.0 / 1024.0,
    rejected_term: RejectedTerm::LogProb,
    reference: Reference::Base,
    rejected_image_noise_steps: None,
};

#[test]
fn image_features_equal_transformers() {
    for fixture in Fixture::all() {
        let found = fixture.features().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        fixture.close("features", &found, &fixture.floats("feats"), FEATURES_AND_LOGITS);
    }
}

#[test]
fn logits_equal_transformers() {
    for fixture in Fixture::all() {
        let (prompt, chosen) = (fixture.ids("prompt"), fixture.ids("yw"));
        let ids = [prompt.as_slice(), &chosen].concat();
        let model = &fixture.model;
        let embeddings = model.embed(&ids, Some(&fixture.features())).unwrap();
        for split in [ids.len(), prompt.len(), prompt.len() - 1] {
            // In one piece, and from a cache that holds the beginning.
            let mut cache = model.language.new_cache(ids.len());
            let mut hidden = Vec::new();
            for (start, len) in [(0, split), (split, ids.len() - split)] {
                if len > 0 {
                    let part = embeddings.narrow(0, start, len).unwrap();
                    hidden.push(
                        model
                            .language
                            .forward_cached(&part, &mut cache, None, &CancellationToken::default())
                            .unwrap(),
                    );
                }
            }
            let hidden = Tensor::cat(&hidden, 0).unwrap().narrow(0, prompt.len() - 1, chosen.len()).unwrap();
            for mode in [stic_trainer::model::Mode::Inference, stic_trainer::model::Mode::Training] {
                let logits = model.language.logits(&hidden, mode).unwrap();
                let found = logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                fixture.close("logits", &found, &fixture.floats("logits_w"), FEATURES_AND_LOGITS);
            }
        }
    }
}

/// One request, and its response.
struct Single(Option<Request<()>>, Option<Generated>);

impl RequestSource for Single {
    type Tag = ();

    fn next(&mut self) -> Result<Option<Request<()>>> {
        Ok(self.0.take())
    }

    fn complete(&mut self, (): (), response: Generated) -> Result<()> {
        self.1 = Some(response);
        Ok(())
    }
}

#[test]
fn greedy_tokens_equal_transformers() {
    for fixture in Fixture::all() {
        let expected = fixture.ids("greedy");
        let prompt = fixture.ids("prompt");
        let generator = Generator::new(&fixture.model, None, &[2], CancellationToken::default());
        let sampling =
            Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens: expected.len() as u32 };
        let prefix = generator.prefill_image(&prompt, Some(&fixture.features())).unwrap();
        let draw = Draw::new(0, "item", "test");
        let mut single = Single(Some(Request { tag: (), prompt, prefix, sampling, draw }), None);
        generator.generate(1, &mut single).unwrap();
        let found = single.1.unwrap();
        assert_eq!(found.tokens, expected, "{}", fixture.name);
    }
}

#[test]
fn log_probs_equal_transformers_with_the_adapter_on_and_off() {
    for fixture in Fixture::all() {
        let (prompt, chosen, rejected) = (fixture.ids("prompt"), fixture.ids("yw"), fixture.ids("yl"));
        let features = fixture.features();
        let both: [&[u32]; 2] = [&chosen, &rejected];
        let branches = Branches { prompt: &prompt, features: Some(&features), responses: &both };
        let adapter = fixture.adapter();
        for (adapter, keys) in [(Some(&adapter), ["lw", "ll"]), (None, ["rw", "rl"])] {
            let found = response_log_probs(&fixture.model, &branches, adapter.map(Into::into)).unwrap();
            for (found, key) in found.iter().zip(keys) {
                fixture.close(key, found, &fixture.floats(key), FEATURES_AND_LOGITS);
            }
        }
    }
}

/// The logits are transformers'; the rule is that of STIC's released code.
#[test]
fn the_rejected_term_of_the_released_code_is_a_log_probability() {
    for fixture in Fixture::all() {
        let (prompt, response) = (fixture.ids("prompt"), fixture.ids("yw"));
        let features = fixture.features();
        let responses: [&[u32]; 2] = [&response, &response];
        let pair = Pair { prompt: &prompt, features: Some(&features), rejected_features: None, responses };
        let stop = CancellationToken::default();
        let term = RejectedTerm::TopLogit;
        let found = reference_log_probs(&fixture.model, &pair, None, term, true, &stop).unwrap();
        let found = found.to_vec1::<f64>().unwrap()[1];
        let logits = fixture.floats("logits_w");
        let rows = logits.chunks(logits.len() / response.len());
        let expected: f64 = rows
            .zip(&response)
            .map(|(row, label)| {
                let log_sum = row.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
                let others = row.iter().enumerate().filter(|(id, _)| *id != *label as usize);
                f64::from(others.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max)) - log_sum
            })
            .sum();
        assert!(expected < 0.0);
        assert!((found - expected).abs() < 1e-3, "{}: {found} != {expected}", fixture.name);
    }
}

#[test]
fn loss_gradients_and_one_optimizer_step_equal_torch() {
    for fixture in Fixture::all() {
        let (prompt, chosen, rejected) = (fixture.ids("prompt"), fixture.ids("yw"), fixture.ids("yl"));
        let features = fixture.features();
        let adapter = fixture.adapter();
        // Shared prefix, and a prefix for each response: the loss is the same.
        for rejected_features in [None, Some(&features)] {
            let responses: [&[u32]; 2] = [&chosen, &rejected];
            let pair = Pair { prompt: &prompt, features: Some(&features), rejected_features, responses };
            let stop = CancellationToken::default();
            let model = &fixture.model;
            let known = reference_log_probs(model, &pair, None, STIC.rejected_term, true, &stop).unwrap();
            let limits = PassLimits { cancellation: &stop, graph_bytes: 0 };
            let mut gradients = Gradients::default();
            let losses = preference_step(
                model,
                &[(pair, known)],
                (&adapter).into(),
                &STIC,
                1.0,
                limits,
                &mut gradients,
            )
            .unwrap();
            let loss = PairLoss::read(&losses.flatten_all().unwrap().to_vec1().unwrap()).next().unwrap();
            let expected = f64::from(fixture.floats("loss")[0]);
            assert!(
                (loss.loss - expected).abs() <= LOSS,
                "{}: loss {} != {expected}",
                fixture.name,
                loss.loss
            );

            let vars = adapter.named_vars();
            assert_eq!(gradients.iter().count(), vars.len());
            for (name, gradient) in gradients.iter() {
                let key = format!(
                    "grad.base_model.model.model.language_model.{}.default.weight",
                    name.trim_end_matches(".weight")
                );
                let expected = fixture.floats(&key);
                let scale = expected.iter().map(|g| g.abs()).fold(0f32, f32::max);
                assert!(scale > 0.0, "{key} is zero, which would prove nothing");
                let found = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                fixture.close(&key, &found, &expected, GRADIENT_RELATIVE * scale);
            }
            let norm: f64 = gradients.clip(1.0).unwrap().to_scalar().unwrap();
            let expected = f64::from(fixture.floats("gnorm")[0]);
            assert!((norm / expected - 1.0).abs() <= 1e-4, "{}: norm {norm} != {expected}", fixture.name);
            if rejected_features.is_some() {
                check_step(&fixture, &adapter, &gradients);
            }
        }
    }
}

/// The gradients of the fixture's pair in bf16, from its features rounded to bf16.
fn gradients_in_bf16(fixture: &Fixture) -> Gradients {
    let model = VisionLanguageModel::load(&fixture.dir, DType::BF16, &Device::Cpu).unwrap();
    let (prompt, chosen, rejected) = (fixture.ids("prompt"), fixture.ids("yw"), fixture.ids("yl"));
    let features = fixture.expected["feats"].to_dtype(DType::BF16).unwrap();
    let responses: [&[u32]; 2] = [&chosen, &rejected];
    let pair = Pair { prompt: &prompt, features: Some(&features), rejected_features: None, responses };
    let (stop, adapter, mut gradients) =
        (CancellationToken::default(), fixture.adapter(), Gradients::default());
    let known = reference_log_probs(&model, &pair, None, STIC.rejected_term, true, &stop).unwrap();
    let limits = PassLimits { cancellation: &stop, graph_bytes: 0 };
    preference_step(&model, &[(pair, known)], (&adapter).into(), &STIC, 1.0, limits, &mut gradients).unwrap();
    gradients
}

/// The criteria of `tests/parity/check_bf16.py`, which explains them, for gradients. A distance is the root mean square over
/// tensors, each relative to its norm in f32.
#[test]
fn gradients_in_bf16_are_closer_to_transformers_than_its_attentions_are_to_each_other() {
    let (mut to_same, mut to_f32) = (Vec::new(), Vec::new());
    for fixture in Fixture::all() {
        let found = gradients_in_bf16(&fixture);
        let expected =
            candle_core::safetensors::load(fixture.dir.join("bf16.safetensors"), &Device::Cpu).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name).collect();
        assert_eq!(expected.len(), 4 * names.len(), "{}", fixture.name);
        let gradient = |of: &str, name: &str| -> Vec<f32> {
            let tensor = match of {
                "ours" => found.get(name).unwrap(),
                reference => {
                    let name = name.trim_end_matches(".weight");
                    &expected[&format!(
                        "{reference}.grad.base_model.model.model.language_model.{name}.default.weight"
                    )]
                }
            };
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        let square = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let distance = |one: &str, other: &str| -> f64 {
            let of_tensor = |name: &&str| {
                let (one, other) = (gradient(one, name), gradient(other, name));
                let off: Vec<f32> = one.iter().zip(&other).map(|(a, b)| a - b).collect();
                square(&off) / square(&gradient("f32", name))
            };
            (names.iter().map(of_tensor).sum::<f64>() / names.len() as f64).sqrt()
        };
        let to_both = |one: &str| distance(one, "eager").hypot(distance(one, "sdpa")) / 2f64.sqrt();
        let attentions = distance("eager", "sdpa");
        // With `--nocapture`.
        println!(
            "{}: eager-sdpa {attentions:.4}, ours-both {:.4}, ours-same {:.4}, ours-f32 {:.4}, both-f32 {:.4}",
            fixture.name,
            to_both("ours"),
            distance("ours", "same"),
            distance("ours", "f32"),
            to_both("f32"),
        );
        to_same.push(distance("ours", "same") / attentions);
        to_f32.push(distance("ours", "f32") / to_both("f32"));
    }
    let mean = |ratios: &[f64]| ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(mean(&to_same) <= SAME_ROUNDINGS, "transformers with the trainer's roundings: {to_same:?}");
    assert!(mean(&to_f32) <= 1.0, "f32: {to_f32:?}");
}

/// Adam divides a gradient by its own size. Where that is near zero, rounding decides the step, so those elements are
/// skipped.
fn check_step(fixture: &Fixture, adapter: &LoraAdapter, gradients: &Gradients) {
    let mut optimizer = AdamW::new(adapter.named_vars(), 0.0).unwrap();
    optimizer.step(gradients, 1e-2).unwrap();
    for (name, var) in adapter.named_vars() {
        let key = |what: &str| {
            format!(
                "{what}.base_model.model.model.language_model.{}.default.weight",
                name.trim_end_matches(".weight")
            )
        };
        let gradient = fixture.floats(&key("grad"));
        let scale = gradient.iter().map(|g| g.abs()).fold(0f32, f32::max);
        let solid: Vec<bool> = gradient.iter().map(|g| g.abs() > 1e-2 * scale).collect();
        let keep = |values: Vec<f32>| -> Vec<f32> {
            values.into_iter().zip(&solid).filter_map(|(v, keep)| keep.then_some(v)).collect()
        };
        let found = keep(var.as_tensor().flatten_all().unwrap().to_vec1().unwrap());
        let expected = keep(fixture.floats(&key("step1")));
        assert!(expected.len() * 2 > gradient.len(), "{name}: too few elements are left to prove anything");
        fixture.close(&key("step1"), &found, &expected, STEP);
    }
}
