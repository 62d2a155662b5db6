use serde_json::Value;
use stic_evaluation::benchmarks::choice::{Choice, infer};
use stic_evaluation::benchmarks::mm_bench::extract_lmms_eval;
use stic_evaluation::benchmarks::mm_star::{Item, MmStar, is_answer_mmstar};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, metrics, text, texts};

#[test]
fn finds_the_letters_that_the_programs_find() {
    for case in cases("mm_star", "letters") {
        let answer = text(&case, "text");
        let found = extract_lmms_eval(answer, &['A', 'B', 'C', 'D']).map(String::from);
        assert_eq!(found.as_deref(), case["lmms"].as_str(), "{case}");
        let own: Vec<_> =
            ('A'..='D').filter(|letter| is_answer_mmstar(answer, *letter)).map(String::from).collect();
        assert_eq!(own, texts(&case["own"]), "{case}");
    }
}

#[test]
fn infers_options_as_vlmevalkit() {
    for case in cases("mm_star", "choices") {
        let options = case["options"].as_object().unwrap();
        let choices: Vec<_> = options
            .iter()
            .map(|(letter, text)| Choice { letter: letter.chars().next().unwrap(), text: text.as_str() })
            .collect();
        let found = infer(text(&case, "text"), &choices).map(String::from);
        assert_eq!(found.as_deref(), case["letter"].as_str(), "{case}");
    }
}

#[test]
fn averages_subcategories_as_lmms_eval() {
    for case in cases("mm_star", "corpora") {
        let row = |(number, row): (usize, &Value)| {
            let item = Item {
                question: String::new(),
                options: None,
                answer: text(row, "answer").chars().next().unwrap(),
                category: text(row, "category").to_owned(),
                subcategory: text(row, "subcategory").to_owned(),
            };
            Row {
                id: number.to_string(),
                item,
                answer: Some(text(row, "text").to_owned()),
                replies: Vec::new(),
            }
        };
        let rows: Vec<_> = case["rows"].as_array().unwrap().iter().enumerate().map(row).collect();
        let metrics = metrics::<MmStar>(Scorer::LmmsEval, &rows);
        assert_score(&metrics, "accuracy", case["lmms"].as_f64().unwrap());
        assert_score(&metrics, "mathAccuracy", case["lmms"].as_f64().unwrap());
    }
}
