use std::collections::BTreeSet;

use stic_evaluation::benchmarks::chair::singular::singularize;
use stic_evaluation::benchmarks::chair::words::{Singular, objects};
use stic_evaluation::benchmarks::chair::{Chair, Item};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, from, metric, metrics, text, texts};

#[test]
fn finds_the_objects_that_the_programs_find() {
    for case in cases("chair", "captions") {
        let caption = text(&case, "caption");
        assert_eq!(objects(caption, Singular::Pattern), texts(&case["pattern"]), "{case}");
        assert_eq!(objects(caption, Singular::WordNet), texts(&case["wordnet"]), "{case}");
    }
}

#[test]
fn makes_words_singular_as_pattern() {
    for case in cases("chair", "singular") {
        let (word, singular): (String, String) = from(&case);
        assert_eq!(singularize(&word), singular, "{word}");
    }
}

fn row(id: &str, objects: &[&str], caption: Option<&str>) -> Row<Item> {
    let objects: BTreeSet<_> = objects.iter().map(|&object| object.to_owned()).collect();
    Row { id: id.to_owned(), item: Item { objects }, answer: caption.map(str::to_owned), replies: Vec::new() }
}

#[test]
fn counts_captions_and_mentions() {
    let rows = [
        row(
            "1",
            &["person", "dog", "frisbee"],
            Some("A man throws a frisbee to his dogs, and the boys cheer."),
        ),
        row(
            "2",
            &["toilet"],
            Some("The toilet seat is up. A cat sits on the sink beside the seat of the toilet."),
        ),
        row("3", &["cat"], Some("Nothing.")),
        row("4", &["cat"], None),
    ];
    for scorer in [Scorer::Llava, Scorer::LmmsEval] {
        let metrics = metrics::<Chair>(scorer, &rows);
        assert_score(&metrics, "chairS", 100.0 / 3.0);
        // person, frisbee, dog, person; toilet, cat, sink, toilet.
        assert_score(&metrics, "chairI", 100.0 * 2.0 / 8.0);
        assert_score(&metrics, "recall", 100.0 * 4.0 / 5.0);
        assert_eq!(metric(&metrics, "chairS").units[3].sums, None);
    }
    assert!(metrics::<Chair>(Scorer::VlmEvalKit, &rows).is_empty());
}
