use serde_json::Value;
use stic_evaluation::benchmarks::amber::{Amber, Dimension, Item};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, metrics, text};

fn row((number, row): (usize, &Value)) -> Row<Item> {
    let dimension = match text(row, "type") {
        "discriminative-hallucination" => Dimension::Existence,
        "discriminative-relation" | "relation" => Dimension::Relation,
        _ => Dimension::Attribute,
    };
    let item = Item { question: String::new(), dimension, yes: text(row, "truth") == "yes" };
    Row { id: number.to_string(), item, answer: Some(text(row, "answer").to_owned()), replies: Vec::new() }
}

#[test]
fn scores_as_each_program() {
    for case in cases("amber", "corpora") {
        let rows: Vec<_> = case["rows"].as_array().unwrap().iter().enumerate().map(row).collect();
        let own = metrics::<Amber>(Scorer::Llava, &rows);
        for (dimension, scores) in case["amber"].as_object().unwrap() {
            for (name, value) in scores.as_object().unwrap() {
                let capital = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
                let name = if dimension == "all" { name.clone() } else { format!("{dimension}{capital}") };
                assert_score(&own, &name, value.as_f64().unwrap_or_default());
            }
        }
        let lmms = metrics::<Amber>(Scorer::LmmsEval, &rows);
        for (name, value) in case["lmms"].as_object().unwrap() {
            assert_score(&lmms, name, value.as_f64().unwrap());
        }
        let kit = metrics::<Amber>(Scorer::VlmEvalKit, &rows);
        let names = [
            ("accuracy", "Avg ACC"),
            ("existenceAccuracy", "Existence"),
            ("attributeAccuracy", "Attribute"),
            ("relationAccuracy", "Relation"),
        ];
        for (name, published) in names {
            assert_score(&kit, name, case["vlmevalkit"][published].as_f64().unwrap());
        }
    }
}

/// `inference.py` prints 2 P R / (P + R + 0.0001) of rounded percentages; ours is within the rounding.
#[test]
fn f1_is_that_of_precision_and_recall() {
    for case in cases("amber", "corpora") {
        let rows: Vec<_> = case["rows"].as_array().unwrap().iter().enumerate().map(row).collect();
        let metrics = metrics::<Amber>(Scorer::Llava, &rows);
        let part = |name: &str| (case["amber"]["all"][name].as_f64().unwrap() * 10.0).round() / 1000.0;
        let (precision, recall) = (part("precision"), part("recall"));
        let printed = 100.0 * 2.0 * precision * recall / (precision + recall + 0.0001);
        let found = crate::common::score(crate::common::metric(&metrics, "f1")).unwrap();
        assert!((found - printed).abs() < 0.11, "{found}, and inference.py has {printed}");
    }
}
