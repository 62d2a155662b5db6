//! What bounds a pass: memory, which changes no gradient, and the wish to stop, which ends it.

use candle_core::Tensor;
use stic_trainer::error::Error;
use stic_trainer::io::stop::Stop;
use stic_trainer::model::Gradients;
use stic_trainer::model::language::{Layout, Limits};

use crate::fixture::{Fixture, STIC, Shape, bits, prefer, supervise, values};

#[test]
fn gradients_are_the_same_to_the_bit_however_many_graphs_are_kept() {
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
            [(losses[0].loss, preference), (sums[0].sum, supervised)]
        };
        let expected = steps(0);
        // From too little for one layer to enough for all, with what is enough for some in between.
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
fn a_pass_ends_between_two_layers_once_it_is_asked_to() {
    let [fixture, _] = Fixture::both();
    let language = &fixture.model.language;
    let adapter = fixture.random(83, Shape::plain(24.0), 0.02);
    let embeddings = fixture.model.embed(&fixture.prompt, Some(&fixture.features)).unwrap();
    let layout = Layout::branching(fixture.prompt.len(), &[], None);
    let (going, asked) = (Stop::default(), Stop::default());
    asked.ask();
    let forward = |stop| {
        let limits = Limits { stop, graph_bytes: 0 };
        language.forward_checkpointed(&embeddings, &layout, (&adapter).into(), limits)
    };
    assert!(matches!(forward(&asked), Err(Error::Interrupted)));
    assert!(matches!(language.forward(&embeddings, &layout, None, &asked), Err(Error::Interrupted)));
    let mut cache = language.new_cache(fixture.prompt.len());
    assert!(matches!(language.fill(&embeddings, &mut cache, None, &asked), Err(Error::Interrupted)));
    assert!(matches!(
        language.forward_cached(&embeddings, &mut cache, None, &asked),
        Err(Error::Interrupted)
    ));
    let back = |stop| {
        let (hidden, checkpoints) = forward(&going).unwrap();
        let gradient = Tensor::ones_like(&hidden).unwrap();
        language.backward(checkpoints, &gradient, (&adapter).into(), &mut Gradients::default(), stop)
    };
    assert!(matches!(back(&asked), Err(Error::Interrupted)));
    assert!(back(&going).is_ok());
}
