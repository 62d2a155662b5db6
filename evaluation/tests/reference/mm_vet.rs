use stic_evaluation::benchmarks::Benchmark;
use stic_evaluation::benchmarks::mm_vet::{Item, MmVet, capability_scores, grade};
use stic_evaluation::judge::{Step, Template, Verdict};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, from, metric, metrics, texts};

fn item(capabilities: &[&str]) -> Item {
    Item {
        question: "What is x?".to_owned(),
        answer: "-1<AND>-5".to_owned(),
        capabilities: capabilities.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// The requests that a judge gets who replies `replies`, and the last one again and again.
#[test]
fn asks_the_judge_as_mm_vet() {
    let template =
        Template::parse("{{question}} | {{reference}} | {{answer}} | ", MmVet::JUDGE_PLACEHOLDERS).unwrap();
    for case in cases("mm_vet", "grade") {
        let published = texts(&case["judge_replies"]);
        let mut replies = Vec::new();
        let mut calls = Vec::new();
        let score = loop {
            match MmVet::judge(&template, &item(&["math"]), "x = 3", &replies).unwrap() {
                Step::Ask(request) => {
                    let content = &request.messages[0].content;
                    let rest = content.strip_prefix("What is x? | -1 <AND> -5 | x = 3 | ").unwrap();
                    let suffix = match rest {
                        "" => false,
                        "\nPredict the correctness of the answer (digit): " => true,
                        other => panic!("{other:?}"),
                    };
                    calls.push(serde_json::json!({
                        "temperature": request.temperature, "max_tokens": request.max_tokens, "retry_suffix": suffix,
                    }));
                    replies.push(published[replies.len().min(published.len() - 1)].clone());
                }
                Step::Decided(Verdict::Score(score)) => break score,
                // MM-Vet takes 0, ours has no score.
                Step::Failed => break 0.0,
                Step::Decided(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(score, case["score"].as_f64().unwrap(), "{case}");
        assert_eq!(calls, *case["calls"].as_array().unwrap(), "{case}");
    }
}

#[test]
fn averages_as_mm_vet() {
    for case in cases("mm_vet", "capabilities") {
        let rows: Vec<(f64, Vec<String>)> = from(&case["rows"]);
        let names: Vec<Vec<&str>> =
            rows.iter().map(|(_, names)| names.iter().map(String::as_str).collect()).collect();
        let grades: Vec<_> =
            rows.iter().zip(&names).map(|((grade, _), names)| (*grade, names.as_slice())).collect();
        let mut expected = case["scores"].as_object().unwrap().clone();
        expected.remove("std");
        assert_eq!(
            serde_json::to_value(capability_scores(&grades)).unwrap(),
            serde_json::Value::Object(expected)
        );
    }
}

fn row(capabilities: &[&str], replies: &[&str]) -> Row<Item> {
    Row {
        id: "v1_0".to_owned(),
        item: item(capabilities),
        answer: Some("a".to_owned()),
        replies: replies.iter().map(|&reply| reply.to_owned()).collect(),
    }
}

#[test]
fn an_answer_without_grade_counts_in_no_sum() {
    let rows = [
        row(&["rec", "know"], &["1.0"]),
        row(&["ocr", "math"], &["n/a"; 6]),
        row(&["rec"], &["nan", "0.5"]),
        row(&["ocr"], &[]),
        row(&["ocr", "spat"], &["n/a", "n/a", "n/a", "n/a", "n/a", "0.9"]),
    ];
    let metrics = metrics::<MmVet>(Scorer::Llava, &rows);
    let counted: Vec<_> = metrics[0].units.iter().map(|unit| unit.sums.is_some()).collect();
    assert_eq!(counted, [true, false, true, false, false]);
    assert_score(&metrics, "total", 75.0);
    assert_score(&metrics, "rec", 75.0);
    assert_score(&metrics, "know", 100.0);
    assert_eq!(metric(&metrics, "ocr").units.len(), 3);
    assert_eq!(grade(&rows[3].replies).verdict(), None);
}

/// Each program reads a reply in its own way.
#[test]
fn other_programs_read_other_replies() {
    for (reply, scores) in [
        ("0.8 because", [Some(0.8), Some(0.8), None]),
        (" 0.7", [None, Some(0.7), Some(0.7)]),
        ("0.6\nbecause", [None, None, None]),
        ("1.5", [None, None, None]),
    ] {
        for (scorer, expected) in Scorer::ALL.into_iter().zip(scores) {
            let metrics = metrics::<MmVet>(scorer, &[row(&["rec"], &[reply])]);
            let found = metrics[0].units[0].sums.as_ref().map(|sums| sums[0]);
            assert_eq!(found, expected, "{scorer:?} {reply:?}");
        }
    }
}
