//! Input lines that `score` refuses: exit code 65 with file and line, and no output.

use std::fs::{File, OpenOptions};

use serde_json::{Value, json};

use crate::sandbox::{CommandOutput, Sandbox, picture};

fn good(id: &str) -> Value {
    json!({"id": id, "image": "a.jpg", "prompt": "q", "response": "a cat"})
}

fn score(sandbox: &Sandbox) -> CommandOutput {
    sandbox.run(&[
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
fn a_line_that_cannot_be_scored_is_named() {
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
        ("broken", "{\"id\": ".into(), &["EOF while parsing", "fix or remove this record"]),
        ("unknown field", with("answer", json!("x")), &["unknown field `answer`"]),
        ("a number for a text", with("prompt", json!(3)), &["prompt: invalid type"]),
        (
            "an id that is used already",
            good("a").to_string(),
            &["id \"a\" is already used on line 1", "a unique id"],
        ),
        (
            "no prompt",
            json!({"id": "b", "response": "x"}).to_string(),
            &["row \"b\": set prompt with response"],
        ),
        ("no response", with("response", json!("")), &["row \"b\": "]),
        (
            "a missing image",
            with("image", json!("gone.jpg")),
            &["row \"b\": image \"gone.jpg\" in ", "does not exist"],
        ),
        (
            "an image outside the folder",
            with("image", json!("../rows.jsonl")),
            &["row \"b\": image \"../rows.jsonl\"", "must be relative"],
        ),
        (
            "a broken image",
            with("image", json!("cut.jpg")),
            &["row \"b\": ", "cut.jpg: the image file is truncated"],
        ),
        (
            "an id outside the vocabulary",
            ids("response_ids", &[4_000_000]),
            &["row \"b\": token id 4000000 is outside the vocabulary of"],
        ),
        (
            "pixels that are an image",
            json!({"id": "b", "pixels": "a.jpg", "prompt": "q", "response": "x"}).to_string(),
            &["row \"b\": ", "a.jpg: "],
        ),
        (
            "too long for the model",
            ids("response_ids", &[5; 10_000]),
            &["row \"b\": prompt and response have 10002 tokens, but the model is limited to"],
        ),
    ];
    let sandbox = Sandbox::new();
    sandbox.put("images/cut.jpg", &picture(99, 99, "x.jpg")[..900]);
    for (name, line, messages) in cases {
        sandbox.put("rows.jsonl", format!("{}\n{line}\n", good("a")));
        let messages = [*messages, &["rows.jsonl:2: "]].concat();
        assert!(score(&sandbox).expect_exit(name, 65, &messages).out.is_empty());
        assert!(!sandbox.path("scores.jsonl").exists(), "{name}");
    }
    sandbox.remove("rows.jsonl");
    score(&sandbox).expect_exit("gone", 65, &["rows.jsonl: not found"]);
    sandbox.put("rows.jsonl", "\n\n");
    score(&sandbox).expect_exit("empty", 65, &["rows.jsonl: no rows"]);
    sandbox.put("rows.jsonl", format!("{}\r\n", good("a")));
    score(&sandbox).expect_exit("good", 0, &[]);
    assert_eq!(sandbox.read("scores.jsonl").iter().filter(|b| **b == b'\n').count(), 1);
}

#[test]
fn full_standard_output_is_a_storage_failure() {
    let sandbox = Sandbox::new();
    sandbox.put("rows.jsonl", good("a").to_string());
    let full = || -> File { OpenOptions::new().write(true).open("/dev/full").unwrap() };
    let args = ["score", "--model", "models/m", "--input", "rows.jsonl", "--images", "images"];
    let ran = CommandOutput::from(sandbox.command(&args).stdout(full()).output().unwrap());
    ran.expect_exit("score", 74, &["standard output: No space left on device", "free space"]);

    let config = crate::config::images(None, "Skip");
    sandbox.put("config.json", config.to_string());
    let args = ["step", "--config", "config.json", "--volumes", "."];
    let ran = CommandOutput::from(sandbox.command(&args).stdout(full()).output().unwrap());
    ran.expect_exit("step", 74, &["standard output: No space left on device"]);
    // The artifact is complete all the same.
    let artifacts = sandbox.files("stic");
    sandbox.step(&config).expect_exit("again", 0, &[]);
    assert_eq!(sandbox.files("stic"), artifacts);

    // A log that cannot be written does not end the step.
    let ran = CommandOutput::from(sandbox.command(&args).stderr(full()).output().unwrap());
    assert_eq!(ran.expect_exit("log", 0, &[]).result()["items"]["done"], 4);
}
