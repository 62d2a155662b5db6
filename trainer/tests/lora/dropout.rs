//! The dropped elements are a function of the key. `differences.rs` checks that the backward pass drops the same ones.

use stic_trainer::cancellation::CancellationToken;
use stic_trainer::model::Gradients;
use stic_trainer::model::language::PassLimits;
use stic_trainer::model::lora::{ActiveAdapter, DropoutKey, LoraAdapter};
use stic_trainer::training::Pair;
use stic_trainer::training::step::{preference_step, reference_log_probs};

use crate::fixture::{Fixture, STIC, Shape, bits, read, supervise, values};

fn key(seed: u64, item: &str, pass: &str) -> DropoutKey {
    DropoutKey { seed, item: item.into(), pass: pass.into() }
}

fn all_bits(gradients: &Gradients) -> Vec<u32> {
    gradients.iter().flat_map(|(_, gradient)| bits(&values(gradient))).collect()
}

fn supervised(fixture: &Fixture, adapter: &LoraAdapter, key: Option<&DropoutKey>) -> (f64, Vec<u32>) {
    let conversation = fixture.conversation();
    let adapted = ActiveAdapter { dropout: key, ..adapter.into() };
    let (sums, gradients) = supervise(&fixture.model, &[fixture.supervised(&conversation)], adapted, 0.1, 0);
    (sums[0], all_bits(&gradients))
}

#[test]
fn probability_zero_equals_no_dropout_bit_for_bit() {
    for fixture in Fixture::both() {
        let adapter = fixture.random(43, Shape::plain(24.0), 0.02);
        let key = key(1, "a", "epoch 0");
        assert_eq!(supervised(&fixture, &adapter, Some(&key)), supervised(&fixture, &adapter, None));
        // With dropout, responses do not share a prompt, just as with different images.
        let stop = CancellationToken::default();
        let known =
            reference_log_probs(&fixture.model, &fixture.pair(), None, STIC.rejected_term, true, &stop);
        let known = known.unwrap();
        let preference = |rejected_features, dropout| {
            let pairs = [(Pair { rejected_features, ..fixture.pair() }, known.clone())];
            let adapted = ActiveAdapter { dropout, ..(&adapter).into() };
            let limits = PassLimits { cancellation: &stop, graph_bytes: 0 };
            let mut gradients = Gradients::default();
            let losses =
                preference_step(&fixture.model, &pairs, adapted, &STIC, 1.0, limits, &mut gradients).unwrap();
            (read(&losses)[0], all_bits(&gradients))
        };
        assert_eq!(preference(None, Some(&key)), preference(Some(&fixture.features), None));
    }
}

#[test]
fn the_mask_is_a_function_of_every_part_of_the_key() {
    for fixture in Fixture::both() {
        let shape = Shape { alpha: 24.0, rslora: false, dropout: 0.2 };
        let adapter = fixture.random(47, shape, 0.05);
        let first = supervised(&fixture, &adapter, Some(&key(1, "a", "epoch 0")));
        assert_eq!(supervised(&fixture, &adapter, Some(&key(1, "a", "epoch 0"))), first);
        assert_ne!(supervised(&fixture, &adapter, None).0, first.0);
        for other in [key(2, "a", "epoch 0"), key(1, "b", "epoch 0"), key(1, "a", "epoch 1")] {
            assert_ne!(supervised(&fixture, &adapter, Some(&other)).0, first.0, "{other:?}");
        }
    }
}

/// The kept elements are scaled by 1/(1-p), so the mean over many masks is the value without dropout.
#[test]
fn the_mean_over_many_masks_equals_no_dropout() {
    for fixture in Fixture::both() {
        // Small enough for log p to be linear in the adapter's output.
        let shape = Shape { alpha: 24.0, rslora: false, dropout: 0.5 };
        let adapter = fixture.random(53, shape, 1e-4);
        let masks = 200;
        let base: f64 = fixture.log_probs(None)[..fixture.chosen.len()].iter().map(|v| f64::from(*v)).sum();
        let without = supervised(&fixture, &adapter, None).0 - base;
        let moved: Vec<f64> = (0..masks)
            .map(|i| {
                let key = key(5, "a", &format!("mask {i}"));
                supervised(&fixture, &adapter, Some(&key)).0 - base
            })
            .collect();
        let mean = moved.iter().sum::<f64>() / f64::from(masks);
        let variance = moved.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / f64::from(masks - 1);
        let error = (variance / f64::from(masks)).sqrt();
        assert!(error > 0.0 && without.abs() > error, "{}: {without} +- {error}", fixture.name);
        assert!(
            (mean - without).abs() < 4.0 * error,
            "{}: {mean} +- {error}, without dropout {without}",
            fixture.name
        );
    }
}
