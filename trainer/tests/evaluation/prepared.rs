//! What `prepare` checks and reports.

use serde_json::{Value, json};
use stic_contract::Digest;

use crate::sandbox::{Run, Sandbox, artifact};

#[test]
fn rows_that_cannot_be_used_fail_the_step_or_are_recorded() {
    let sandbox = Sandbox::new(3);
    let mut rows = std::fs::read_to_string(sandbox.path("heldout/questions.jsonl")).unwrap();
    rows += "{\n";
    rows += r#"{"id": "gone", "image": "images/gone.jpg", "question": "What?", "answer": "cat"}"#;
    sandbox.put("heldout/questions.jsonl", rows + "\n");
    let messages =
        ["Scenes: questions.jsonl, row 4", "gone.jpg", "leave them out with spec.onUnreadable: Skip"];
    sandbox.run(&Run::new("u").prepare()).expect_exit(65, &messages);

    let run = Run { on_unreadable: "Skip", ..Run::new("u") };
    let prepared = sandbox.result(&run.prepare());
    assert_eq!(prepared["items"], json!({"total": 5, "done": 3, "skipped": 2}));
    assert!(prepared["message"].as_str().unwrap().contains("; 2 rows were left out, see skipped.jsonl"));
    let skipped = String::from_utf8(sandbox.payload(&prepared, "Questions", "skipped.jsonl")).unwrap();
    let skipped: Vec<Value> = skipped.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(skipped.len(), 2);
    assert_eq!(skipped[0]["benchmark"], "Scenes");
    assert!(skipped[0]["reason"].as_str().unwrap().starts_with("questions.jsonl, row 4"), "{skipped:?}");
    let report: Value =
        serde_json::from_slice(&sandbox.payload(&prepared, "Questions", "report.json")).unwrap();
    let scenes = &report["benchmarks"][0];
    assert_eq!(
        (&scenes["questions"], &scenes["skipped"], &scenes["images"]),
        (&json!(3), &json!(2), &json!(1))
    );
    assert_eq!(scenes["files"][0]["file"], "questions.jsonl", "no path of a machine");
}

#[test]
fn a_model_or_adapter_that_cannot_be_evaluated_is_named_by_its_field() {
    let sandbox = Sandbox::new(3);
    let other = Digest::of(b"another file");
    type Case = (i32, fn(&mut Value, &Digest), &'static [&'static str]);
    let cases: [Case; 6] = [
        (
            64,
            |task, _| task["subjects"][0]["model"]["path"] = json!("gone"),
            &["spec.subjects[base].model: ", "gone does not exist", "correct the path"],
        ),
        (
            64,
            |task, _| task["subjects"][1]["adapter"]["location"]["path"] = json!("gone"),
            &["spec.subjects[tuned].adapter: ", "gone does not exist"],
        ),
        (
            65,
            |task, other| task["subjects"][1]["modelDigest"] = json!(other),
            &["spec.subjects[tuned]: the model of its run", "the model was changed"],
        ),
        (
            65,
            |task, other| task["subjects"][1]["adapter"]["digest"] = json!(other),
            &[
                "spec.subjects[tuned]: the adapter of its run: ",
                "safetensors: has digest",
                "the adapter was changed",
            ],
        ),
        (
            64,
            |task, _| task["benchmarks"][0]["location"]["path"] = json!("gone"),
            &["spec.benchmarks[Scenes].data: ", "gone does not exist"],
        ),
        (
            65,
            |task, _| task["benchmarks"][0]["name"] = json!("MMVet"),
            &["spec.benchmarks[MMVet].data: ", "none of the published forms is complete"],
        ),
    ];
    for (code, spoil, messages) in cases {
        let mut config = Run::new("u").prepare();
        spoil(&mut config["task"]["prepare-evaluation"], &other);
        sandbox.run(&config).expect_exit(code, messages);
    }
}

#[test]
fn answers_that_were_sealed_before_are_found() {
    let sandbox = Sandbox::new(3);
    let run = Run::new("u");
    let (first, scored) = run.all(&sandbox);
    assert_eq!(first["artifacts"].as_array().unwrap().len(), 1);
    let again = sandbox.result(&Run::new("v").prepare());
    let answers = artifact(&again, "Answers");
    assert_eq!(answers["digest"], artifact(&scored, "Answers")["digest"]);
    assert_eq!(answers["reused"], true);
    let rerun = sandbox.result(&Run { rerun: 1, ..run }.prepare());
    assert_eq!(rerun["artifacts"].as_array().unwrap().len(), 1, "a rerun reuses nothing: {rerun}");
}
