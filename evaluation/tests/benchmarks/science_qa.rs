use serde_json::{Value, json};
use stic_evaluation::benchmarks::science_qa::{Item, ScienceQa, choice_of, letter_llava, mark};
use stic_evaluation::benchmarks::{Benchmark, Options, Sample};
use stic_evaluation::published::{KEY_FIELD, Record};
use stic_evaluation::scorer::Scorer;

use super::{
    answered, cases, companion, error, form, letter, metric, opened, percentage, record, sample, text, texts,
};

fn vectors() -> Value {
    super::vectors(include_str!("../vectors/science_qa.json"))
}

fn item(choices: usize, answer: &Value, has_image: &Value) -> Item {
    Item {
        question: "q".to_owned(),
        hint: String::new(),
        choices: ["x", "y", "z"].map(str::to_owned)[..choices].to_vec(),
        answer: number(answer),
        has_image: has_image.as_bool().expect("a truth value"),
    }
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a number")).expect("a small number")
}

fn is_right(scorer: Scorer, prediction: &str, item: &Item) -> bool {
    mark(scorer, prediction, item).value > 0.5
}

#[test]
fn parses_as_llava() {
    for case in cases(&vectors()["llava"]) {
        let prediction = text(case, "prediction");
        let choices = number(&case["num_choices"]);
        let item = item(choices, &case["answer_index"], &case["has_image"]);
        let parsed = letter_llava(prediction);
        let expected = Some(text(case, "parsed")).filter(|parsed| *parsed != "FAILED");
        assert_eq!(parsed.map(String::from).as_deref(), expected, "{prediction:?}");
        let index = parsed.and_then(|letter| choice_of(letter, choices));
        assert_eq!(
            index.map_or(-1, |index| index as i64),
            case["pred_index"].as_i64().unwrap(),
            "{prediction:?}"
        );
        assert_eq!(is_right(Scorer::Llava, prediction, &item), case["correct"].as_bool().unwrap());
        let lmms_eval = case["correct_under_lmms_eval"].as_bool().unwrap();
        assert_eq!(is_right(Scorer::LmmsEval, prediction, &item), lmms_eval, "{prediction:?}");
    }
}

/// `re.findall(r"The answer is ([A-Z]).", answer)`, after the two rules for letters in front.
#[test]
fn the_stated_letter_is_followed_by_anything_but_a_line_feed() {
    for (answer, letter) in [
        ("The answer is C\n", None),
        ("The answer is C\r", Some('C')),
        ("The answer is B", None),
        ("The answer is AThe answer is B.", Some('A')),
        ("The answer is A. The answer is B.", None),
        ("The answer is The answer is D!", Some('T')),
        ("so The answer is F.", Some('F')),
        ("E. The answer is B.", Some('E')),
        ("E. ", Some('E')),
        ("E.", None),
        ("F. x The answer is A.", Some('A')),
    ] {
        assert_eq!(letter_llava(answer), letter, "{answer:?}");
    }
}

#[test]
fn scores_random_answers_as_each_reference() {
    for case in cases(&vectors()["adversarial"]) {
        let prediction = text(case, "prediction");
        let item = Item {
            question: "q".to_owned(),
            hint: String::new(),
            choices: texts(&case["choices"]),
            answer: number(&case["answer"]),
            has_image: true,
        };
        let parsed = Some(text(case, "parsed")).filter(|parsed| *parsed != "FAILED");
        assert_eq!(letter_llava(prediction).map(String::from).as_deref(), parsed, "{prediction:?}");
        for (scorer, key) in
            [(Scorer::Llava, "llava"), (Scorer::LmmsEval, "lmms_eval"), (Scorer::VlmEvalKit, "vlmevalkit")]
        {
            assert_eq!(
                is_right(scorer, prediction, &item),
                case[key].as_bool().unwrap(),
                "{key} {prediction:?}"
            );
        }
        let unresolved = mark(Scorer::VlmEvalKit, prediction, &item).unresolved;
        assert_eq!(unresolved, letter(&case["letter_vlmevalkit"]).is_none(), "{prediction:?}");
    }
}

/// A question without prediction is wrong. LLaVA does not know that one had an image, and leaves it out there.
#[test]
fn summarizes_as_llava() {
    let vectors = vectors();
    let mut samples: Vec<Sample<Item>> = Vec::new();
    let mut answers = Vec::new();
    for case in cases(&vectors["llava"]) {
        let item = item(number(&case["num_choices"]), &case["answer_index"], &case["has_image"]);
        samples.push(Sample { id: samples.len().to_string(), item });
        answers.push(Some(text(case, "prediction").to_owned()));
    }
    for has_image in [true, false] {
        samples.push(Sample { id: samples.len().to_string(), item: item(2, &json!(0), &json!(has_image)) });
        answers.push(None);
    }
    let answers = answered(&samples, &answers);
    let metrics = ScienceQa::metrics(Scorer::Llava, &answers);
    assert_eq!(metrics[0].name, "imageAccuracy");
    let summary = &vectors["summary"];
    assert_eq!(percentage(&metric(&metrics, "accuracy")), summary["accuracy"].as_f64().unwrap());
    assert_eq!(percentage(&metrics[0]), summary["image_accuracy"].as_f64().unwrap());
    let scored = metrics[0].units.iter().filter(|unit| unit.sums.is_some()).count();
    assert_eq!(scored, number(&summary["images"]));
    assert_eq!(metrics[0].units.len(), scored + 1);
    for scorer in [Scorer::LmmsEval, Scorer::VlmEvalKit] {
        let metrics = ScienceQa::metrics(scorer, &answers);
        assert!(
            metrics[0].units.iter().all(|unit| unit.sums.is_some()),
            "the missing answer counts as wrong"
        );
    }
    let unresolved: Vec<_> = metrics[1].units.iter().map(|unit| unit.unresolved).collect();
    let failed = vectors["llava"].as_array().unwrap().iter().map(|case| case["parsed"] == "FAILED");
    assert_eq!(
        unresolved,
        failed.chain([false, false]).collect::<Vec<_>>(),
        "no answer is not an unresolved answer"
    );
}

#[test]
fn asks_as_llava() {
    for case in cases(&vectors()["prompts"]) {
        let problem = &case["problem"];
        let item = Item {
            question: text(problem, "question").to_owned(),
            hint: text(problem, "hint").to_owned(),
            choices: texts(&problem["choices"]),
            answer: 0,
            has_image: case["has_image"].as_bool().unwrap(),
        };
        let asked = text(case, "user_turn");
        let asked = asked.strip_prefix("<image>\n").unwrap_or(asked);
        let benchmark: ScienceQa =
            opened(form::<ScienceQa>("ScienceQA-FULL"), Vec::new(), Options::default());
        assert_eq!(benchmark.prompt(&item), asked);
    }
}

fn row() -> Value {
    json!({
        "question": "Which?", "hint": "Look.", "choices": ["x", "None", "z"], "answer": 2, "image": "image.png", "split": "test",
    })
}

/// Question 5 of the second, and 2 of the first, is question 6 of the split.
#[test]
fn ids_are_the_same_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let splits = json!({"train": ["1"], "val": [], "test": ["4", "5", "11", "15", "22", "23"]});
    let companions = vec![companion(folder.path(), "pid_splits.json", &splits)];
    let original = form::<ScienceQa>("problems.json");
    let benchmark: ScienceQa = opened(original, companions, Options::default());
    let mut problem = record("problems.json", 7, &row());
    problem.fields.insert(KEY_FIELD.to_owned(), json!("23"));
    assert_eq!(ScienceQa::image_path(&problem).as_deref(), Some("23/image.png"));
    let expected = benchmark.sample(original.kind, &problem).unwrap().unwrap();
    assert_eq!(expected.id, "6");
    super::assert_stored(&expected.item);
    assert_eq!(expected.item.choices, ["x", "None", "z"], "pandas is not asked what is empty");

    assert_eq!(sample::<ScienceQa>("ScienceQA-FULL", 6, &row()), expected);
    assert_eq!(sample::<ScienceQa>("ScienceQA-IMG", 3, &row()), expected);
    let table = json!({
        "index": "6", "question": "Which?", "hint": "Look.", "A": "x", "B": "None", "C": "z", "D": null, "E": null,
        "answer": "C", "split": "test",
    });
    assert_eq!(sample::<ScienceQa>("ScienceQA_TEST.tsv", 9, &table), expected);

    problem.fields.insert(KEY_FIELD.to_owned(), json!("1"));
    assert_eq!(benchmark.sample(original.kind, &problem).unwrap(), None, "the training split is left out");
}

#[test]
fn an_image_is_optional() {
    let form = form::<ScienceQa>("ScienceQA-FULL");
    let benchmark: ScienceQa = opened(form, Vec::new(), Options::default());
    let record = Record { image: None, ..record("test.parquet", 1, &row()) };
    assert!(!benchmark.sample(form.kind, &record).unwrap().unwrap().item.has_image);
    let mut fields = row();
    fields["image"] = Value::Null;
    assert_eq!(ScienceQa::image_path(&super::record("problems.json", 1, &fields)), None);
}

#[test]
fn bad_rows_name_the_column() {
    let with = |column: &str, value: Value| {
        let mut fields = row();
        fields[column] = value;
        fields
    };
    for (column, value) in [
        ("answer", json!(3)),
        ("answer", json!("C")),
        ("answer", Value::Null),
        ("question", Value::Null),
        ("choices", json!(["a", "b", "c", "d", "e", "f"])),
        ("choices", json!("a")),
    ] {
        let message = error::<ScienceQa>("ScienceQA-FULL", 1, &with(column, value));
        assert!(message.contains(&format!("`{column}`")), "{message}");
    }
    let message = error::<ScienceQa>("ScienceQA-IMG", 2018, &row());
    assert!(message.contains("more questions than ScienceQA-IMG has"), "{message}");
}
