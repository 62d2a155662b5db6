//! What a judge is asked, and when.

use proptest::prelude::*;
use stic_evaluation::benchmarks::hallusion_bench::{self, HallusionBench};
use stic_evaluation::benchmarks::llava_bench::{self, LlavaBench};
use stic_evaluation::benchmarks::math_vista::{self, AnswerType, MathVista};
use stic_evaluation::benchmarks::mm_vet::grade;
use stic_evaluation::benchmarks::pope::{self, Pope};
use stic_evaluation::benchmarks::{Benchmark, mm_vet};
use stic_evaluation::judge::{Correctness, Request, Step, Template, Verdict};

fn replies<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

fn asked(step: Option<Step<Verdict>>) -> Request {
    match step {
        Some(Step::Ask(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn math_vista() -> math_vista::Item {
    math_vista::Item {
        question: "How many?".to_owned(),
        unit: None,
        choices: Vec::new(),
        answer_type: AnswerType::Integer,
        precision: None,
        answer: "14".to_owned(),
        task: String::new(),
    }
}

#[test]
fn mathvista_asks_what_no_rule_extracts_until_there_is_a_reply() {
    let template =
        Template::parse("{{query}}\n\n{{answer}}\n\nExtracted answer: ", MathVista::JUDGE_PLACEHOLDERS)
            .unwrap();
    let judge = |answer, replies: &[String]| MathVista::judge(&template, &math_vista(), answer, replies);
    assert_eq!(judge("14", &[]), None);
    assert_eq!(judge("The answer is \"14\".", &[]), None);
    let request = asked(judge("There are 14.", &[]));
    let hint = "requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.";
    assert_eq!(
        request.messages[0].content,
        format!(
            "Question: How many?\nHint: Please answer the question {hint}\nSolution:\n\nThere are 14.\n\nExtracted answer: "
        )
    );
    assert_eq!((request.temperature, request.max_tokens), (0.0, 1024));
    assert!(matches!(judge("There are 14.", &replies(["", " "])), Some(Step::Ask(_))));
    let decided = judge("There are 14.", &replies(["", " 14\n"]));
    assert_eq!(decided, Some(Step::Decided(Verdict::Extraction("14".to_owned()))));
    assert_eq!(judge("There are 14.", &replies(["", "", "", "", "\n"])), Some(Step::Failed));
}

#[test]
fn llava_bench_asks_once() {
    let text = "--- system ---\nBe fair.\n--- user ---\n[Context]\n{{context}}\n\n[Question]\n{{question}}\n\n\
                [Assistant 1]\n{{reference}}\n\n[Assistant 2]\n{{answer}}\n\n";
    let template = Template::parse(text, LlavaBench::JUDGE_PLACEHOLDERS).unwrap();
    let item = llava_bench::Item {
        question: "Where?".to_owned(),
        category: "conv".to_owned(),
        context: "A beach.".to_owned(),
        reference: "On Maui.".to_owned(),
    };
    let judge = |replies: &[String]| LlavaBench::judge(&template, &item, "{{reference}}", replies);
    let request = asked(judge(&[]));
    assert_eq!(
        request.messages[1].content,
        "[Context]\nA beach.\n\n[Question]\nWhere?\n\n[Assistant 1]\nOn Maui.\n\n[Assistant 2]\n{{reference}}\n"
    );
    assert_eq!((request.messages.len(), request.temperature, request.max_tokens), (2, 0.2, 1024));
    let scores = Verdict::Scores { reference: 8.0, model: 6.0 };
    assert_eq!(judge(&replies(["8 6\nBecause."])), Some(Step::Decided(scores)));
    assert_eq!(judge(&replies(["Both are good."])), Some(Step::Failed));
    assert_eq!(judge(&replies(["nan 6"])), Some(Step::Failed));
}

#[test]
fn hallusion_bench_reads_any_reply() {
    let template =
        Template::parse("{{question}} {{reference}} {{answer}}", HallusionBench::JUDGE_PLACEHOLDERS).unwrap();
    let item = hallusion_bench::Item {
        category: "VD".to_owned(),
        subcategory: "math".to_owned(),
        set: "0".to_owned(),
        figure: "1".to_owned(),
        question_number: "0".to_owned(),
        question: "Equal?".to_owned(),
        right: true,
        details: "They are equal.".to_owned(),
    };
    let judge = |replies: &[String]| HallusionBench::judge(&template, &item, "Yes", replies);
    assert_eq!(asked(judge(&[])).messages[0].content, "Equal? They are equal. Yes");
    for (reply, expected) in [
        ("Incorrect.", Correctness::Incorrect),
        ("correct", Correctness::Correct),
        ("unclear", Correctness::Unclear),
        ("", Correctness::Unclear),
    ] {
        assert_eq!(judge(&replies([reply])), Some(Step::Decided(Verdict::Correctness(expected))));
    }
}

#[test]
fn other_benchmarks_ask_no_judge() {
    let template = Template::parse("Hello", Pope::JUDGE_PLACEHOLDERS).unwrap();
    let item = pope::Item { question: String::new(), label: true, categories: Vec::new() };
    assert_eq!(Pope::judge(&template, &item, "Yes", &[]), None);
}

proptest! {
    /// Whatever a judge replies, it is asked six times at most, and is not asked after a grade.
    #[test]
    fn mm_vet_comes_to_an_end(texts in proptest::collection::vec("(0\\.[0-9]|1\\.[0-9]| ?nan|\\PC{0,4})", 6)) {
        let mut replies = Vec::new();
        for text in texts {
            match grade(&replies) {
                Step::Ask(mm_vet::Attempt { temperature, retry }) => {
                    prop_assert_eq!(retry, !replies.is_empty());
                    prop_assert!((0.0..=2.0).contains(&temperature));
                    replies.push(text);
                }
                Step::Decided(score) => {
                    prop_assert!((0.0..=1.0).contains(&score));
                    return Ok(());
                }
                Step::Failed => prop_assert!(false, "it failed after {} replies", replies.len()),
            }
        }
        prop_assert!(!matches!(grade(&replies), Step::Ask(_)));
    }
}
