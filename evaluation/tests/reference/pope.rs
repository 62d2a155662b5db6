use serde_json::Value;
use stic_evaluation::benchmarks::pope::{Category, Item, Pope};
use stic_evaluation::metric::Metric;
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, from, metric, metrics, score, text};

const CATEGORIES: [&str; 3] = ["random", "popular", "adversarial"];

fn rows(case: &Value) -> Vec<Row<Item>> {
    let row = |(number, row): (usize, &Value)| {
        let categories: Vec<Category> =
            text(row, "category").split(',').map(|name| from(&Value::from(name))).collect();
        let item = Item { question: String::new(), label: text(row, "label") == "yes", categories };
        Row {
            id: number.to_string(),
            item,
            answer: Some(text(row, "answer").to_owned()),
            replies: Vec::new(),
        }
    };
    case["rows"].as_array().unwrap().iter().enumerate().map(row).collect()
}

fn assert_scores(metrics: &[Metric], prefix: &str, expected: &Value, scale: f64) {
    for (name, value) in expected.as_object().unwrap() {
        let name = match prefix {
            "" => name.clone(),
            _ => format!("{prefix}{}{}", name[..1].to_uppercase(), &name[1..]),
        };
        // The ratio is reported over all categories.
        if !name.ends_with("YesRatio") {
            assert_score(metrics, &name, value.as_f64().unwrap() * scale);
        }
    }
}

#[test]
fn scores_as_each_program() {
    for case in cases("pope", "corpora") {
        let rows = rows(&case);
        let llava = metrics::<Pope>(Scorer::Llava, &rows);
        let lmms = metrics::<Pope>(Scorer::LmmsEval, &rows);
        let kit = metrics::<Pope>(Scorer::VlmEvalKit, &rows);
        assert_scores(&lmms, "", &case["lmms"]["all"], 100.0);
        assert_scores(&kit, "", &case["vlmevalkit"]["all"], 1.0);
        for category in CATEGORIES {
            assert_scores(&llava, category, &case["llava"][category], 100.0);
            assert_scores(&lmms, category, &case["lmms"][category], 100.0);
            assert_scores(&kit, category, &case["vlmevalkit"][category], 1.0);
        }
        for name in ["f1", "accuracy", "precision", "recall"] {
            let of = |category| case["llava"][category][name].as_f64().unwrap();
            assert_score(&llava, name, 100.0 * CATEGORIES.map(of).iter().sum::<f64>() / 3.0);
        }
    }
}

/// A row of VLMEvalKit's table counts once in each of its categories, and so often in the whole.
#[test]
fn merged_rows_count_as_vlmevalkit_counts_them() {
    for case in cases("pope", "merged_rows") {
        let metrics = metrics::<Pope>(Scorer::VlmEvalKit, &rows(&case));
        for name in ["f1", "accuracy", "precision", "recall"] {
            assert_score(&metrics, name, case[name].as_f64().unwrap());
        }
    }
}

#[test]
fn headlines_are_the_published_numbers() {
    let rows = rows(&cases("pope", "corpora")[0]);
    let headline = |scorer| metrics::<Pope>(scorer, &rows)[0].name.clone();
    assert_eq!(Scorer::ALL.map(headline), ["f1", "accuracy", "f1"]);
}

#[test]
fn an_answer_that_is_missing_is_wrong_and_unresolved() {
    let item = Item { question: String::new(), label: true, categories: vec![Category::Random] };
    let rows = [Row { id: "random_1".to_owned(), item, answer: None, replies: Vec::new() }];
    for scorer in Scorer::ALL {
        let metrics = metrics::<Pope>(scorer, &rows);
        let accuracy = metric(&metrics, "accuracy");
        assert_eq!(score(accuracy), Some(0.0));
        assert!(accuracy.units[0].unresolved);
    }
}
