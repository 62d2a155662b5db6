//! An adapter equals its merge, and a disabled adapter has no effect.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use stic_contract::recipe::LoraTarget;
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::checkpoint::{adapter, export};
use stic_trainer::model::language::{Layout, PassLimits};
use stic_trainer::model::lora::{ActiveAdapter, LoraAdapter};
use stic_trainer::training::adamw::AdamW;

use crate::fixture::{Fixture, STIC, Shape, bits, distance, load_model, log_probs, prefer, values};

/// In nats: the effect of another order of summation on log-probabilities that the adapter moves by whole nats.
const TOLERANCE: f32 = 2e-5;

/// Scales 6, 1 (alpha = r, where scaling the base too would go unnoticed), 1/4 and, with rslora, 12.
const SHAPES: [Shape; 4] = [
    Shape::plain(24.0),
    Shape::plain(4.0),
    Shape::plain(1.0),
    Shape { alpha: 24.0, rslora: true, dropout: 0.0 },
];

#[test]
fn forward_equals_merged_forward_in_memory_and_from_a_merged_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for fixture in Fixture::both() {
        let base = fixture.log_probs(None);
        for (i, shape) in SHAPES.into_iter().enumerate() {
            let what = format!("{} {shape:?}", fixture.name);
            let adapter = fixture.random(11, shape, 0.1);
            let found = fixture.log_probs(Some((&adapter).into()));
            let effect = distance(&found, &base);
            assert!(
                effect > 0.3,
                "{what}: the adapter does next to nothing ({effect}), which would prove nothing"
            );

            let merged = fixture.log_probs(Some(ActiveAdapter { merged: true, ..(&adapter).into() }));
            let off = distance(&found, &merged);
            assert!(off <= TOLERANCE, "{what}: merged in memory is off by {off}");

            let output = dir.path().join(format!("{}-{i}", fixture.name));
            let report = export::merged(&fixture.dir, &adapter, &output, DType::F32, 5_000_000_000).unwrap();
            assert_eq!((report.merged, report.lost), (adapter.named_vars().len() / 2, 0.0), "{what}");
            let off = distance(&found, &log_probs(&load_model(&output), &fixture, None));
            assert!(off <= TOLERANCE, "{what}: the merged checkpoint is off by {off}");
            println!("{what}: effect {effect:.2}, off by {off:.1e} of {TOLERANCE:.1e}");
            check_weights(&what, &fixture, &adapter, shape, &output);
        }
    }
}

/// Every merged weight against W + (alpha/r) B A, computed here in f64.
fn check_weights(
    what: &str,
    fixture: &Fixture,
    adapter: &LoraAdapter,
    shape: Shape,
    output: &std::path::Path,
) {
    let load = |dir: &std::path::Path| {
        candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()
    };
    let (base, merged) = (load(&fixture.dir), load(output));
    let mut compared = 0;
    for (name, weight) in &base {
        let projection = LoraTarget::ALL.into_iter().find(|target| {
            name.contains("language_model") && name.ends_with(&format!("{}.weight", target.as_str()))
        });
        // A checkpoint is written under the canonical names of transformers.
        let tail = |name: &str| name.split_once("layers.").map(|(_, tail)| tail.to_owned());
        let Some(target) = projection else { continue };
        let (_, found) = merged
            .iter()
            .find(|(other, _)| other.contains("language_model") && tail(other) == tail(name))
            .unwrap();
        let layer = tail(name).unwrap().split('.').next().unwrap().parse().unwrap();
        let pair = adapter.pair(layer, target).unwrap();
        let (a, b): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
            (pair.a.as_tensor().to_vec2().unwrap(), pair.b.as_tensor().to_vec2().unwrap());
        let (weight, found): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
            (weight.to_vec2().unwrap(), found.to_vec2().unwrap());
        let scale = if shape.rslora { shape.alpha / 4f64.sqrt() } else { shape.alpha / 4.0 };
        for (o, (row, found)) in weight.iter().zip(&found).enumerate() {
            for (i, (w, found)) in row.iter().zip(found).enumerate() {
                let product: f64 = (0..4).map(|r| f64::from(b[o][r]) * f64::from(a[r][i])).sum();
                let expected = f64::from(*w) + scale * product;
                let off = (f64::from(*found) - expected).abs();
                assert!(off <= 1e-6 * (1.0 + expected.abs()), "{what} {name}[{o},{i}]: off by {off}");
            }
        }
        compared += 1;
    }
    assert_eq!(compared, adapter.named_vars().len() / 2, "{what}");
}

#[test]
fn the_output_of_an_adapter_is_linear_in_its_scale() {
    // After the last projection of the last layer follows only a residual sum, so the hidden states move by
    // scale B A x with an x that does not depend on the scale.
    for fixture in Fixture::both() {
        let full = fixture.random(5, Shape::plain(4.0), 0.3);
        let last = fixture.model.config().text.num_hidden_layers - 1;
        let of = |scale: f64| {
            let mut layers = vec![BTreeMap::new(); last + 1];
            layers[last].insert(LoraTarget::DownProj, full.pair(last, LoraTarget::DownProj).unwrap().clone());
            LoraAdapter::from_parts(4, scale * 4.0, scale, 0.0, layers)
        };
        let hidden = |adapter: Option<&LoraAdapter>| {
            let embeddings = fixture.model.embed(&fixture.prompt, Some(&fixture.features)).unwrap();
            let language = &fixture.model.language;
            let mut cache = language.new_cache(fixture.prompt.len());
            values(
                &language
                    .forward_cached(
                        &embeddings,
                        &mut cache,
                        adapter.map(Into::into),
                        &CancellationToken::default(),
                    )
                    .unwrap(),
            )
        };
        let base = hidden(None);
        let moved = |scale: f64| -> Vec<f32> {
            hidden(Some(&of(scale))).iter().zip(&base).map(|(a, b)| a - b).collect()
        };
        let (one, six) = (moved(1.0), moved(6.0));
        let expected: Vec<f32> = one.iter().map(|m| m * 6.0).collect();
        let size = distance(&six, &vec![0.0; six.len()]);
        let off = distance(&six, &expected);
        assert!(size > 0.1 && off <= 1e-4 * size, "{}: {off} of {size}", fixture.name);
    }
}

#[test]
fn a_disabled_adapter_has_no_effect_before_and_after_training() {
    for fixture in Fixture::both() {
        let base = bits(&fixture.log_probs(None));
        let adapter = fixture.fresh(&LoraTarget::ALL);
        assert_eq!(bits(&fixture.log_probs(Some((&adapter).into()))), base, "{}: B is zero", fixture.name);

        let mut optimizer = AdamW::new(adapter.named_vars(), 0.0).unwrap();
        for _ in 0..4 {
            let policies = ((&adapter).into(), None);
            let (_, gradients) = prefer(&fixture.model, &[fixture.pair()], policies, &STIC, 1.0, 0);
            optimizer.step(&gradients, 1e-2).unwrap();
        }
        let trained = fixture.log_probs(Some((&adapter).into()));
        assert!(distance(&trained, &fixture.log_probs(None)) > 0.05, "{}: nothing was learned", fixture.name);
        assert_eq!(bits(&fixture.log_probs(None)), base, "{}: training moved a frozen weight", fixture.name);
        assert_eq!(bits(&log_probs(&load_model(&fixture.dir), &fixture, None)), base, "{}", fixture.name);

        // Saved and loaded, the adapter is the same bit for bit.
        let dir = tempfile::tempdir().unwrap();
        adapter::save(&adapter, dir.path(), "base", adapter::AdapterNames::Transformers).unwrap();
        let again = adapter::load(
            dir.path(),
            &fixture.model.config().text,
            &Device::Cpu,
            adapter::TrainedProjector::Refuse,
        )
        .unwrap()
        .adapter;
        assert_eq!(bits(&fixture.log_probs(Some((&again).into()))), bits(&trained), "{}", fixture.name);
    }
}

#[test]
fn the_reference_equals_the_base_model_after_training() {
    for fixture in Fixture::both() {
        let adapter = fixture.random(3, Shape::plain(24.0), 0.1);
        let sum = |adapter: Option<ActiveAdapter<'_>>| -> Vec<f64> {
            let all = fixture.log_probs(adapter);
            let (chosen, rejected) = all.split_at(fixture.chosen.len());
            [chosen, rejected].map(|part| part.iter().map(|v| f64::from(*v)).sum()).to_vec()
        };
        let (on, off) = (sum(Some((&adapter).into())), sum(None));
        let policies = ((&adapter).into(), None);
        let (losses, _) = prefer(&fixture.model, &[fixture.pair()], policies, &STIC, 1.0, 0);
        for (found, i) in [(losses[0].reward_chosen, 0), (losses[0].reward_rejected, 1)] {
            let expected = 0.1 * (on[i] - off[i]);
            assert!(expected.abs() > 1e-2, "{}: a reward of {expected} proves nothing", fixture.name);
            assert!((found - expected).abs() <= 1e-5, "{}: {found} != {expected}", fixture.name);
        }
    }
}

#[test]
fn training_and_inference_compute_the_same_layer() {
    // d<G, hidden>/dB of the last projection is scale G (A x)ᵀ with the x that the backward pass computed in its
    // differentiable forms; B times it is what the fused forward pass must have added.
    for fixture in Fixture::both() {
        let full = fixture.random(17, Shape::plain(24.0), 0.1);
        let language = &fixture.model.language;
        let last = language.config().num_hidden_layers - 1;
        let mut layers: Vec<BTreeMap<_, _>> = (0..=last)
            .map(|layer| {
                LoraTarget::ALL.into_iter().map(|t| (t, full.pair(layer, t).unwrap().clone())).collect()
            })
            .collect();
        let on = LoraAdapter::from_parts(4, 24.0, 6.0, 0.0, layers.clone());
        let down = layers[last].remove(&LoraTarget::DownProj).unwrap();
        let off = LoraAdapter::from_parts(4, 24.0, 6.0, 0.0, layers);
        let embeddings = fixture.model.embed(&fixture.prompt, Some(&fixture.features)).unwrap();
        let stop = CancellationToken::default();
        let forward = |adapter: &LoraAdapter| {
            let layout = Layout::branching(fixture.prompt.len(), &[], None);
            let limits = PassLimits { cancellation: &stop, graph_bytes: 0 };
            language.forward_checkpointed(&embeddings, &layout, adapter.into(), limits).unwrap()
        };
        let (without, _) = forward(&off);
        // Row by row, so that errors of different tokens cannot cancel.
        let width = language.config().hidden_size;
        for row in [0, 1, fixture.prompt.len() / 2, fixture.prompt.len() - 1] {
            let direction: Vec<f32> = (0..width).map(|i| ((i * 7 + row) as f32).sin()).collect();
            let mut gradient = vec![0f32; fixture.prompt.len() * width];
            gradient[row * width..(row + 1) * width].copy_from_slice(&direction);
            let gradient = Tensor::from_vec(gradient, (fixture.prompt.len(), width), &Device::Cpu).unwrap();
            let mut gradients = stic_trainer::model::Gradients::default();
            let (with, checkpoints) = forward(&on);
            language.backward(checkpoints, &gradient, (&on).into(), &mut gradients, &stop).unwrap();
            let name = format!("layers.{last}.mlp.down_proj.lora_B.weight");
            let slope = gradients.get(&name).unwrap();
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let expected = dot(&values(slope), &values(down.b.as_tensor()));
            let moved = values(&((&with - &without).unwrap().get(row).unwrap()));
            let found = dot(&moved, &direction);
            let size = dot(&moved, &moved).sqrt();
            assert!(size > 1e-2, "{}: row {row} is moved by {size} only", fixture.name);
            assert!(
                (found - expected).abs() <= 1e-4 * size,
                "{} row {row}: {found} != {expected} (of {size})",
                fixture.name
            );
        }
    }
}
