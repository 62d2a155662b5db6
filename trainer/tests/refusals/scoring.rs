//! Rows that `score` refuses: 65 with file and line, and no output.

use std::fs::{File, OpenOptions};

use serde_json::{Value, json};

use crate::bench::{Bench, Ran, picture};

fn good(id: &str) -> Value {
    json!({"id": id, "image": "a.jpg", "prompt": "q", "response": "a cat"})
}

fn score(bench: &Bench) -> Ran {
    bench.run(&[
        "score",
        "--model",
        "models/m",
        "--input",
        "rows.jsonl",
        "--images",
        "images",
        "--output",
        "scores.jsonl",
    ])
}

#[test]
fn a_row_that_cannot_be_scored_is_named_by_its_line() {
    let with = |key: &str, value: Value| {
        let mut row = good("b");
        row[key] = value;
        row.to_string()
    };
    let ids = |key: &str, ids: &[u32]| {
        let mut row = json!({"id": "b", "prompt_ids": [1, 5], "response_ids": [5]});
        row[key] = json!(ids);
        row.to_string()
    };
    let cases: &[(&str, String, &[&str])] = &[
        ("broken", "{\"id\": ".into(), &["EOF while parsing", "mend or remove this record"]),
        ("unknown field", with("answer", json!("x")), &["unknown field `answer`"]),
        ("a number for a text", with("prompt", json!(3)), &["prompt: invalid type"]),
        (
            "an id of another",
            good("a").to_string(),
            &["id \"a\" is that of the row on line 1", "an id of its own"],
        ),
        (
            "no prompt",
            json!({"id": "b", "response": "x"}).to_string(),
            &["row \"b\": give prompt with response"],
        ),
        ("no response", with("response", json!("")), &["row \"b\": "]),
        (
            "an image not there",
            with("image", json!("gone.jpg")),
            &["row \"b\": image \"gone.jpg\" in ", "does not exist"],
        ),
        (
            "an image out of the folder",
            with("image", json!("../rows.jsonl")),
            &["row \"b\": image \"../rows.jsonl\"", "must be relative"],
        ),
        (
            "a broken image",
            with("image", json!("cut.jpg")),
            &["row \"b\": ", "cut.jpg: the image file is truncated"],
        ),
        (
            "an id beyond the vocabulary",
            ids("response_ids", &[4_000_000]),
            &["row \"b\": token id 4000000 is beyond the vocabulary of"],
        ),
        (
            "pixels that are none",
            json!({"id": "b", "pixels": "a.jpg", "prompt": "q", "response": "x"}).to_string(),
            &["row \"b\": ", "a.jpg: "],
        ),
        (
            "more than the model takes",
            ids("response_ids", &[5; 10_000]),
            &["row \"b\": prompt and response have 10002 tokens, the model takes"],
        ),
    ];
    let bench = Bench::new();
    bench.put("images/cut.jpg", &picture(99, 99, "x.jpg")[..900]);
    for (name, line, says) in cases {
        bench.put("rows.jsonl", format!("{}\n{line}\n", good("a")));
        let says = [*says, &["rows.jsonl:2: "]].concat();
        assert!(score(&bench).ended(name, 65, &says).out.is_empty());
        assert!(!bench.path("scores.jsonl").exists(), "{name}");
    }
    bench.remove("rows.jsonl");
    score(&bench).ended("gone", 65, &["rows.jsonl: not found"]);
    bench.put("rows.jsonl", "\n\n");
    score(&bench).ended("empty", 65, &["rows.jsonl: holds no row"]);
    bench.put("rows.jsonl", format!("{}\r\n", good("a")));
    score(&bench).ended("good", 0, &[]);
    assert_eq!(bench.read("scores.jsonl").iter().filter(|b| **b == b'\n').count(), 1);
}

#[test]
fn a_standard_output_that_is_full_is_a_storage_failure() {
    let bench = Bench::new();
    bench.put("rows.jsonl", good("a").to_string());
    let full = || -> File { OpenOptions::new().write(true).open("/dev/full").unwrap() };
    let args = ["score", "--model", "models/m", "--input", "rows.jsonl", "--images", "images"];
    let ran = Ran::from(bench.command(&args).stdout(full()).output().unwrap());
    ran.ended("score", 74, &["standard output: No space left on device", "free space"]);

    let config = crate::config::images(None, "Skip");
    bench.put("config.json", config.to_string());
    let args = ["step", "--config", "config.json", "--volumes", "."];
    let ran = Ran::from(bench.command(&args).stdout(full()).output().unwrap());
    ran.ended("step", 74, &["standard output: No space left on device"]);
    // What was made is made.
    let made = bench.files("stic");
    bench.step(&config).ended("again", 0, &[]);
    assert_eq!(bench.files("stic"), made);

    // A log that cannot be written ends nothing.
    let ran = Ran::from(bench.command(&args).stderr(full()).output().unwrap());
    assert_eq!(ran.ended("log", 0, &[]).result()["items"]["done"], 4);
}
