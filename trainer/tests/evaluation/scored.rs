//! The results of the steps are those of `stic-trainer evaluate`.

use std::process::Command;

use serde_json::{Value, json};
use stic_evaluation::results::ResultRow;

use crate::sandbox::{Run, Sandbox, TRAINER, artifact};

#[test]
fn the_steps_give_the_results_of_the_command() {
    let sandbox = Sandbox::new(7);
    let run = Run {
        prompting: json!(["Direct", "DescribeAndRespond", "DescribeAndRespondAsReleased"]),
        ..Run::new("u")
    };
    let (prepared, scored) = run.all(&sandbox);
    assert_eq!(prepared["items"], json!({"total": 7, "done": 7, "skipped": 0}));
    let message = prepared["message"].as_str().unwrap();
    assert!(message.starts_with("7 questions: Scenes 7; GPU memory: answering takes up to "), "{message}");

    let output = sandbox.path("stic/command");
    let ended = Command::new(TRAINER)
        .arg("evaluate")
        .args(["--model".as_ref(), sandbox.path("models/scenes-llava").as_os_str()])
        .args(["--adapter", &format!("tuned={}", sandbox.path("adapters/tuned").display())])
        .args(["--benchmark", &format!("Scenes={}", sandbox.path("heldout").display())])
        .args(["--prompting", "direct,describe-and-respond,describe-and-respond-as-released"])
        .args(["--output".as_ref(), output.as_os_str()])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    for file in ["results.json", "results.csv"] {
        let expected = std::fs::read(output.join(file)).unwrap();
        assert!(sandbox.payload(&scored, "Results", file) == expected, "{file} differs");
    }

    let rows: Vec<ResultRow> =
        serde_json::from_slice(&sandbox.payload(&scored, "Results", "results.json")).unwrap();
    let scores = scored["scores"].as_array().unwrap();
    assert_eq!(scores.len(), 3, "the headline for each way of asking: {scored}");
    let accuracy = |subject: &str| {
        rows.iter().find(|row| row.metric == "accuracy" && row.subject == subject).unwrap().score
    };
    for (index, subject) in ["base", "tuned"].into_iter().enumerate() {
        let shown = &scores[0]["of"][index];
        let estimate = accuracy(subject).estimate.unwrap();
        assert_eq!(shown["p"], format!("{:.1}", estimate.points));
        assert_eq!(shown["n"], 7);
    }
    assert_eq!(scores[0]["of"][0]["d"], Value::Null, "the baseline differs from nothing");
    assert_eq!(scores[0]["of"][1]["d"].as_array().unwrap().len(), 3);

    let sealed = String::from_utf8(sandbox.payload(&scored, "Answers", "answers.jsonl")).unwrap();
    let order: Vec<(Value, Value)> = sealed
        .lines()
        .take(6)
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|row| (row["subject"].clone(), row["prompting"].clone()))
        .collect();
    let ways = ["Direct", "DescribeAndRespond", "DescribeAndRespondAsReleased"];
    let expected: Vec<_> = ["base", "tuned"]
        .into_iter()
        .flat_map(|subject| ways.map(|way| (json!(subject), json!(way))))
        .collect();
    assert_eq!(order, expected);
    assert_eq!(sealed.lines().count(), 7 * 2 * 3);
}

#[test]
fn scoring_says_how_many_answers_are_missing() {
    let sandbox = Sandbox::new(3);
    let run = Run::new("u");
    let prepared = sandbox.result(&run.prepare());
    let score = run.score(&prepared, Value::Null);
    let messages = ["12 answers are missing; run the step answer again"];
    sandbox.run(&score).expect_exit(65, &messages);
    sandbox.result(&run.answer(&prepared, 1));
    let first = sandbox.result(&score);
    let again = sandbox.result(&score);
    assert_eq!(first, again, "scoring again finds what is there");
    assert_eq!(artifact(&first, "Results")["step"], "score");
}
