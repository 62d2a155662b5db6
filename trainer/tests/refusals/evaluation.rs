//! Questions and scenes that `evaluate` refuses before it generates any answer.

use serde_json::{Value, json};

use crate::sandbox::{CommandOutput, Sandbox};

pub(crate) fn question(id: &str, image: &str) -> Value {
    json!({"id": id, "image": image, "question": "What is it?", "answer": "cat"})
}

pub(crate) fn scene(id: &str, image: &str) -> Value {
    json!({"id": id, "image": image, "phrases": ["a cat"]})
}

pub(crate) const ARGS: [&str; 9] = [
    "evaluate",
    "--model",
    "models/m",
    "--benchmark",
    "Scenes=images",
    "--output",
    "out/e",
    "--max-description-tokens",
    "8",
];

fn evaluate(sandbox: &Sandbox) -> CommandOutput {
    sandbox.run(&ARGS)
}

#[test]
fn a_bad_question_or_scene_is_named_before_anything_is_generated() {
    let two = |first: &Value, second: &str| format!("{first}\n{second}\n");
    let q = question("a", "a.jpg");
    let s = scene("a", "a.jpg");
    let with = |id: &str, field: &str, value: &str| {
        let mut question = question(id, "b.jpg");
        question[field] = json!(value);
        question.to_string()
    };
    let cases: &[(&str, String, String, &[&str])] = &[
        ("broken", two(&q, "{"), two(&s, ""), &["questions.jsonl, row 2"]),
        ("missing", two(&q, "{\"id\": \"b\"}"), two(&s, ""), &["questions.jsonl, row 2", "image"]),
        ("twice", two(&q, &q.to_string()), two(&s, ""), &["questions.jsonl, row 2", "\"a\""]),
        ("no question", "\n".into(), two(&s, ""), &["questions.jsonl"]),
        ("a phrase", two(&q, ""), two(&s, "{\"image\":\"b.jpg\",\"phrases\":\"cat\"}"), &["scenes.jsonl:2"]),
        (
            "no image",
            two(&q, &with("b", "image", "gone.jpg")),
            two(&s, ""),
            &["questions.jsonl, row 2", "gone.jpg"],
        ),
        (
            "a broken image",
            two(&q, &with("b", "image", "broken.jpg")),
            two(&s, ""),
            &["questions.jsonl, row 2", "empty"],
        ),
        (
            "no answer",
            two(&q, &with("b", "answer", " ")),
            two(&s, ""),
            &["questions.jsonl, row 2", "`answer` is blank"],
        ),
        (
            "two images",
            two(&q, &with("b", "question", "<image> <image>")),
            two(&s, ""),
            &["questions.jsonl, row 2", "<image>"],
        ),
        (
            "a long question",
            two(&q, &with("b", "question", &"red ".repeat(2000))),
            two(&s, ""),
            &["questions.jsonl, row 2: its question needs ", "but the model is limited to "],
        ),
        (
            "out of the folder",
            two(&q, &with("b", "image", "../q.jsonl")),
            two(&s, ""),
            &["questions.jsonl, row 2", "../q.jsonl"],
        ),
    ];
    let sandbox = Sandbox::new();
    sandbox.put("images/broken.jpg", "");
    for (name, questions, scenes, messages) in cases {
        sandbox.put("images/questions.jsonl", questions);
        sandbox.put("images/scenes.jsonl", scenes);
        evaluate(&sandbox).expect_exit(name, 65, messages);
        let answered = sandbox.path("out/e").read_dir().is_ok_and(|mut files| {
            files.any(|file| file.unwrap().file_name().to_string_lossy().starts_with("answers-"))
        });
        assert!(!answered, "{name}");
    }
    sandbox.remove("images/questions.jsonl");
    evaluate(&sandbox).expect_exit("gone", 65, &["questions.jsonl"]);
    sandbox.put("images/questions.jsonl", q.to_string());
    sandbox.put("images/scenes.jsonl", s.to_string());
    for (name, options, messages) in [
        ("a taken name", ["--adapter", "base=x"], ["--adapter \"base=x\"", "other than base"]),
        ("no folder", ["--benchmark", "Scenes"], ["--benchmark \"Scenes\"", "NAME=DIR"]),
        ("unknown benchmark", ["--benchmark", "Dreams=x"], ["--benchmark Dreams: unknown", "Scenes"]),
        (
            "the same benchmark",
            ["--benchmark", "Scenes=x"],
            ["--benchmark Scenes: named twice", "remove one"],
        ),
    ] {
        sandbox.run(&[&ARGS[..], &options].concat()).expect_exit(name, 64, &messages);
    }
    let tagged = json!({"id": 7, "image": "b.jpg", "question": "<image>\nWhat is it?", "answer": "cat"});
    sandbox.put("images/questions.jsonl", format!("{q}\n{tagged}\n"));
    let report = evaluate(&sandbox).expect_exit("corrected", 0, &[]).out;
    assert!(report.contains("descriptionF1"), "{report}");
}

#[test]
fn rows_that_cannot_be_used_are_left_out_where_the_user_says_so() {
    let sandbox = Sandbox::new();
    let rows = [question("a", "a.jpg").to_string(), "{".into(), question("b", "gone.jpg").to_string()];
    sandbox.put("images/questions.jsonl", rows.join("\n") + "\n");
    let skip = [&ARGS[..], &["--on-unreadable", "skip"]].concat();
    let ended = sandbox.run(&skip).expect_exit("skip", 0, &["questions.jsonl, row 2", "gone.jpg"]);
    assert!(!ended.out.contains("descriptionF1"), "no scenes: {}", ended.out);
}
