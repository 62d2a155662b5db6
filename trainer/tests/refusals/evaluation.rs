//! Questions and scenes that `evaluate` refuses, before it answers any.

use serde_json::{Value, json};

use crate::bench::{Bench, Ran};

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

fn evaluate(bench: &Bench) -> Ran {
    bench.run(&ARGS)
}

#[test]
fn a_question_or_a_scene_that_cannot_be_asked_is_named_before_any_is() {
    let two = |first: &Value, second: &str| format!("{first}\n{second}\n");
    let q = question("a", "a.jpg");
    let s = scene("a", "a.jpg");
    let cases: &[(&str, String, String, &[&str])] = &[
        ("broken", two(&q, "{"), two(&s, ""), &["q.jsonl:2: EOF"]),
        ("missing", two(&q, "{\"id\": \"b\"}"), two(&s, ""), &["q.jsonl:2: missing field `image`"]),
        ("twice", two(&q, &q.to_string()), two(&s, ""), &["q.jsonl:2: id \"a\" is there twice"]),
        ("no question", "\n".into(), two(&s, ""), &["q.jsonl: holds no row"]),
        ("no scene", two(&q, ""), "\n".into(), &["s.jsonl: holds no row"]),
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
            &["q.jsonl:2: image \"gone.jpg\" in ", "does not exist"],
        ),
        (
            "out of the folder",
            two(&q, ""),
            two(&s, &scene("b", "../q.jsonl").to_string()),
            &["s.jsonl:2: image \"../q.jsonl\"", "must be relative"],
        ),
    ];
    let bench = Bench::new();
    for (name, questions, scenes, says) in cases {
        bench.put("q.jsonl", questions);
        bench.put("s.jsonl", scenes);
        evaluate(&bench).ended(name, 65, says);
        assert!(!bench.path("out").exists(), "{name}");
    }
    bench.remove("q.jsonl");
    evaluate(&bench).ended("gone", 65, &["q.jsonl: not found"]);
    let twice = [&ARGS[..], &["--adapter", "base=x"]].concat();
    bench.put("q.jsonl", q.to_string());
    bench.put("s.jsonl", s.to_string());
    bench.run(&twice).ended("a taken name", 64, &["--adapter \"base=x\"", "other than base"]);
    assert!(evaluate(&bench).ended("mended", 0, &[]).out.contains("1 questions and 1 scenes"));
}
