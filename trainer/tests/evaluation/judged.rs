//! The step `judge` with a real server: what it pays for, what it keeps, and what the scores are.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::judge_server::{JudgeServer, Reply};
use crate::sandbox::{Ended, Run, Sandbox, reference};

const QUESTIONS: usize = 3;
const KEY: &str = "sk-secret-1";

/// A run of the base model on MM-Vet, up to its answers.
struct Answered {
    sandbox: Sandbox,
    run: Run,
    prepared: Value,
}

impl Answered {
    fn new() -> Self {
        let sandbox = Sandbox::new(1);
        let rows: serde_json::Map<String, Value> = (0..QUESTIONS)
            .map(|number| {
                let question = format!("Question {number}: how many shapes are there?");
                let row = json!({"imagename": "scene-000.jpg", "question": question, "answer": "5", "capability": ["rec"]});
                (format!("v1_{number}"), row)
            })
            .collect();
        sandbox.put("mmvet/mm-vet.json", Value::Object(rows).to_string());
        let image = fs::read(sandbox.path("heldout/images/scene-000.jpg")).unwrap();
        sandbox.put("mmvet/images/scene-000.jpg", image);
        sandbox.put("judge-prompts/MMVet", "{{question}} | {{reference}} | {{answer}}");
        let benchmark = json!({"name": "MMVet", "location": {"volume": "mmvet", "path": ""}, "limit": null, "ocrTokens": false});
        let run = Run {
            adapters: vec![],
            benchmarks: json!([benchmark]),
            prompting: json!(["Direct"]),
            judged: true,
            ..Run::new("u")
        };
        let prepared = sandbox.result(&run.prepare());
        sandbox.result(&run.answer(&prepared, 1));
        Self { sandbox, run, prepared }
    }

    fn judge(&self, endpoint: &Value) -> Ended {
        self.sandbox.run(&self.run.judge(&self.prepared, endpoint))
    }

    fn scored(&self, judged: &Value) -> Value {
        let scored = self.sandbox.result(&self.run.score(&self.prepared, reference(judged, "Judgements")));
        scored["scores"][0]["of"][0].clone()
    }
}

fn grade(text: &str) -> Reply {
    Some((200, text.to_owned()))
}

fn number_of(request: &str) -> &str {
    request.strip_prefix("Question ").unwrap().split(':').next().unwrap()
}

#[test]
fn what_the_judge_does_not_grade_counts_as_not_judged_and_not_as_zero() {
    let answered = Answered::new();
    let server = JudgeServer::start(|request, before| match (before, number_of(request)) {
        (0, _) => Some((429, "slow down".into())),
        (1, _) => Some((500, "oops".into())),
        (_, "0") => grade("0.5"),
        (_, "1") => grade("1.0 because it is right"),
        _ => grade("I cannot say."),
    });
    let judged = answered.judge(&server.endpoint()).expect_exit(0, &["slow down", "oops"]).result();
    assert_eq!(judged["items"], json!({"total": 3, "done": 3, "skipped": 0}));
    // Two that failed, two grades, and six attempts at the third.
    assert_eq!(server.requests().len(), 2 + 2 + 6);
    assert_eq!(judged["message"], "3 judgements, 1 without a score; the run has sent 10 requests");
    assert_eq!(answered.scored(&judged), json!({"p": "75.0", "n": 2, "f": 1}));

    let rows = answered.sandbox.payload(&judged, "Judgements", "judgements.jsonl");
    let rows: Vec<Value> =
        String::from_utf8(rows).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let exchanges: Vec<usize> = rows.iter().map(|row| row["exchanges"].as_array().unwrap().len()).collect();
    assert_eq!((rows.len(), exchanges.iter().sum::<usize>()), (3, 8), "{rows:?}");
    assert!(
        rows[0]["exchanges"][0]["request"]["messages"][0]["content"].as_str().unwrap().contains(" | 5 | ")
    );

    // Nothing is asked twice: not by the same run, and not by another one on the volume.
    let again = answered.judge(&server.endpoint()).expect_exit(0, &[]).result();
    assert_eq!(again["artifacts"][0]["digest"], judged["artifacts"][0]["digest"]);
    let other = Run { uid: "other", ..answered.run.clone() };
    let shared = answered.sandbox.result(&other.judge(&answered.prepared, &server.endpoint()));
    assert_eq!(shared["artifacts"][0]["reused"], true);
    assert_eq!(server.requests().len(), 10);
    // From rerun 1 on, it is.
    let rerun = Run { rerun: 1, ..answered.run.clone() };
    let prepared = answered.sandbox.result(&rerun.prepare());
    answered.sandbox.result(&rerun.answer(&prepared, 1));
    answered.sandbox.result(&rerun.judge(&prepared, &server.endpoint()));
    assert_eq!(server.requests().len(), 10 + 8);
}

#[test]
fn the_score_is_the_mean_of_the_repeats() {
    let answered = Answered::new();
    let server = JudgeServer::start(|_, before| grade(if before < QUESTIONS { "0.0" } else { "1.0" }));
    let mut endpoint = server.endpoint();
    endpoint["repeats"] = json!(2);
    let judged = answered.judge(&endpoint).expect_exit(0, &[]).result();
    assert_eq!(server.requests().len(), 2 * QUESTIONS);
    let score = answered.scored(&judged);
    assert_eq!((&score["p"], &score["n"]), (&json!("50.0"), &json!(3)), "{score}");
}

#[test]
fn a_budget_that_is_used_up_stops_the_step_and_a_raised_one_continues_it() {
    let answered = Answered::new();
    let server = JudgeServer::start(|_, _| grade("1.0"));
    let mut endpoint = server.endpoint();
    endpoint["maxRequests"] = json!(2);
    let message = "the 2 requests of spec.judge.maxRequests are used up, and 1 answer is not judged yet";
    answered.judge(&endpoint).expect_exit(77, &[message, "are kept"]);
    answered.judge(&endpoint).expect_exit(77, &[message]);
    assert_eq!(server.requests().len(), 2);
    endpoint["maxRequests"] = json!(3);
    let judged = answered.judge(&endpoint).expect_exit(0, &[]).result();
    let mut requests = server.requests();
    requests.sort();
    requests.dedup();
    assert_eq!(requests.len(), 3, "no request is repeated");
    assert_eq!(server.requests().len(), 3);
    assert_eq!(answered.scored(&judged)["p"], "100.0");
}

#[test]
fn a_step_that_was_killed_or_interrupted_continues_with_the_replies_it_has() {
    let answered = Answered::new();
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = Arc::clone(&hangs);
    let server = JudgeServer::start(move |request, _| match number_of(request) {
        "1" if hanging.load(Ordering::Relaxed) => None,
        _ => grade("1.0"),
    });
    let config = answered.run.judge(&answered.prepared, &server.endpoint());
    let journalled = || {
        let folder = fs::read_dir(answered.sandbox.path("stic/out/judgements")).into_iter().flatten();
        let folders = folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        folders.map(|path| crate::sandbox::whole_lines(&path.join("u-0-00000.jsonl")).len()).sum::<usize>()
    };
    let asked = |number| server.requests().iter().filter(|request| number_of(request) == number).count();
    let mut running = answered.sandbox.start(&config, &[]);
    assert!(running.until(|| journalled() == QUESTIONS - 1 && asked("1") == 1));
    running.kill();
    let mut running = answered.sandbox.start(&config, &[]);
    assert!(running.until(|| asked("1") == 2));
    running.terminate();
    running.wait().expect_exit(75, &["interrupted"]);

    hangs.store(false, Ordering::Relaxed);
    let judged = answered.judge(&server.endpoint()).expect_exit(0, &[]).result();
    assert_eq!(["0", "1", "2"].map(asked), [1, 3, 1], "a reply is paid for once");
    assert_eq!(answered.scored(&judged)["p"], "100.0");
    assert!(judged["message"].as_str().unwrap().ends_with("the run has sent 5 requests"), "{judged}");
}

#[test]
fn a_judge_that_cannot_be_asked_is_an_error_that_says_how_to_fix_it() {
    let answered = Answered::new();
    let server = JudgeServer::start(|_, _| Some((401, format!("Incorrect API key provided: {KEY}"))));
    let mut endpoint = server.endpoint();
    endpoint["hasApiKey"] = json!(true);
    answered
        .judge(&endpoint)
        .expect_exit(64, &["STIC_JUDGE_API_KEY is not set", "spec.judge.apiKeySecretRef"]);
    assert!(server.requests().is_empty());
    let config = answered.run.judge(&answered.prepared, &endpoint);
    let refused = answered.sandbox.start_with_key(&config, &[], Some(KEY)).wait();
    let refused =
        refused.expect_exit(77, &["refuses requests: status 401", "Incorrect API key provided: [key]"]);
    assert!(!refused.log().contains(KEY), "{}", refused.log());

    answered.sandbox.put("judge-prompts/MMVet", "{{question}} | {{answer}}");
    let messages = ["MMVet: the judge's prompt has no {{reference}}"];
    answered.judge(&server.endpoint()).expect_exit(64, &messages);
    fs::remove_file(answered.sandbox.path("judge-prompts/MMVet")).unwrap();
    let messages = ["the judge has no prompt for MMVet", "spec.judge.promptsConfigMapRef"];
    answered.judge(&server.endpoint()).expect_exit(64, &messages);
}

#[test]
fn without_a_judge_prepare_says_what_has_no_score() {
    let answered = Answered::new();
    let run = Run { judged: false, ..answered.run.clone() };
    let prepared = answered.sandbox.result(&run.prepare());
    let message = prepared["message"].as_str().unwrap();
    assert!(message.starts_with("3 questions: MMVet 3; no score without spec.judge: MMVet; "), "{message}");
    let scored = answered.sandbox.result(&run.score(&prepared, Value::Null));
    assert_eq!(scored["scores"][0]["of"][0], json!({"n": 0, "f": 3}));
}
