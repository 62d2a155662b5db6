use std::collections::BTreeMap;

use stic_evaluation::benchmarks::llava_bench::{
    Item, LlavaBench, parse_scores, parse_scores_lmms_eval, relative_score,
};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, float, from, metric, metrics, score, text};

fn same(found: [f64; 2], expected: &serde_json::Value) -> bool {
    found.iter().zip(expected.as_array().unwrap()).all(|(found, expected)| {
        let expected = float(expected);
        *found == expected || (found.is_nan() && expected.is_nan())
    })
}

#[test]
fn reads_reviews_as_llava_and_lmms_eval() {
    for case in cases("llava_bench", "parse") {
        let review = text(&case, "review");
        assert!(same(parse_scores(review).unwrap_or([-1.0; 2]), &case["scores"]), "{case}");
        assert!(same(parse_scores_lmms_eval(review).unwrap_or([-1.0; 2]), &case["lmms"]), "{case}");
    }
}

#[test]
fn prints_what_llava_prints() {
    for case in cases("llava_bench", "summary") {
        let mut groups = BTreeMap::<&str, Vec<[f64; 2]>>::new();
        for review in case["reviews"].as_array().unwrap() {
            for group in ["all", text(review, "category")] {
                groups.entry(group).or_default().push(from(&review["tuple"]));
            }
        }
        let mut printed = vec!["rev".to_owned()];
        for (group, reviews) in groups {
            let score = relative_score(&reviews).unwrap();
            printed.push(format!("{group} {:?} {:?} {:?}", score.relative, score.reference, score.model));
        }
        printed.push("=================================".to_owned());
        assert_eq!(printed, from::<Vec<String>>(&case["stdout"]));
    }
}

fn row(category: &str, answer: Option<&str>, review: Option<&str>) -> Row<Item> {
    let item = Item {
        question: String::new(),
        category: category.to_owned(),
        context: String::new(),
        reference: String::new(),
    };
    Row {
        id: "1".to_owned(),
        item,
        answer: answer.map(str::to_owned),
        replies: review.map(str::to_owned).into_iter().collect(),
    }
}

#[test]
fn scores_as_vlmevalkit_where_all_reviews_hold_scores() {
    for case in cases("llava_bench", "vlmevalkit") {
        let rows: Vec<_> = case["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|review| {
                row(
                    text(review, "category"),
                    Some(""),
                    Some(&format!("{} {}\n", review["gpt4_score"], review["score"])),
                )
            })
            .collect();
        let metrics = metrics::<LlavaBench>(Scorer::VlmEvalKit, &rows);
        for (split, relative) in case["relative"].as_object().unwrap() {
            assert_score(&metrics, split, relative.as_f64().unwrap());
        }
    }
}

#[test]
fn a_failed_review_counts_in_no_sum() {
    let rows = [
        row("conv", Some("a"), Some("8 6\nGood.")),
        row("conv", Some("a"), Some("Sorry")),
        row("detail", Some("a"), Some("nan 5")),
        row("detail", Some("a"), None),
        row("complex", None, Some("10 1")),
        row("complex", Some("a"), Some("10 10")),
    ];
    for scorer in Scorer::ALL {
        let metrics = metrics::<LlavaBench>(scorer, &rows);
        let counted =
            |name| metric(&metrics, name).units.iter().map(|unit| unit.sums.is_some()).collect::<Vec<_>>();
        assert_eq!(counted("overall"), [true, false, false, false, false, true]);
        assert_eq!(counted("detail"), [false, false]);
        assert!((score(&metrics[0]).unwrap() - 100.0 * 8.0 / 9.0).abs() < 1e-9);
        assert_score(&metrics, "conv", 75.0);
    }
}
