//! The limits of a pass: memory, which does not change gradients, and cancellation, which ends the pass.

use candle_core::Tensor;
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::error::Error;
use stic_trainer::model::Gradients;
use stic_trainer::model::language::{Layout, PassLimits};

use crate::fixture::{Fixture, STIC, Shape, bits, prefer, supervise, values};

#[test]
fn gradients_are_bit_equal_for_any_number_of_kept_graphs() {
    for fixture in Fixture::both() {
        let adapter = fixture.random(79, Shape::plain(24.0), 0.02);
        let conversation = fixture.conversation();
        let steps = |graph_bytes: u64| -> [(f64, Gradients); 2] {
            let adapted = (&adapter).into();
            let pairs = [fixture.pair(), fixture.pair()];
            let (losses, preference) =
                prefer(&fixture.model, &pairs, (adapted, None), &STIC, 1.0, graph_bytes);
            let examples = [fixture.supervised(&conversation)];
            let (sums, supervised) = supervise(&fixture.model, &examples, adapted, 0.1, graph_bytes);
            [(losses[0].loss, preference), (sums[0], supervised)]
        };
        let expected = steps(0);
        // From too little for one layer to enough for all layers.
        for graph_bytes in (12..30).step_by(3).map(|bits| 1 << bits).chain([u64::MAX]) {
            for ((value, gradients), (expected_value, expected)) in steps(graph_bytes).iter().zip(&expected) {
                let what = format!("{} {graph_bytes}", fixture.name);
                assert_eq!(value.to_bits(), expected_value.to_bits(), "{what}");
                for (name, expected) in expected.iter() {
                    let found = bits(&values(gradients.get(name).unwrap()));
                    assert_eq!(found, bits(&values(expected)), "{what} {name}");
                }
            }
        }
    }
}

#[test]
fn a_cancelled_pass_ends_between_two_layers() {
    let [fixture, _] = Fixture::both();
    let language = &fixture.model.language;
    let adapter = fixture.random(83, Shape::plain(24.0), 0.02);
    let embeddings = fixture.model.embed(&fixture.prompt, Some(&fixture.features)).unwrap();
    let layout = Layout::branching(fixture.prompt.len(), &[], None);
    let (running, cancelled) = (CancellationToken::default(), CancellationToken::default());
    cancelled.cancel();
    let forward = |stop| {
        let limits = PassLimits { cancellation: stop, graph_bytes: 0 };
        language.forward_checkpointed(&embeddings, &layout, (&adapter).into(), limits)
    };
    assert!(matches!(forward(&cancelled), Err(Error::Interrupted)));
    assert!(matches!(language.forward(&embeddings, &layout, None, &cancelled), Err(Error::Interrupted)));
    let mut cache = language.new_cache(fixture.prompt.len());
    assert!(matches!(language.fill(&embeddings, &mut cache, None, &cancelled), Err(Error::Interrupted)));
    assert!(matches!(
        language.forward_cached(&embeddings, &mut cache, None, &cancelled),
        Err(Error::Interrupted)
    ));
    let back = |stop| {
        let (hidden, checkpoints) = forward(&running).unwrap();
        let gradient = Tensor::ones_like(&hidden).unwrap();
        language.backward(checkpoints, &gradient, (&adapter).into(), &mut Gradients::default(), stop)
    };
    assert!(matches!(back(&cancelled), Err(Error::Interrupted)));
    assert!(back(&running).is_ok());
}
