//! Questions and scenes that `evaluate` refuses before it generates any answer.

use serde_json::{Value, json};

use crate::sandbox::{CommandOutput, Sandbox};

pub(crate) fn question(id: &str, image: &str) -> Value {
    json!({"id": id, "image": image, "question": "What is it?", "answer": "cat"})
}

pub(crate) fn scene(id: &str, image: &str) -> Value {
    json!({"id": id, "image": image, "phrases": ["a cat"]})
}

pub(crate) const ARGS: [&str; 13] = [
    "evaluate",
    "--model",
    "models/m",
    "--questions",
    "q.jsonl",
    "--scenes",
    "s.jsonl",
    "--images",
    "images",
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
    let cases: &[(&str, String, String, &[&str])] = &[
        ("broken", two(&q, "{"), two(&s, ""), &["q.jsonl:2: EOF"]),
        ("missing", two(&q, "{\"id\": \"b\"}"), two(&s, ""), &["q.jsonl:2: missing field `image`"]),
        ("twice", two(&q, &q.to_string()), two(&s, ""), &["q.jsonl:2: id \"a\" is already used on line 1"]),
        ("no question", "\n".into(), two(&s, ""), &["q.jsonl: no rows"]),
        ("no scene", two(&q, ""), "\n".into(), &["s.jsonl: no rows"]),
        (
            "a phrase",
            two(&q, ""),
            two(&s, "{\"id\":\"b\",\"image\":\"b.jpg\",\"phrases\":\"cat\"}"),
            &["s.jsonl:2: phrases: invalid type"],
        ),
        (
            "no image",
            two(&q, &question("b", "gone.jpg").to_string()),
            two(&s, ""),
            &["q.jsonl:2: item \"b\": image \"gone.jpg\" in ", "does not exist"],
        ),
        (
            "a broken image",
            two(&q, &question("b", "broken.jpg").to_string()),
            two(&s, ""),
            &["q.jsonl:2: item \"b\": ", "broken.jpg: the file is empty"],
        ),
        (
            "no answer",
            two(&q, &json!({"id": "b", "image": "b.jpg", "question": "q", "answer": " "}).to_string()),
            two(&s, ""),
            &["q.jsonl:2: item \"b\": answer is empty"],
        ),
        (
            "two images",
            two(
                &q,
                &json!({"id": "b", "image": "b.jpg", "question": "<image> <image>", "answer": "x"})
                    .to_string(),
            ),
            two(&s, ""),
            &["q.jsonl:2: item \"b\": question holds <image> more than once"],
        ),
        (
            "a long question",
            two(
                &q,
                &json!({"id": "b", "image": "b.jpg", "question": "red ".repeat(2000), "answer": "x"})
                    .to_string(),
            ),
            two(&s, ""),
            &["q.jsonl:2: item \"b\": its question needs ", "but the model is limited to "],
        ),
        (
            "out of the folder",
            two(&q, ""),
            two(&s, &scene("b", "../q.jsonl").to_string()),
            &["s.jsonl:2: item \"b\": image \"../q.jsonl\"", "must be relative"],
        ),
    ];
    let sandbox = Sandbox::new();
    sandbox.put("images/broken.jpg", "");
    for (name, questions, scenes, messages) in cases {
        sandbox.put("q.jsonl", questions);
        sandbox.put("s.jsonl", scenes);
        evaluate(&sandbox).expect_exit(name, 65, messages);
        assert!(!sandbox.path("out").exists(), "{name}");
    }
    sandbox.remove("q.jsonl");
    evaluate(&sandbox).expect_exit("gone", 65, &["q.jsonl: not found"]);
    let mut without_scenes = ARGS.to_vec();
    without_scenes.drain(5..7);
    let twice = [&ARGS[..], &["--adapter", "base=x"]].concat();
    sandbox.put("q.jsonl", q.to_string());
    sandbox.put("s.jsonl", s.to_string());
    sandbox.run(&twice).expect_exit("a taken name", 64, &["--adapter \"base=x\"", "other than base"]);
    let tagged = json!({"id": 7, "image": "b.jpg", "question": "<image>\nWhat is it?", "answer": "cat"});
    sandbox.put("q.jsonl", json!([q, tagged]).to_string());
    let report = sandbox.run(&without_scenes).expect_exit("no scenes, and questions in an array", 0, &[]).out;
    assert!(report.contains("2 questions and 0 scenes") && !report.contains("description F1"), "{report}");
    sandbox.remove("out");
    sandbox.put("q.jsonl", q.to_string());
    let unknown = [&ARGS[..], &["--benchmark", "dreams"]].concat();
    sandbox.run(&unknown).expect_exit("unknown benchmark", 64, &["'dreams'", "possible values: scenes"]);
    assert!(evaluate(&sandbox).expect_exit("corrected", 0, &[]).out.contains("1 questions and 1 scenes"));
}
