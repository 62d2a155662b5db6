use serde_json::{Value, json};
use stic_evaluation::benchmarks::text_vqa::{
    Item, TextVqa, accuracy, normalize, normalize_vlmevalkit, question_key,
};
use stic_evaluation::benchmarks::{Benchmark, Options, Sample};
use stic_evaluation::published::FoundForm;
use stic_evaluation::scorer::Scorer;

use super::{
    answered, cases, companion, error, form, metric, opened, percentage, record, sample, text, texts,
};

const WITH_TOKENS: Options = Options { ocr_tokens: true };

fn vectors() -> Value {
    super::vectors(include_str!("../vectors/text_vqa.json"))
}

#[test]
fn normalizes_as_each_reference() {
    let vectors = vectors();
    for case in cases(&vectors["normalize"]) {
        assert_eq!(normalize(text(case, "input")), text(case, "output"), "{case}");
    }
    for case in cases(&vectors["divergence"]).iter().chain(cases(&vectors["adversarial_normalize"])) {
        assert_eq!(normalize(text(case, "input")), text(case, "llava"), "{case}");
        assert_eq!(normalize_vlmevalkit(text(case, "input")), text(case, "vlmevalkit"), "{case}");
    }
}

#[test]
fn counts_equal_answers_as_each_reference() {
    let vectors = vectors();
    for case in cases(&vectors["accuracy"]) {
        let value = accuracy(Scorer::Llava, text(case, "prediction"), &texts(&case["references"]));
        assert_eq!(value, case["score"].as_f64().unwrap(), "{case}");
    }
    for case in cases(&vectors["adversarial_accuracy"]) {
        let references = texts(&case["references"]);
        let value = |scorer| accuracy(scorer, text(case, "prediction"), &references);
        assert_eq!(value(Scorer::Llava), case["llava"].as_f64().unwrap(), "{case}");
        for (scorer, key) in [(Scorer::LmmsEval, "lmms_eval"), (Scorer::VlmEvalKit, "vlmevalkit")] {
            assert!((value(scorer) - case[key].as_f64().unwrap()).abs() < 1e-12, "{key} {case}");
        }
    }
}

#[test]
fn averages_over_all_questions() {
    let corpus = &vectors()["corpus"];
    let mut samples = Vec::new();
    let mut answers = Vec::new();
    for case in cases(&corpus["items"]) {
        let answers_of_people = texts(&case["references"]);
        let item = Item { question: "Q".to_owned(), answers: answers_of_people, ocr_tokens: Vec::new() };
        samples.push(Sample { id: samples.len().to_string(), item });
        answers.push(Some(text(case, "prediction").to_owned()));
    }
    let expected = 100.0 * corpus["accuracy"].as_f64().unwrap();
    let metrics = TextVqa::metrics(Scorer::Llava, &answered(&samples, &answers));
    assert_eq!(percentage(&metric(&metrics, "accuracy")), expected);
    samples.push(Sample { id: "missing".to_owned(), item: samples[0].item.clone() });
    answers.push(None);
    let metrics = TextVqa::metrics(Scorer::Llava, &answered(&samples, &answers));
    let all = samples.len() as f64;
    assert!(
        (percentage(&metrics[0]) - expected * (all - 1.0) / all).abs() < 1e-9,
        "a missing answer is wrong"
    );
}

#[test]
fn finds_the_question_in_a_prompt() {
    let vectors = vectors();
    for case in cases(&vectors["question_keys"]).iter().chain(cases(&vectors["adversarial_question_keys"])) {
        assert_eq!(question_key(text(case, "prompt")).as_deref(), case["question_key"].as_str(), "{case}");
    }
}

fn people() -> Value {
    json!(["nokia", "nokia", "a \"b\"", "l'or", "nokia", "nokia", "nokia", "nokia", "nokia", "nokia"])
}

fn row() -> Value {
    json!({
        "question_id": 34602, "question": "what brand is it?", "image_id": "003a", "answers": people(),
        "ocr_tokens": ["NOKIA", "12:00"],
    })
}

/// As `repr` writes it.
const TABLE: &str =
    r#"['nokia', 'nokia', 'a "b"', "l'or", 'nokia', 'nokia', 'nokia', 'nokia', 'nokia', 'nokia']"#;

#[test]
fn ids_and_questions_are_the_same_in_every_form() {
    let expected = sample::<TextVqa>("Hugging Face", 1, &row());
    assert_eq!(expected.id, "34602");
    assert!(expected.item.ocr_tokens.is_empty(), "prompts do not list them");
    super::assert_stored(&expected.item);
    assert_eq!(sample::<TextVqa>("TextVQA_0.5.1_val.json", 1, &row()).id, expected.id);
    let table = json!({"index": "34602", "question": "what brand is it?", "answer": TABLE});
    assert_eq!(sample::<TextVqa>("TextVQA_VAL.tsv", 1, &table), expected);
}

#[test]
fn every_form_with_tokens_gives_the_prompt_of_llava() {
    let prompt = "What brand is it?\nReference OCR token: NOKIA, 12:00\nAnswer the question using a single word or phrase.";
    let folder = tempfile::tempdir().unwrap();
    let annotations = companion(folder.path(), "TextVQA_0.5.1_val.json", &json!({"data": [row()]}));
    let tokens = json!({"data": [{"image_id": "003a", "ocr_tokens": ["NOKIA", "12:00"], "ocr_info": []}]});
    let tokens = companion(folder.path(), "TextVQA_Rosetta_OCR_v0.2_val.json", &tokens);
    let mut plain = row();
    plain.as_object_mut().unwrap().remove("ocr_tokens");
    let line = json!({"question_id": "003a", "image": "003a.jpg", "text": prompt});
    for (title, companions, fields) in [
        ("Hugging Face", vec![], &row()),
        ("llava_textvqa", vec![annotations], &line),
        ("with the OCR tokens", vec![tokens], &plain),
    ] {
        let form = form::<TextVqa>(title);
        let benchmark: TextVqa = opened(form, companions.clone(), WITH_TOKENS);
        let sample = benchmark.sample(form.kind, &record("file", 1, fields)).unwrap().unwrap();
        assert_eq!(sample.id, "34602", "{title}");
        assert_eq!(sample.item.answers, texts(&people()), "{title}");
        assert_eq!(benchmark.prompt(&sample.item), prompt, "{title}");
        let benchmark: TextVqa = opened(form, companions, Options::default());
        let sample = benchmark.sample(form.kind, &record("file", 1, fields)).unwrap().unwrap();
        let short = "What brand is it?\nAnswer the question using a single word or phrase.";
        assert_eq!(benchmark.prompt(&sample.item), short, "{title}");
    }
    assert_eq!(TextVqa::image_path(&record("file", 1, &line)).as_deref(), Some("003a.jpg"));
    assert_eq!(TextVqa::image_path(&record("file", 1, &plain)).as_deref(), Some("003a.jpg"));
}

/// `', '.join([])`.
#[test]
fn the_line_with_tokens_stays_where_there_are_none() {
    let mut fields = row();
    fields["ocr_tokens"] = json!([]);
    let form = form::<TextVqa>("Hugging Face");
    let benchmark: TextVqa = opened(form, Vec::new(), WITH_TOKENS);
    let item = benchmark.sample(form.kind, &record("file", 1, &fields)).unwrap().unwrap().item;
    let prompt =
        "What brand is it?\nReference OCR token: \nAnswer the question using a single word or phrase.";
    assert_eq!(benchmark.prompt(&item), prompt);
}

#[test]
fn tokens_cannot_be_had_from_forms_without() {
    for title in ["TextVQA_0.5.1_val.json", "TextVQA_VAL.tsv"] {
        let form = TextVqa::FORMS.iter().rfind(|form| form.title.contains(title)).unwrap();
        let found = FoundForm {
            form,
            folder: "folder".into(),
            rows: Vec::new(),
            companions: Vec::new(),
            image_folders: Vec::new(),
            ignored: Vec::new(),
        };
        let message = TextVqa::open(&found, WITH_TOKENS).unwrap_err().to_string();
        assert!(message.contains("has no OCR tokens; add TextVQA_Rosetta_OCR_v0.2_val.json"), "{message}");
    }
}

#[test]
fn bad_rows_name_the_column() {
    let table = json!({"index": "1", "question": "what?", "answer": "nokia"});
    let message = error::<TextVqa>("TextVQA_VAL.tsv", 1, &table);
    assert!(message.contains("`answer` holds no list as Python writes it"), "{message}");
    let mut fields = row();
    fields["answers"] = json!([]);
    assert!(error::<TextVqa>("Hugging Face", 1, &fields).contains("`answers` holds no answer"));

    let folder = tempfile::tempdir().unwrap();
    let annotations = companion(folder.path(), "TextVQA_0.5.1_val.json", &json!({"data": []}));
    let form = form::<TextVqa>("llava_textvqa");
    let benchmark: TextVqa = opened(form, vec![annotations], Options::default());
    let line = json!({"question_id": "003a", "image": "003a.jpg", "text": "What?\nAnswer"});
    let message = benchmark.sample(form.kind, &record("file", 1, &line)).unwrap_err().to_string();
    assert!(
        message.contains("`text` asks a question about the image that TextVQA_0.5.1_val.json"),
        "{message}"
    );
}
