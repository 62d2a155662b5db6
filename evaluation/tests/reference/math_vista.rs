use proptest::prelude::*;
use serde_json::Value;
use stic_evaluation::benchmarks::math_vista::{
    AnswerType, Item, MathVista, Problem, extract, most_similar, normalize, query,
};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, cases, metric, metrics, text, texts};

fn answer_type(case: &Value) -> AnswerType {
    match (text(case, "question_type"), text(case, "answer_type")) {
        ("multi_choice", _) => AnswerType::Choice,
        (_, "integer") => AnswerType::Integer,
        (_, "float") => AnswerType::Float,
        (_, "list") => AnswerType::List,
        other => panic!("{other:?}"),
    }
}

fn precision(case: &Value) -> Option<u32> {
    case["precision"].as_f64().map(|precision| precision as u32)
}

#[test]
fn extracts_as_mathvista() {
    for case in cases("math_vista", "extract") {
        let choices = texts(&case["choices"]);
        let problem = Problem { choices: &choices, answer_type: answer_type(&case), precision: None };
        for (quick, extraction, judge) in
            [(false, "extraction", "needs_llm"), (true, "extraction_quick", "needs_llm_quick")]
        {
            let found = extract(text(&case, "response"), problem, quick);
            assert_eq!(found.is_none(), case[judge].as_bool().unwrap(), "{case}");
            assert_eq!(found.as_deref(), case[extraction].as_str(), "{case}");
        }
    }
}

#[test]
fn normalizes_as_mathvista() {
    for case in cases("math_vista", "normalize") {
        let choices = texts(&case["choices"]);
        let problem =
            Problem { choices: &choices, answer_type: answer_type(&case), precision: precision(&case) };
        let normalized = normalize(text(&case, "extraction"), problem, false);
        assert_eq!(normalized.as_deref(), case["normalized"].as_str(), "{case}");
        assert_eq!(
            normalized.as_deref() == case["answer"].as_str(),
            case["correct"].as_bool().unwrap(),
            "{case}"
        );
        let normalized = normalize(text(&case, "extraction"), problem, true);
        assert_eq!(normalized.as_deref(), case["normalized_ignore_empty"].as_str(), "{case}");
    }
}

#[test]
fn finds_the_option_that_levenshtein_finds() {
    for case in cases("math_vista", "most_similar") {
        let choices = texts(&case["choices"]);
        assert_eq!(most_similar(text(&case, "prediction"), &choices), case["choice"].as_str(), "{case}");
    }
}

#[test]
fn asks_as_mathvista() {
    for case in cases("math_vista", "query") {
        let problem = &case["problem"];
        let choices = texts(&problem["choices"]);
        let rules =
            Problem { choices: &choices, answer_type: answer_type(problem), precision: precision(problem) };
        assert_eq!(
            query(text(problem, "question"), problem["unit"].as_str(), rules),
            text(&case, "query"),
            "{case}"
        );
    }
}

/// What the judge replied counts for each program, where its rules do not decide.
#[test]
fn marks_as_each_program() {
    for case in cases("math_vista", "marks") {
        let item = Item {
            question: String::new(),
            unit: None,
            choices: texts(&case["choices"]),
            answer_type: answer_type(&case),
            precision: precision(&case),
            answer: text(&case, "answer").to_owned(),
            task: String::new(),
        };
        let replies = case["reply"].as_str().map(str::to_owned).into_iter().collect();
        let rows =
            [Row { id: "1".to_owned(), item, answer: Some(text(&case, "response").to_owned()), replies }];
        for (scorer, name) in
            [(Scorer::Llava, "mathvista"), (Scorer::LmmsEval, "lmms"), (Scorer::VlmEvalKit, "vlm")]
        {
            let metrics = metrics::<MathVista>(scorer, &rows);
            let unit = &metric(&metrics, "accuracy").units[0];
            let found = match (unit.unresolved, unit.sums.as_deref()) {
                (true, _) => Value::from("unresolved"),
                (false, Some([value, _])) => Value::from(*value == 1.0),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, case[name], "{name}: {case}");
        }
    }
}

proptest! {
    /// Any text is taken for some option, and an option for itself.
    #[test]
    fn choices_are_normalized_to_choices(text in "\\PC{0,12}", choices in proptest::collection::vec("[a-z]{2,6}", 1..6)) {
        let problem = Problem { choices: &choices, answer_type: AnswerType::Choice, precision: None };
        let normalized = normalize(&text, problem, false).unwrap();
        prop_assert!(choices.contains(&normalized));
        for choice in &choices {
            prop_assert_eq!(normalize(choice, problem, true), Some(choice.clone()));
        }
    }

    /// What is extracted from a number is extracted from itself, and normalized to itself.
    #[test]
    fn integers_stay_as_they_are(value in -1_000_000_i64..1_000_000) {
        let problem = Problem { choices: &[], answer_type: AnswerType::Integer, precision: None };
        let text = value.to_string();
        prop_assert_eq!(extract(&text, problem, false), Some(text.clone()));
        prop_assert_eq!(normalize(&text, problem, false), Some(text));
    }
}
