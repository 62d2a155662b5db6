//! Shared computation equals separate computation: prompts shared by two responses, and examples packed into one
//! sequence.
//!
//! The separate side has no branches: each response is a conversation of its own, with its prompt.

use candle_core::{Device, Tensor};
use stic_contract::recipe::{Dpo, DpoLoss, RejectedTerm};
use stic_trainer::algorithm::losses::{PairLoss, dpo};
use stic_trainer::model::Gradients;
use stic_trainer::model::lora::LoraAdapter;
use stic_trainer::training::{Pair, SupervisedExample};

use crate::fixture::{Fixture, STIC, Shape, norm, prefer, relative_distance, supervise, values};

const RELATIVE: f64 = 1e-5;

/// Shorter than the prompts, so that it hides a part of them from the responses.
const WINDOW: usize = 9;

/// log p of a response, and the gradients of `slope` times it.
fn plain(
    fixture: &Fixture,
    (prompt, features, response): (&[u32], Option<&Tensor>, &[u32]),
    adapter: &LoraAdapter,
    slope: f64,
) -> (f64, Gradients) {
    let ids = [prompt, response].concat();
    let learned: Vec<bool> = (0..ids.len()).map(|i| i >= prompt.len()).collect();
    let example = SupervisedExample { ids: &ids, features, learned: &learned };
    let (sums, gradients) = supervise(&fixture.model, &[example], adapter.into(), -slope, 0);
    (sums[0], gradients)
}

/// The loss of a pair and the gradients of `weight` times it, of each response.
fn plain_pair(
    fixture: &Fixture,
    pair: &Pair<'_>,
    (policy, reference): (&LoraAdapter, &LoraAdapter),
    objective: &Dpo,
    weight: f64,
) -> (f64, [Gradients; 2]) {
    let [chosen, rejected] = pair.responses;
    let chosen = (pair.prompt, pair.features, chosen);
    let rejected = (pair.prompt, pair.rejected_features.or(pair.features), rejected);
    let sums = |adapter: &LoraAdapter| {
        let sums = [chosen, rejected].map(|response| plain(fixture, response, adapter, 0.0).0);
        Tensor::new(&[sums], &Device::Cpu).unwrap()
    };
    let losses =
        dpo(&sums(policy), &sums(reference), &[pair.responses.map(<[u32]>::len)], objective).unwrap();
    let loss = PairLoss::read(&losses.rows.flatten_all().unwrap().to_vec1().unwrap()).next().unwrap().loss;
    let slopes = losses.slopes.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let gradients = [(chosen, slopes[0]), (rejected, slopes[1])]
        .map(|(response, slope)| plain(fixture, response, policy, slope * weight).1);
    (loss, gradients)
}

/// `found` is the sum of `expected`.
#[track_caller]
fn assert_sum(what: &str, found: &Gradients, expected: &[&Gradients]) {
    for (name, found) in found.iter() {
        let mut terms = expected.iter().map(|gradients| gradients.get(name).unwrap().clone());
        let first = terms.next().unwrap();
        let sum = terms.fold(first, |sum, term| (sum + term).unwrap());
        assert!(norm(&values(&sum)) > 0.0, "{what} {name}: zero, which would prove nothing");
        let off = relative_distance(found, &sum);
        assert!(off <= RELATIVE, "{what} {name}: off by {off}");
    }
    assert_eq!(found.iter().count(), expected[0].iter().count(), "{what}");
}

#[test]
fn packed_pairs_with_shared_prompts_equal_separate_responses() {
    let dir = tempfile::tempdir().unwrap();
    for fixture in Fixture::with_window(WINDOW, dir.path()) {
        let image = fixture.model.config().image_token_id;
        let text: Vec<u32> = fixture.prompt.iter().copied().filter(|id| *id != image).collect();
        let noisy = (&fixture.features * 0.7).unwrap();
        let policy = fixture.random(61, Shape::plain(24.0), 0.02);
        let reference = fixture.random(67, Shape::plain(24.0), 0.02);
        let pairs = [
            fixture.pair(),
            // A response of one token has no row of its own; a prompt may have no image.
            Pair {
                prompt: &text,
                features: None,
                responses: [&fixture.rejected, &fixture.chosen[..1]],
                ..fixture.pair()
            },
            // Two prompts that differ in their images.
            Pair { rejected_features: Some(&noisy), ..fixture.pair() },
        ];
        let weight = 0.5;
        for objective in [STIC, Dpo { loss: DpoLoss::Ipo, ..STIC }] {
            let what = format!("{} {:?}", fixture.name, objective.loss);
            let alone: Vec<_> = pairs
                .iter()
                .map(|pair| plain_pair(&fixture, pair, (&policy, &reference), &objective, weight))
                .collect();
            let policies = ((&policy).into(), Some(&reference));
            let (losses, gradients) = prefer(&fixture.model, &pairs, policies, &objective, weight, 0);
            for ((loss, _), found) in alone.iter().zip(losses) {
                let off = (found.loss - loss).abs();
                assert!(off <= RELATIVE * loss.abs(), "{what}: {} != {loss}", found.loss);
            }
            let expected: Vec<&Gradients> = alone.iter().flat_map(|(_, gradients)| gradients).collect();
            assert_sum(&what, &gradients, &expected);
            for (pair, (_, [chosen, rejected])) in pairs.iter().zip(&alone) {
                let pair = std::slice::from_ref(pair);
                let (_, found) = prefer(&fixture.model, pair, policies, &objective, weight, 0);
                assert_sum(&format!("{what}, one pair"), &found, &[chosen, rejected]);
            }
        }
    }
}

/// The stand-in for log p of a rejected token belongs to that token's response and row, at any place in the pack.
#[test]
fn top_logits_of_packed_pairs_equal_those_of_each_pair() {
    let objective = Dpo { rejected_term: RejectedTerm::TopLogit, ..STIC };
    for fixture in Fixture::both() {
        let policy = fixture.random(71, Shape::plain(24.0), 0.02);
        let policies = ((&policy).into(), None);
        let swapped = Pair { responses: [&fixture.rejected, &fixture.chosen], ..fixture.pair() };
        let pairs = [fixture.pair(), swapped];
        let (losses, gradients) = prefer(&fixture.model, &pairs, policies, &objective, 1.0, 0);
        let [first, second] = [0, 1].map(|i| {
            let (alone, gradients) = prefer(&fixture.model, &pairs[i..=i], policies, &objective, 1.0, 0);
            let (found, expected) = (losses[i].loss, alone[0].loss);
            assert!((found - expected).abs() <= RELATIVE * expected.abs(), "{}", fixture.name);
            gradients
        });
        assert_sum(&fixture.name, &gradients, &[&first, &second]);
    }
}

#[test]
fn packed_conversations_equal_separate_conversations() {
    let dir = tempfile::tempdir().unwrap();
    for fixture in Fixture::with_window(WINDOW, dir.path()) {
        let adapter = fixture.random(73, Shape::plain(24.0), 0.02);
        let conversation = fixture.conversation();
        let (ids, learned) = &conversation;
        // Only a part of the answer.
        let fewer: Vec<bool> = (0..ids.len()).map(|i| learned[i] && i + 3 < ids.len()).collect();
        let examples = [
            fixture.supervised(&conversation),
            SupervisedExample { learned: &fewer, ..fixture.supervised(&conversation) },
        ];
        let (sums, gradients) = supervise(&fixture.model, &examples, (&adapter).into(), 0.1, 0);
        let [first, second] = [0, 1].map(|i| {
            let (alone, gradients) = supervise(&fixture.model, &examples[i..=i], (&adapter).into(), 0.1, 0);
            assert!((sums[i] - alone[0]).abs() <= RELATIVE * alone[0].abs(), "{}", fixture.name);
            gradients
        });
        assert_sum(&fixture.name, &gradients, &[&first, &second]);
    }
}
