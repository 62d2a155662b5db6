use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use stic_evaluation::benchmarks::choice::{self, Choice};
use stic_evaluation::benchmarks::mm_bench::{Item, MmBench, circular, extract_lmms_eval, infer, infer_2023};
use stic_evaluation::benchmarks::{Benchmark, Options, Sample};
use stic_evaluation::metric::Metric;
use stic_evaluation::scorer::{Mark, Scorer};

use super::{answered, cases, error, form, letter, metric, opened, percentage, sample, text, values};

const TSV: &str = "MMBench_DEV_EN.tsv";

fn vectors() -> Value {
    super::vectors(include_str!("../vectors/mm_bench.json"))
}

fn options(case: &Value) -> BTreeMap<char, String> {
    serde_json::from_value(case["options"].clone()).unwrap()
}

fn infer_vlmevalkit(answer: &str, options: &BTreeMap<char, String>) -> Option<char> {
    let choices: Vec<_> =
        options.iter().map(|(letter, text)| Choice { letter: *letter, text: Some(text) }).collect();
    choice::infer(answer, &choices)
}

fn letters(options: &BTreeMap<char, String>) -> Vec<char> {
    options.keys().copied().collect()
}

#[test]
fn infers_as_each_reference() {
    let vectors = vectors();
    let columns = [
        "vlmevalkit",
        "mmbench_2023_rules_as_in_lmms_eval",
        "lmms_static_fallback_used_only_if_previous_null",
    ];
    let shared = cases(&vectors["infer"]).iter().map(|case| (case, columns));
    let random =
        cases(&vectors["adversarial"]).iter().map(|case| (case, ["vlmevalkit", "rules_2023", "extract"]));
    for (case, [vlmevalkit, rules_2023, extract]) in shared.chain(random) {
        let (answer, options) = (text(case, "prediction"), options(case));
        assert_eq!(infer_vlmevalkit(answer, &options), letter(&case[vlmevalkit]), "{vlmevalkit} {case}");
        assert_eq!(infer_2023(answer, &options), letter(&case[rules_2023]), "{rules_2023} {case}");
        assert_eq!(extract_lmms_eval(answer, &letters(&options)), letter(&case[extract]), "{extract} {case}");
    }
}

/// `can_infer(answer, {"A": "x", "B": "y", "C": "z"})`: in `(?i)`, Python's `i` is also the dotted capital and the dotless small
/// letter, and its `\s` a separator.
#[test]
fn vlmevalkit_ignores_case_as_python() {
    let options = BTreeMap::from([('A', "x".to_owned()), ('B', "y".to_owned()), ('C', "z".to_owned())]);
    for (answer, expected) in [
        ("A or B? Answer\u{1c}\u{130}s **c", Some('C')),
        ("A or B? an\u{17f}wer \u{131}\u{17f}\n\u{85}b", Some('B')),
        ("A or B? answer is d", None),
        ("A or B? answer is: c", None),
    ] {
        assert_eq!(infer_vlmevalkit(answer, &options), expected, "{answer:?}");
    }
}

/// The row of a table with these options.
fn item(index: u64, options: &BTreeMap<char, String>, answer: &Value, ability: &str) -> Sample<Item> {
    let mut row = json!({"index": index.to_string(), "question": "q", "hint": null, "answer": answer, "l2-category": ability});
    for letter in ['A', 'B', 'C', 'D'] {
        row[letter.to_string()] = json!(options.get(&letter).filter(|text| !text.is_empty()));
    }
    sample::<MmBench>(TSV, 1, &row)
}

fn metrics(scorer: Scorer, rows: &[(Sample<Item>, Option<String>)]) -> Vec<Metric> {
    let (samples, answers): (Vec<_>, Vec<_>) = rows
        .iter()
        .map(|(Sample { id, item }, answer)| (Sample { id: id.clone(), item: item.clone() }, answer.clone()))
        .unzip();
    MmBench::metrics(scorer, &answered(&samples, &answers))
}

fn circular_rows() -> Vec<(Sample<Item>, Option<String>)> {
    let rows = vectors()["circular"]["rows"].clone();
    let row = |row: &Value| {
        let options =
            ['A', 'B', 'C', 'D'].map(|letter| (letter, text(row, &letter.to_string()).to_owned())).into();
        let sample = item(row["index"].as_u64().unwrap(), &options, &row["answer"], text(row, "category"));
        (sample, Some(text(row, "prediction").to_owned()))
    };
    cases(&rows).iter().map(row).collect()
}

#[test]
fn a_question_counts_if_every_rotation_is_right() {
    let vectors = vectors();
    let expected = &vectors["circular"];
    for scorer in Scorer::ALL {
        let metrics = metrics(scorer, &circular_rows());
        assert_eq!(metrics[0].name, "circularAccuracy");
        let hits: Vec<f64> =
            (0..6).map(|group| expected["hits"][group.to_string()].as_f64().unwrap()).collect();
        assert_eq!(values(&metrics[0]), hits, "{scorer:?}");
        assert_eq!(
            metrics[0].units.iter().map(|unit| unit.id.as_str()).collect::<Vec<_>>(),
            ["0", "1", "2", "3", "4", "5"]
        );
        assert_eq!(percentage(&metrics[0]), 100.0 * expected["overall"].as_f64().unwrap());
        let unrotated = 100.0 * expected["vanilla_first_pass_accuracy"].as_f64().unwrap();
        assert_eq!(percentage(&metric(&metrics, "accuracy")), unrotated);
        for (category, value) in expected["by_category"].as_object().unwrap() {
            let of_category = percentage(&metric(&metrics, &format!("circularAccuracy/{category}")));
            assert!((of_category - 100.0 * value.as_f64().unwrap()).abs() < 1e-9, "{category}");
        }
    }
    let unresolved = metrics(Scorer::VlmEvalKit, &circular_rows())[0]
        .units
        .iter()
        .map(|unit| unit.unresolved)
        .collect::<Vec<_>>();
    assert_eq!(unresolved, [false, false, false, true, false, false], "nobody can tell what `no idea` chose");
}

#[test]
fn scores_random_groups_as_each_reference() {
    for case in cases(&vectors()["adversarial_circular"]) {
        let row = |row: &Value| {
            let sample =
                item(row["index"].as_u64().unwrap(), &options(row), &row["answer"], text(row, "category"));
            (sample, Some(text(row, "prediction").to_owned()))
        };
        let rows: Vec<_> = cases(&case["rows"]).iter().map(row).collect();
        let hits = |scorer| values(&metrics(scorer, &rows)[0]);
        let expected =
            |key: &str| cases(&case[key]).iter().map(|hit| hit.as_f64().unwrap()).collect::<Vec<_>>();
        assert_eq!(hits(Scorer::Llava), expected("llava"), "{case}");
        assert_eq!(hits(Scorer::VlmEvalKit), expected("vlmevalkit"), "{case}");
        let lmms_eval = hits(Scorer::LmmsEval);
        assert_eq!(
            lmms_eval.iter().sum::<f64>() / lmms_eval.len() as f64,
            case["lmms_eval"].as_f64().unwrap(),
            "{case}"
        );
    }
}

#[test]
fn a_rotation_without_answer_is_wrong_and_resolved() {
    let mut rows = circular_rows();
    rows[1].1 = None;
    let metrics = metrics(Scorer::Llava, &rows);
    let unit = &metrics[0].units[0];
    assert_eq!((unit.sums.as_deref(), unit.unresolved), (Some([0.0, 1.0].as_slice()), false));
    assert_eq!(metrics[1].units[0].sums.as_deref(), Some([1.0, 1.0].as_slice()), "unrotated it is right");
}

#[test]
fn rotations_of_no_question_do_not_count() {
    let rows = circular_rows();
    let metrics = metrics(Scorer::Llava, &rows[1..]);
    assert_eq!(
        metrics[0].units.iter().map(|unit| unit.id.as_str()).collect::<Vec<_>>(),
        ["1", "2", "3", "4", "5"]
    );
}

/// `"nan" in "banana"`: lmms-eval's files have that text for options that are missing.
#[test]
fn lmms_eval_takes_missing_options_for_options() {
    let options = BTreeMap::from([('A', "a banana".to_owned()), ('B', "an apple".to_owned())]);
    let answer = "It is a banana";
    assert_eq!(infer(Scorer::Llava, answer, &options), Some('A'));
    assert_eq!(infer(Scorer::VlmEvalKit, answer, &options), Some('A'));
    assert_eq!(infer(Scorer::LmmsEval, answer, &options), None);
}

/// pandas reads the answer `None` as an empty cell, of which `str` makes `nan`.
#[test]
fn vlmevalkit_reads_answers_from_a_table() {
    let options = BTreeMap::from([('A', "one".to_owned()), ('B', "an".to_owned())]);
    assert_eq!(infer(Scorer::Llava, "None", &options), Some('A'));
    assert_eq!(infer(Scorer::VlmEvalKit, "None", &options), Some('B'));
    assert_eq!(infer(Scorer::VlmEvalKit, "none", &options), Some('A'));
}

fn row(options: [&Value; 4]) -> Value {
    let [a, b, c, d] = options;
    json!({"index": "1000241", "question": "Q?", "hint": "H", "answer": "B", "A": a, "B": b, "C": c, "D": d})
}

#[test]
fn asks_as_llava() {
    let expected = &vectors()["prompt"];
    let (x, y) = (json!("x"), json!("y"));
    let asked = |title: &str, row: &Value| {
        let benchmark: MmBench = opened(form::<MmBench>(title), Vec::new(), Options::default());
        benchmark.prompt(&sample::<MmBench>(title, 1, row).item)
    };
    let turn = text(expected, "user_turn").strip_prefix("<image>\n").unwrap();
    assert_eq!(asked(TSV, &row([&x, &y, &Value::Null, &json!("left out")])), turn);
    assert_eq!(asked(TSV, &row([&x, &y, &json!("None"), &json!("left out")])), turn);
    let chinese = asked("MMBench_DEV_CN.tsv", &row([&x, &y, &Value::Null, &Value::Null]));
    assert_eq!(chinese, "H\nQ?\nA. x\nB. y\n请直接回答选项字母。");

    let benchmark: MmBench = opened(form::<MmBench>(TSV), Vec::new(), Options::default());
    for case in cases(&vectors()["adversarial_prompts"]) {
        let item = Item {
            index: 0,
            question: text(case, "question").to_owned(),
            hint: case["hint"].as_str().map(str::to_owned),
            options: options(case),
            answer: 'A',
            ability: None,
        };
        let expected = format!(
            "{}\nAnswer with the option's letter from the given choices directly.",
            text(case, "block")
        );
        assert_eq!(benchmark.prompt(&item), expected, "{case}");
    }
}

/// Parquet has numbers in one language and texts in the other, and `nan` for what is missing.
#[test]
fn ids_are_the_same_in_every_form() {
    let nan = json!("nan");
    let expected = sample::<MmBench>(TSV, 1, &row([&json!("x"), &json!("y"), &Value::Null, &Value::Null]));
    assert_eq!(expected.id, "1000241");
    assert_eq!(MmBench::unit(&expected), "241");
    super::assert_stored(&expected.item);
    let mut parquet = row([&json!("x"), &json!("y"), &nan, &nan]);
    for (title, index) in [("en, dev", json!("1000241")), ("cn, dev", json!(1_000_241))] {
        parquet["index"] = index;
        assert_eq!(sample::<MmBench>(title, 1, &parquet), expected);
    }
    for ability in ["l2-category", "L2-category"] {
        parquet[ability] = json!("attribute_reasoning");
        let sample = sample::<MmBench>("en, dev", 1, &parquet);
        assert_eq!(sample.item.ability.as_deref(), Some("attribute_reasoning"));
        parquet[ability] = json!("nan");
    }
}

#[test]
fn bad_rows_name_the_column() {
    let good = row([&json!("x"), &json!("y"), &Value::Null, &Value::Null]);
    for (column, value, problem) in [
        ("answer", json!("nan"), "is empty: this file was published without answers"),
        ("answer", Value::Null, "is empty: this file was published without answers"),
        ("answer", json!("AB"), "is no letter of an option"),
        ("index", json!("x"), "is no whole number"),
        ("question", Value::Null, "is empty"),
    ] {
        let mut row = good.clone();
        row[column] = value;
        let message = error::<MmBench>(TSV, 1, &row);
        assert!(message.contains(&format!("`{column}` {problem}")), "{message}");
    }
}

proptest! {
    /// A wrong rotation decides whatever the others are, a right one nothing, and their order does not matter.
    #[test]
    fn circular_is_the_worst_rotation(rotations: Vec<Option<bool>>, place: prop::sample::Index) {
        let mark = circular(&rotations);
        let with = |rotation| {
            let mut rotations = rotations.clone();
            rotations.insert(place.index(rotations.len() + 1), rotation);
            circular(&rotations)
        };
        prop_assert_eq!(with(Some(true)), mark);
        prop_assert_eq!(with(Some(false)), Mark::correct(false));
        prop_assert_eq!(with(None).value, 0.0);
        prop_assert_eq!(circular(&rotations.iter().rev().copied().collect::<Vec<_>>()), mark);
    }

    /// Rules for letters prevail over texts, and no rule panics.
    #[test]
    fn a_letter_alone_is_that_letter(letter in "[A-D]", text in "\\PC{0,40}") {
        let options: BTreeMap<char, String> =
            ['A', 'B', 'C', 'D'].map(|letter| (letter, format!("option {letter}"))).into();
        for scorer in Scorer::ALL {
            prop_assert_eq!(infer(scorer, &letter, &options), letter.chars().next());
            let inferred = infer(scorer, &text, &options);
            prop_assert!(inferred.is_none_or(|letter| ('A'..='E').contains(&letter) || letter == 'Z'));
        }
    }
}
