//! The same question in each published form: the same id, the same prompt.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stic_evaluation::benchmarks::{
    Benchmark, Options, Sample, amber::Amber, chair::Chair, hallusion_bench::HallusionBench,
    llava_bench::LlavaBench, math_vista::MathVista, mm_star::MmStar, mm_vet::MmVet, pope::Pope,
};
use stic_evaluation::published::{Form, FormKind, FoundForm, Record};

fn record(fields: Value) -> Record {
    let Value::Object(fields) = fields else { panic!("{fields}") };
    Record { place: "file, row 1".to_owned(), file: "file".to_owned(), row: 1, fields, image: None }
}

fn form<B: Benchmark>(kind: FormKind) -> &'static Form {
    B::FORMS.iter().find(|form| form.kind == kind).unwrap()
}

fn found(form: &'static Form, folder: &Path, companions: Vec<PathBuf>) -> FoundForm {
    FoundForm {
        form,
        folder: folder.to_owned(),
        rows: Vec::new(),
        companions,
        image_folders: Vec::new(),
        ignored: Vec::new(),
    }
}

/// Opens a form with these companions, and reads one row. The row has each column that the form asks for.
fn sample<B: Benchmark>(kind: FormKind, companions: &[(&str, Value)], fields: Value) -> Sample<B::Item> {
    let form = form::<B>(kind);
    for column in form.columns {
        assert!(fields.get(column).is_some(), "{column} is missing in the row of {}", form.title);
    }
    let folder = tempfile::tempdir().unwrap();
    let companions = companions.iter().map(|(name, content)| {
        let path = folder.path().join(name);
        let lines = content.as_array().filter(|_| name.ends_with(".jsonl"));
        let text = lines.map_or_else(
            || content.to_string(),
            |lines| lines.iter().map(|line| format!("{line}\n")).collect(),
        );
        std::fs::write(&path, text).unwrap();
        path
    });
    let companions: Vec<PathBuf> = companions.collect();
    let found = found(form, folder.path(), companions);
    let benchmark = B::open(&found, Options::default()).unwrap();
    benchmark.sample(kind, &record(fields)).unwrap().unwrap()
}

fn refusal<B: Benchmark>(kind: FormKind, fields: Value) -> String {
    let found = found(form::<B>(kind), Path::new(""), Vec::new());
    let benchmark = B::open(&found, Options::default()).unwrap();
    benchmark.sample(kind, &record(fields)).unwrap_err().to_string()
}

#[test]
fn pope() {
    let parquet = sample::<Pope>(
        FormKind::Parquet,
        &[],
        json!({"question_id": "1", "question": "Is there a dog?", "answer": "yes", "category": "random", "image_source": "x"}),
    );
    let mut row = record(
        json!({"question_id": 1, "image": "COCO_val2014_1.jpg", "text": "Is there a dog?", "label": "yes"}),
    );
    row.file = "coco_pope_random.json".to_owned();
    let original = Pope.sample(FormKind::Original, &row).unwrap().unwrap();
    assert_eq!(original, parquet);
    assert_eq!(original.id, "random_1");
    assert_eq!(Pope::image_path(&row).as_deref(), Some("COCO_val2014_1.jpg"));
    let tsv = sample::<Pope>(
        FormKind::Tsv,
        &[],
        json!({"index": "7", "question": "Is there a dog?", "answer": "Yes", "category": "adversarial,random"}),
    );
    assert_eq!((tsv.id.as_str(), tsv.item.categories.len()), ("row_7", 2));
    assert_eq!(Pope.prompt(&tsv.item), Pope.prompt(&original.item));
    assert_eq!(
        refusal::<Pope>(
            FormKind::Tsv,
            json!({"index": "7", "question": "Q", "answer": "Yes", "category": "easy"})
        ),
        "file, row 1: column `category` holds another category than random, popular and adversarial. Use the file as it \
         was published."
    );
}

#[test]
fn hallusion_bench() {
    let row = |question: &str| {
        json!({
            "category": "VS", "subcategory": "chart", "visual_input": "1", "set_id": "0", "figure_id": "1", "question_id": "0",
            "question": question, "gt_answer": "0", "gt_answer_details": "Switzerland is.", "filename": "./VS/chart/0_1.png",
        })
    };
    let parquet = sample::<HallusionBench>(FormKind::Parquet, &[], row("Is it China?"));
    assert_eq!(sample::<HallusionBench>(FormKind::Original, &[], row("Is it China?")), parquet);
    let tsv = sample::<HallusionBench>(
        FormKind::Tsv,
        &[],
        json!({"index": "VS_chart_1_0_1_0", "question": "Is it China?", "answer": "No"}),
    );
    assert_eq!(tsv.id, parquet.id);
    assert_eq!(
        (tsv.item.right, tsv.item.set, tsv.item.figure),
        (false, parquet.item.set, parquet.item.figure)
    );
    assert_eq!(HallusionBench::image_path(&record(row("Q"))).as_deref(), Some("VS/chart/0_1.png"));
}

#[test]
fn amber() {
    let annotations = json!([
        {"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["cloud"]},
        {"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"},
    ]);
    let original = sample::<Amber>(
        FormKind::Original,
        &[("annotations.json", annotations)],
        json!({"id": 1005, "image": "AMBER_1.jpg", "query": "Is the sky sunny?"}),
    );
    let tsv = sample::<Amber>(
        FormKind::Tsv,
        &[],
        json!({"index": "1005", "question": "Is the sky sunny?", "answer": "yes", "category": "discriminative-attribute-state"}),
    );
    assert_eq!(tsv, original);
    let message = refusal::<Amber>(
        FormKind::Original,
        json!({"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}),
    );
    assert!(message.contains("column `id` is no yes/no question of annotations.json"), "{message}");
}

#[test]
fn math_vista() {
    let row = json!({
        "pid": "3", "question": "How much?", "choices": null, "unit": "$", "precision": 2.0, "answer": "1.45",
        "question_type": "free_form", "answer_type": "float", "metadata": {"task": "math word problem"}, "image": "images/3.jpg",
    });
    let parquet = sample::<MathVista>(FormKind::Parquet, &[], row.clone());
    let mut keyed = row;
    keyed["_key"] = json!("3");
    assert_eq!(sample::<MathVista>(FormKind::Original, &[], keyed), parquet);
    let hint = "Hint: Please answer the question requiring a floating-point number with two decimal places and provide the final \
                value, e.g., 1.23, 1.34, 1.45, at the end.";
    let tsv = sample::<MathVista>(
        FormKind::Tsv,
        &[],
        json!({
            "index": "3", "question": format!("{hint}\nQuestion: How much? (Unit: $)"), "choices": null, "answer": "1.45",
            "question_type": "free_form", "answer_type": "float", "task": "math word problem",
        }),
    );
    assert_eq!(
        (&tsv.id, tsv.item.precision, &tsv.item.task),
        (&parquet.id, parquet.item.precision, &parquet.item.task)
    );
    assert_eq!(MathVista.prompt(&tsv.item), MathVista.prompt(&parquet.item));
    assert_eq!(MathVista.prompt(&tsv.item), format!("Question: How much? (Unit: $)\n{hint}\nSolution:"));

    let choice = |choices: Value| {
        json!({"question_type": "multi_choice", "answer_type": "text", "choices": choices, "question": "Which?", "answer": "dog",
               "pid": "4", "index": "4", "unit": null, "precision": null, "metadata": null})
    };
    let parquet = sample::<MathVista>(FormKind::Parquet, &[], choice(json!(["cat", "dog"])));
    let tsv = sample::<MathVista>(FormKind::Tsv, &[], choice(json!("['cat', 'dog']")));
    assert_eq!(tsv, parquet);
    let message = refusal::<MathVista>(FormKind::Parquet, choice(json!([])));
    assert!(message.contains("column `choices` is empty"), "{message}");
}

#[test]
fn llava_bench() {
    let parquet = sample::<LlavaBench>(
        FormKind::Parquet,
        &[],
        json!({"question_id": 0, "question": "Where?", "gpt_answer": "Maui.", "caption": "A beach.", "category": "conv"}),
    );
    let tsv = sample::<LlavaBench>(
        FormKind::Tsv,
        &[],
        json!({"index": "0", "question": "Where?", "gpt4_ans": "Maui.", "caption": "A beach.", "category": "conv"}),
    );
    let companions = [
        ("context.jsonl", json!([{"id": "001", "image": "001.jpg", "caption": "A beach."}])),
        ("answers_gpt4.jsonl", json!([{"question_id": 0, "text": "Maui.", "answer_id": "x"}])),
    ];
    let original = sample::<LlavaBench>(
        FormKind::Original,
        &companions,
        json!({"question_id": 0, "image": "001.jpg", "text": "Where?", "category": "conv"}),
    );
    assert_eq!(tsv, parquet);
    assert_eq!(original, parquet);
    let message = refusal::<LlavaBench>(
        FormKind::Original,
        json!({"question_id": 0, "image": "002.jpg", "text": "Where?", "category": "conv"}),
    );
    assert!(message.contains("column `image` is not in context.jsonl"), "{message}");
}

#[test]
fn mm_vet() {
    let parquet = sample::<MmVet>(
        FormKind::Parquet,
        &[],
        json!({"question_id": "v1_0", "question": "What is x?", "answer": "-1<AND>-5", "capability": "ocr,math"}),
    );
    let tsv = sample::<MmVet>(
        FormKind::Tsv,
        &[],
        json!({"index": "0", "question": "What is x?", "answer": "-1<AND>-5", "category": "ocr,math"}),
    );
    let original = sample::<MmVet>(
        FormKind::Original,
        &[],
        json!({"_key": "v1_0", "imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5",
               "capability": ["ocr", "math"]}),
    );
    assert_eq!(tsv, parquet);
    assert_eq!(original, parquet);
}

#[test]
fn mm_star() {
    let listed = "Which is it?\nOptions: A: a cat, B: a dog, C: both, D: neither";
    let row = |question: &str| json!({"index": "0", "question": question, "answer": "B", "category": "math", "l2_category": "geometry"});
    let parquet = sample::<MmStar>(FormKind::Parquet, &[], row(listed));
    let mut columns = row("Which is it?");
    for (letter, option) in [("A", "a cat"), ("B", "a dog"), ("C", "both"), ("D", "neither")] {
        columns[letter] = json!(option);
    }
    assert_eq!(sample::<MmStar>(FormKind::Tsv, &[], columns), parquet);
    assert_eq!(
        MmStar.prompt(&parquet.item),
        format!("{listed}\nAnswer with the option's letter from the given choices directly.")
    );
    assert_eq!(sample::<MmStar>(FormKind::Parquet, &[], row("Which of (A) and (B)?")).item.options, None);
}

#[test]
fn chair() {
    let parquet = sample::<Chair>(
        FormKind::Parquet,
        &[],
        json!({"question_id": "42", "gt_object": ["dog", "person"], "question": "Describe."}),
    );
    let instances = json!({
        "info": {}, "categories": [{"id": 1, "name": "dog", "supercategory": "animal"}],
        "annotations": [{"id": 1, "image_id": 42, "category_id": 1, "area": 1.5}, {"id": 2, "image_id": 7, "category_id": 1}],
    });
    let captions = json!({"annotations": [{"id": 1, "image_id": 42, "caption": "A man walks his puppies."}]});
    let original = sample::<Chair>(
        FormKind::Original,
        &[("instances_val2014.json", instances), ("captions_val2014.json", captions)],
        json!({"image_id": 42, "question": "Describe."}),
    );
    assert_eq!(original, parquet);
}
