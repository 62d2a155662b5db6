//! Which tensors receive a gradient.

use candle_core::Var;
use stic_contract::recipe::LoraTarget;
use stic_trainer::model::Gradients;
use stic_trainer::model::lora::LoraAdapter;
use stic_trainer::training::adamw::AdamW;

use crate::fixture::{Fixture, STIC, largest, prefer, supervise, values};

/// Every non-empty set of projections.
fn target_sets() -> Vec<Vec<LoraTarget>> {
    (1..1usize << LoraTarget::ALL.len())
        .map(|set| {
            let chosen = LoraTarget::ALL.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
            chosen.map(|(_, target)| *target).collect()
        })
        .collect()
}

/// One step of each objective.
type Step = fn(&Fixture, &LoraAdapter) -> Gradients;

fn preference(fixture: &Fixture, adapter: &LoraAdapter) -> Gradients {
    prefer(&fixture.model, &[fixture.pair()], (adapter.into(), None), &STIC, 1.0, 0).1
}

fn supervised(fixture: &Fixture, adapter: &LoraAdapter) -> Gradients {
    let conversation = fixture.conversation();
    supervise(&fixture.model, &[fixture.supervised(&conversation)], adapter.into(), 0.1, 0).1
}

/// Checks that exactly the adapter's tensors have gradients, which have their shapes and are finite.
fn check_presence(what: &str, vars: &[(String, Var)], gradients: &Gradients) {
    let found: Vec<&str> = gradients.iter().map(|(name, _)| name).collect();
    let expected: Vec<&str> = vars.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, expected, "{what}");
    for (name, var) in vars {
        let gradient = gradients.get(name).unwrap();
        assert_eq!(gradient.dims(), var.dims(), "{what} {name}");
        assert!(values(gradient).iter().all(|g| g.is_finite()), "{what} {name}");
    }
}

#[test]
fn exactly_the_trainable_tensors_receive_gradients() {
    let sets = target_sets();
    assert_eq!(sets.len(), 127);
    for fixture in Fixture::both() {
        for targets in &sets {
            let steps: [(&str, Step); 2] = [("preference", preference), ("supervised", supervised)];
            for (objective, step) in steps {
                let what = format!("{} {objective} {targets:?}", fixture.name);
                let adapter = fixture.fresh(targets);
                let vars = adapter.named_vars();
                let layers = fixture.model.config().text.num_hidden_layers;
                assert_eq!(vars.len(), targets.len() * 2 * layers, "{what}");

                // With B = 0, dL/dA = scale Bᵀ G xᵀ is exactly zero, and dL/dB is not.
                let gradients = step(&fixture, &adapter);
                check_presence(&what, &vars, &gradients);
                for (name, gradient) in gradients.iter() {
                    let largest = largest(&values(gradient));
                    assert_eq!(name.contains("lora_B"), largest > 0.0, "{what} {name}: {largest}");
                }

                // Once B is not zero, both halves learn.
                AdamW::new(vars.clone(), 0.0).unwrap().step(&gradients, 1e-2).unwrap();
                let gradients = step(&fixture, &adapter);
                check_presence(&what, &vars, &gradients);
                for (name, gradient) in gradients.iter() {
                    assert!(largest(&values(gradient)) > 0.0, "{what} {name} stays zero");
                }
            }
        }
    }
}

#[test]
fn the_optimizer_refuses_a_tensor_without_gradient() {
    let [fixture, _] = Fixture::both();
    let of_two = fixture.fresh(&[LoraTarget::QProj, LoraTarget::VProj]);
    let gradients = preference(&fixture, &fixture.fresh(&[LoraTarget::QProj]));
    let error = AdamW::new(of_two.named_vars(), 0.0).unwrap().step(&gradients, 1e-2).unwrap_err().to_string();
    assert!(error.contains("v_proj") && error.contains("has no gradient"), "{error}");
}
