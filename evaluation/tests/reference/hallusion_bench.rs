use serde_json::Value;
use stic_evaluation::benchmarks::hallusion_bench::{HallusionBench, Item};
use stic_evaluation::scorer::Scorer;

use crate::common::{Row, assert_score, cases, metric, metrics, text};

fn row(row: &Value) -> Row<Item> {
    let id = text(row, "id");
    let [category, subcategory, _, set, figure, question_number] = id.split('_').collect::<Vec<_>>()[..]
    else {
        panic!("{id}")
    };
    let item = Item {
        category: category.to_owned(),
        subcategory: subcategory.to_owned(),
        set: set.to_owned(),
        figure: figure.to_owned(),
        question_number: question_number.to_owned(),
        question: String::new(),
        right: text(row, "gt") == "1",
        details: String::new(),
    };
    let replies = row["reply"].as_str().map(str::to_owned).into_iter().collect();
    Row { id: id.to_owned(), item, answer: Some(text(row, "answer").to_owned()), replies }
}

#[test]
fn scores_as_each_program() {
    for case in cases("hallusion_bench", "corpora") {
        let rows: Vec<_> = case["rows"].as_array().unwrap().iter().map(row).collect();
        for (scorer, name) in
            [(Scorer::Llava, "own"), (Scorer::LmmsEval, "lmms"), (Scorer::VlmEvalKit, "vlmevalkit")]
        {
            let metrics = metrics::<HallusionBench>(scorer, &rows);
            for metric in ["aAcc", "fAcc", "qAcc"] {
                assert_score(&metrics, metric, case[name][metric].as_f64().unwrap());
            }
        }
    }
}

/// Where the judge has not said, a group is wrong if another of its answers is, and has no score if it might be right.
#[test]
fn a_group_waits_for_the_judge_only_where_it_matters() {
    let make = |id: &str, reply: Option<&str>| {
        row(&serde_json::json!({"id": id, "gt": "1", "answer": "Yes", "reply": reply}))
    };
    let rows = [
        make("VD_math_1_0_0_0", Some("correct")),
        make("VD_math_1_0_0_1", None),
        make("VD_math_2_0_1_0", Some("incorrect")),
        make("VD_math_2_0_1_1", None),
    ];
    let metrics = metrics::<HallusionBench>(Scorer::Llava, &rows);
    let sums = |name| -> Vec<_> {
        metric(&metrics, name)
            .units
            .iter()
            .map(|unit| (unit.id.as_str(), unit.sums.as_ref().map(|sums| sums[0])))
            .collect()
    };
    assert_eq!(sums("fAcc"), [("VD_math_0_0", None), ("VD_math_0_1", Some(0.0))]);
    assert_eq!(sums("qAcc"), [("VD_math_0_0", Some(0.0)), ("VD_math_0_1", None)]);
    assert_eq!(metric(&metrics, "aAcc").units.iter().filter(|unit| unit.sums.is_none()).count(), 2);
}
