//! Gradients against finite differences of the loss, for every loss of a recipe.
//!
//! The loss comes from the fused forward pass in f32, and the gradient from the differentiable layers that the backward
//! pass runs again, so this also compares the two.

use candle_core::{Tensor, Var};
use stic_contract::recipe::{Dpo, DpoLoss, LoraTarget, RejectedTerm};
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::model::Gradients;
use stic_trainer::model::lora::{ActiveAdapter, DropoutKey, LoraAdapter};
use stic_trainer::training::Pair;

use crate::fixture::{Fixture, STIC, Shape, prefer, supervise, values};

/// The relative error of a Richardson difference, from rounding in f32 and the fifth derivative.
const TOLERANCE: f64 = 2e-3;

/// The distances by which the loss and the weights are moved.
const REACH: f64 = 0.02;

/// Every loss: a name, the objective, whether the reference is an adapter (`InitialAdapter`), and whether the
/// rejected response has another image (POVID).
fn losses() -> Vec<(&'static str, Dpo, bool, bool)> {
    let without_alpha = Dpo { chosen_log_prob_weight: 0.0, ..STIC };
    vec![
        ("stic", STIC, false, false),
        // SPIN's loss is DPO's without the regulariser, against the policy of the round before.
        ("dpo, spin", without_alpha.clone(), true, false),
        ("stic, initial adapter", STIC, true, false),
        ("cdpo", Dpo { label_smoothing: 0.2, ..STIC }, false, false),
        ("hinge", Dpo { loss: DpoLoss::Hinge, ..STIC }, false, false),
        ("ipo", Dpo { loss: DpoLoss::Ipo, ..STIC }, false, false),
        ("ipo, beta 0.5", Dpo { loss: DpoLoss::Ipo, beta: 0.5, ..without_alpha }, true, false),
        ("top logit", Dpo { rejected_term: RejectedTerm::TopLogit, ..STIC }, false, false),
        ("povid", STIC, false, true),
        ("top logit, povid", Dpo { rejected_term: RejectedTerm::TopLogit, beta: 0.3, ..STIC }, false, true),
    ]
}

#[test]
fn gradients_of_every_preference_loss_equal_finite_differences() {
    for fixture in Fixture::both() {
        let noisy = (&fixture.features * 0.7).unwrap();
        let initial = fixture.random(23, Shape::plain(4.0), 0.02);
        for (name, dpo, with_reference, povid) in losses() {
            let adapter = fixture.random(29, Shape::plain(24.0), 0.02);
            let pair = Pair { rejected_features: povid.then_some(&noisy), ..fixture.pair() };
            let reference = with_reference.then_some(&initial);
            let weight = 0.25;
            let evaluate = || {
                let policies = ((&adapter).into(), reference);
                let (losses, gradients) =
                    prefer(&fixture.model, std::slice::from_ref(&pair), policies, &dpo, weight, 0);
                (weight * losses[0].loss, gradients)
            };
            let kinks = dpo.rejected_term == RejectedTerm::TopLogit;
            check(&format!("{} {name}", fixture.name), &adapter, kinks, evaluate);
        }
    }
}

#[test]
fn gradients_of_supervised_training_equal_finite_differences() {
    for fixture in Fixture::both() {
        let conversation = fixture.conversation();
        let example = fixture.supervised(&conversation);
        let adapter = fixture.random(31, Shape::plain(24.0), 0.02);
        let weight = 1.0 / fixture.chosen.len() as f64;
        let evaluate = || {
            let examples = std::slice::from_ref(&example);
            let (sums, gradients) = supervise(&fixture.model, examples, (&adapter).into(), weight, 0);
            (-weight * sums[0], gradients)
        };
        check(&format!("{} sft", fixture.name), &adapter, false, evaluate);
    }
}

/// The mask of dropout is drawn in the forward pass and again in the backward pass, and must be the same.
#[test]
fn gradients_under_dropout_equal_finite_differences_under_the_same_mask() {
    let key = DropoutKey { seed: 3, item: "a.jpg".into(), pass: "epoch 0".into() };
    for fixture in Fixture::both() {
        let shape = Shape { alpha: 24.0, rslora: false, dropout: 0.3 };
        let adapter = fixture.random(37, shape, 0.02);
        let conversation = fixture.conversation();
        let example = fixture.supervised(&conversation);
        let adapted = ActiveAdapter { dropout: Some(&key), ..(&adapter).into() };
        let supervised = || {
            let examples = std::slice::from_ref(&example);
            let (sums, gradients) = supervise(&fixture.model, examples, adapted, 0.1, 0);
            (-0.1 * sums[0], gradients)
        };
        check(&format!("{} sft with dropout", fixture.name), &adapter, false, supervised);
        let preference = || {
            let (losses, gradients) =
                prefer(&fixture.model, &[fixture.pair()], (adapted, None), &STIC, 1.0, 0);
            (losses[0].loss, gradients)
        };
        check(&format!("{} stic with dropout", fixture.name), &adapter, false, preference);
    }
}

/// Where `kinks`, the loss is a maximum of smooth functions, and its gradient is the slope on at least one side.
///
/// Directions: all tensors at once at random, the steepest, and the largest element of A and B of a few projections.
fn check(what: &str, adapter: &LoraAdapter, kinks: bool, evaluate: impl Fn() -> (f64, Gradients)) {
    let vars = adapter.named_vars();
    let (_, gradients) = evaluate();
    let slopes: Vec<Vec<f32>> = vars.iter().map(|(name, _)| values(gradients.get(name).unwrap())).collect();
    let norm = dot(&slopes, &slopes).sqrt();
    assert!(norm > 1e-4, "{what}: the gradient is next to zero, which would prove nothing");

    let steepest: Vec<Vec<f32>> =
        slopes.iter().map(|s| s.iter().map(|v| (f64::from(*v) / norm) as f32).collect()).collect();
    let mut draw = Draw::new(41, what, "direction");
    let random: Vec<Vec<f32>> =
        slopes.iter().map(|s| s.iter().map(|_| (draw.normal() * 0.05) as f32).collect()).collect();
    let mut directions = vec![("steepest".to_owned(), steepest), ("random".to_owned(), random)];
    for target in [LoraTarget::QProj, LoraTarget::VProj, LoraTarget::UpProj] {
        for (i, (name, _)) in vars.iter().enumerate() {
            // In both layers, so that the gradient is passed from one to the other.
            if name.contains(target.as_str()) {
                let of = &slopes[i];
                let element =
                    (0..of.len()).max_by(|a, b| of[*a].abs().total_cmp(&of[*b].abs())).unwrap_or_default();
                let mut direction: Vec<Vec<f32>> = slopes.iter().map(|s| vec![0.0; s.len()]).collect();
                direction[i][element] = 1.0;
                directions.push((format!("{name}[{element}]"), direction));
            }
        }
    }
    for (name, direction) in directions {
        let expected = dot(&slopes, &direction);
        // Far enough for the loss to move by much more than its rounding, and near enough for it to be linear.
        let size = dot(&direction, &direction).sqrt();
        let step = (REACH / expected.abs().max(1e-9)).min(REACH / size);
        let line = Line::new(&vars, &direction, || evaluate().0);
        let (found, step) = if kinks {
            let step = step / 32.0;
            let (left, right) = (line.one_sided(-step), line.one_sided(step));
            (if (left - expected).abs() < (right - expected).abs() { left } else { right }, step / 2.0)
        } else {
            (line.richardson(step), step)
        };
        // Rounding of the loss itself: a few 1e-6 over the step.
        let allowed = TOLERANCE * expected.abs() + 4e-6 / step;
        assert!(
            (found - expected).abs() <= allowed,
            "{what} along {name}: the loss moves by {found}, the gradient says {expected} (step {step})"
        );
    }
}

/// The loss along a line through the weights.
struct Line<'a, F> {
    vars: &'a [(String, Var)],
    start: Vec<Vec<f32>>,
    direction: &'a [Vec<f32>],
    loss: F,
}

impl<'a, F: Fn() -> f64> Line<'a, F> {
    fn new(vars: &'a [(String, Var)], direction: &'a [Vec<f32>], loss: F) -> Self {
        let start = vars.iter().map(|(_, var)| values(var.as_tensor())).collect();
        Self { vars, start, direction, loss }
    }

    /// The loss `distance` away. The weights are restored.
    fn at(&self, distance: f64) -> f64 {
        let place = |distance: f64| {
            for (((_, var), start), direction) in self.vars.iter().zip(&self.start).zip(self.direction) {
                let moved = start.iter().zip(direction);
                let moved: Vec<f32> =
                    moved.map(|(w, d)| (f64::from(*w) + distance * f64::from(*d)) as f32).collect();
                var.set(&Tensor::from_vec(moved, var.shape(), var.device()).unwrap()).unwrap();
            }
        };
        place(distance);
        let loss = (self.loss)();
        place(0.0);
        loss
    }

    /// (4 D(step / 2) - D(step)) / 3 with D the central difference: the third derivative cancels.
    fn richardson(&self, step: f64) -> f64 {
        let central = |step: f64| (self.at(step) - self.at(-step)) / (2.0 * step);
        (4.0 * central(step / 2.0) - central(step)) / 3.0
    }

    /// (4 L(step) - L(2 step) - 3 L(0)) / (2 step): the second derivative cancels.
    fn one_sided(&self, step: f64) -> f64 {
        (4.0 * self.at(step) - self.at(2.0 * step) - 3.0 * self.at(0.0)) / (2.0 * step)
    }
}

fn dot(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
