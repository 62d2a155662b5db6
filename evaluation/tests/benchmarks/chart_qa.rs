use serde_json::{Value, json};
use stic_evaluation::benchmarks::chart_qa::{ChartQa, Item, Origin, is_correct, is_relaxed_match};
use stic_evaluation::benchmarks::{Benchmark, Options, Sample};
use stic_evaluation::scorer::Scorer;

use super::{
    PARQUET, answered, cases, error, form, metric, opened, percentage, record, sample, text, values,
};

fn vectors() -> Value {
    super::vectors(include_str!("../vectors/chart_qa.json"))
}

#[test]
fn matches_as_each_reference() {
    let vectors = vectors();
    for case in cases(&vectors["relaxed"]) {
        let (prediction, reference) = (text(case, "prediction"), text(case, "reference"));
        assert_eq!(is_relaxed_match(prediction, reference), case["correct"].as_bool().unwrap(), "{case}");
        let stripped = case["correct_vlmevalkit_stripped"].as_bool().unwrap();
        assert_eq!(is_relaxed_match(prediction.trim(), reference), stripped, "{case}");
    }
    for case in cases(&vectors["adversarial"]) {
        let correct = |scorer| is_correct(scorer, text(case, "prediction"), text(case, "reference"));
        assert_eq!(correct(Scorer::Llava), case["lmms_eval"].as_bool().unwrap(), "{case}");
        assert_eq!(correct(Scorer::LmmsEval), case["lmms_eval"].as_bool().unwrap(), "{case}");
        assert_eq!(correct(Scorer::VlmEvalKit), case["vlmevalkit"].as_bool().unwrap(), "{case}");
    }
}

#[test]
fn a_list_has_alternatives_for_vlmevalkit_only() {
    for (answer, vlmevalkit) in [("2015", true), ("2016", true), ("1900", false)] {
        assert_eq!(is_correct(Scorer::VlmEvalKit, answer, "[2015, 2016]"), vlmevalkit);
        assert!(!is_correct(Scorer::LmmsEval, answer, "[2015, 2016]"));
    }
    assert!(is_correct(Scorer::VlmEvalKit, "[Asia, Europe]", "[Asia, Europe]"), "names are no list");
}

/// Both are `nan` once pandas has read them, and that is a number which equals none.
#[test]
fn none_is_no_answer_for_vlmevalkit() {
    for cell in ["None", "NA", "null", ""] {
        assert!(is_correct(Scorer::LmmsEval, cell, cell));
        assert!(!is_correct(Scorer::VlmEvalKit, cell, cell));
    }
}

#[test]
fn reports_both_origins() {
    let item = |origin| Item { question: "q".to_owned(), answer: "14".to_owned(), origin };
    let samples: Vec<_> =
        [Origin::Human, Origin::Augmented, Origin::Human, Origin::Augmented, Origin::Augmented]
            .into_iter()
            .enumerate()
            .map(|(id, origin)| Sample { id: id.to_string(), item: item(origin) })
            .collect();
    let answers =
        [Some("14.1"), Some("15"), None, Some("14"), Some(" 14")].map(|answer| answer.map(str::to_owned));
    let metrics = ChartQa::metrics(Scorer::LmmsEval, &answered(&samples, &answers));
    assert_eq!(
        metrics.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>(),
        ["overall", "human", "augmented"]
    );
    assert_eq!(percentage(&metrics[0]), 60.0);
    assert_eq!(values(&metric(&metrics, "human")), [1.0, 0.0]);
    assert_eq!(values(&metric(&metrics, "augmented")), [0.0, 1.0, 1.0]);
}

#[test]
fn ids_are_the_same_in_every_form() {
    let lmms_eval = json!({"type": "augmented_test", "question": "How many?", "answer": "14"});
    let expected = sample::<ChartQa>("lmms-lab-encoder", 1253, &lmms_eval);
    assert_eq!(expected.id, "augmented_3");
    assert_eq!(
        expected.item,
        Item { question: "How many?".into(), answer: "14".into(), origin: Origin::Augmented }
    );
    super::assert_stored(&expected.item);
    let m4 = json!({"query": "How many?", "label": ["14"], "human_or_machine": 1});
    assert_eq!(sample::<ChartQa>("HuggingFaceM4", 1253, &m4), expected);
    for answer in ["14", "['14']", "[14]"] {
        let table =
            json!({"index": "1252", "question": "How many?", "answer": answer, "split": "test_augmented"});
        assert_eq!(sample::<ChartQa>("ChartQA_TEST.tsv", 1253, &table), expected);
    }
    let form = form::<ChartQa>("test folder");
    let benchmark: ChartQa = opened(form, Vec::new(), Options::default());
    let original = json!({"imgname": "two_col_1.png", "query": "How many?", "label": "14"});
    let original = record("test_augmented.json", 3, &original);
    assert_eq!(benchmark.sample(form.kind, &original).unwrap().unwrap(), expected);
    assert_eq!(ChartQa::image_path(&original).as_deref(), Some("two_col_1.png"));
    let human = record("test_human.json", 3, &json!({"imgname": "1.png", "query": "q", "label": "1"}));
    assert_eq!(benchmark.sample(form.kind, &human).unwrap().unwrap().id, "human_3");
}

#[test]
fn a_file_in_another_order_has_ids_of_its_own() {
    let row = |kind: &str| json!({"type": kind, "question": "q", "answer": "1"});
    for (number, kind, id) in [
        (1250, "human_test", "human_1250"),
        (1251, "human_test", "row_1251"),
        (1250, "augmented_test", "row_1250"),
        (1251, "augmented_test", "augmented_1"),
        (2501, "augmented_test", "row_2501"),
    ] {
        assert_eq!(sample::<ChartQa>("lmms-lab-encoder", number, &row(kind)).id, id);
    }
}

#[test]
fn asks_as_lmms_eval() {
    let form = form::<ChartQa>("lmms-lab-encoder");
    let benchmark: ChartQa = opened(form, Vec::new(), Options::default());
    let row = record("file", 1, &json!({"type": "human_test", "question": "How many?", "answer": "14"}));
    let item = benchmark.sample(PARQUET, &row).unwrap().unwrap().item;
    assert_eq!(benchmark.prompt(&item), "How many?\nAnswer the question with a single word.");
}

#[test]
fn bad_rows_name_the_column() {
    let message =
        error::<ChartQa>("lmms-lab-encoder", 1, &json!({"type": "val", "question": "q", "answer": "1"}));
    assert!(message.contains("`type` does not tell whether a person asked"), "{message}");
    let two = json!({"query": "q", "label": ["1", "2"], "human_or_machine": 0});
    assert!(error::<ChartQa>("HuggingFaceM4", 1, &two).contains("`label` does not hold exactly one answer"));
}
