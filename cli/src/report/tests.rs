//! A small report in every format, from a work folder as `kubectl stic run` leaves it, and from statuses.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::assemble::assemble;
use super::gather::{SourceRun, local, on_cluster};
use super::model::Report;
use super::render;
use crate::args::ReportFormat;
use crate::run_name::RunName;

fn row(
    benchmark: &str,
    prompting: &str,
    metric: &str,
    subject: &str,
    score: f64,
    difference: Option<[f64; 3]>,
) -> Value {
    let estimate = |[points, low, high]: [f64; 3]| json!({"points": points, "standardError": 1.0, "low": low, "high": high, "method": "Score", "few": false});
    json!({
        "benchmark": benchmark, "prompting": prompting, "scorer": "LLaVA", "metric": metric, "subject": subject,
        "score": {"estimate": estimate([score, score - 2.0, score + 2.0]), "counted": 218, "unresolved": 3, "failed": 1, "clusters": 218},
        "difference": difference.map(|of| json!({"estimate": estimate(of), "pairs": 217, "leftOut": 1, "clusters": 217})),
    })
}

fn results() -> Value {
    json!([
        row("ScienceQA", "Direct", "imageAccuracy", "base", 68.9, None),
        row("ScienceQA", "Direct", "imageAccuracy", "stic-6k", 73.25, Some([4.35, 2.9, 5.8])),
        row("ScienceQA", "Direct", "imageAccuracy", "stic-12k", 75.0, Some([6.1, 4.7, 7.5])),
        row("ScienceQA", "Direct", "accuracy", "base", 70.0, None),
        row("ScienceQA", "Direct", "accuracy", "stic-6k", 72.0, Some([2.0, 1.0, 3.0])),
        row("ScienceQA", "Direct", "accuracy", "stic-12k", 73.0, Some([3.0, 2.0, 4.0])),
        row("ScienceQA", "DescribeAndRespond", "imageAccuracy", "base", 69.5, None),
        row("ScienceQA", "DescribeAndRespond", "imageAccuracy", "stic-6k", 74.0, Some([4.5, 3.0, 6.0])),
        row("ScienceQA", "DescribeAndRespond", "imageAccuracy", "stic-12k", 76.0, Some([6.5, 5.0, 8.0])),
        row("MMVet", "Direct", "total", "base", 42.0, None),
        row("MMVet", "Direct", "total", "stic-6k", 44.0, Some([2.0, -2.5, 6.5])),
        row("MMVet", "Direct", "total", "stic-12k", 44.5, Some([2.5, -2.1, 7.1])),
        {
            "benchmark": "POPE", "prompting": "Direct", "scorer": "LLaVA", "metric": "f1", "subject": "base",
            "score": {"estimate": null, "counted": 0, "unresolved": 0, "failed": 0, "clusters": 0}, "difference": null,
        },
    ])
}

fn conditions(succeeded: &str, reason: &str) -> Value {
    json!([{"type": "Succeeded", "status": succeeded, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn artifact(kind: &str, path: &str, step: &str) -> Value {
    json!([{
        "kind": kind, "volume": {"claimName": "stic", "path": path}, "digest": "sha256:00", "sizeBytes": 1, "step": step, "state": "Created",
    }])
}

fn evaluation_spec() -> Value {
    json!({"subjects": [
        {"name": "base", "model": {"volume": {"claimName": "models", "path": "llava-v1.6-mistral-7b-hf"}}},
        {"name": "stic-6k", "stageOneRunRef": {"name": "coco-6k"}},
        {"name": "stic-12k", "stageTwoRunRef": {"name": "coco-12k"}},
    ]})
}

fn evaluation_status(path: &str) -> Value {
    json!({
        "conditions": conditions("True", "Succeeded"),
        "artifacts": artifact("Results", "results-1", "score"),
        "inputs": {"subjects": [{"name": "base", "model": {"volume": {"claimName": "models", "path": path}}}]},
        "results": [
            {"benchmark": "ScienceQA", "prompting": "Direct", "scorer": "LLaVA", "subject": "base", "score": "68.9",
             "answered": 2017, "unresolved": 4, "judgeFailed": 0},
            {"benchmark": "ScienceQA", "prompting": "Direct", "scorer": "LLaVA", "subject": "stic-6k", "score": "73.3",
             "answered": 2017, "unresolved": 2, "judgeFailed": 0,
             "difference": {"to": "base", "points": "+4.4", "low": "+2.9", "high": "+5.8"}},
        ],
    })
}

fn training_status(images: u64) -> Value {
    json!({
        "conditions": conditions("True", "Succeeded"),
        "artifacts": artifact("Adapter", "adapter-1", "train"),
        "inputs": {"images": {"count": images, "digest": "sha256:00"}},
        "display": {"loss": "0.610", "margin": "0.080"},
    })
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, value.to_string()).expect("a file");
}

fn add_run(work: &Path, name: &str, spec: &Value, status: &Value) {
    let dir = work.join("runs/default").join(name);
    write(&dir.join("manifest.json"), &json!({"metadata": {"name": name}, "spec": spec}));
    write(&dir.join("status.json"), status);
}

/// The steps of a training, the last of them cut off.
fn write_metrics(work: &Path, name: &str, steps: u32, values: impl Fn(f64) -> Value) {
    let mut text = String::new();
    for step in 1..=steps {
        let mut line = values(f64::from(step));
        line["step"] = json!(step);
        line["epoch"] = json!(f64::from(step) / f64::from(steps));
        line["tokens/s"] = json!(1500 + step);
        text.push_str(&format!("{line}\n"));
    }
    text.push_str("{\"step\":91,\"lo");
    let dir = work.join("mounts/default").join(name).join("stic/adapter-1");
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join("metrics.jsonl"), text).expect("a file");
}

/// A work folder with an evaluation of two trained models, and a training that has not finished.
fn work_folder() -> tempfile::TempDir {
    let work = tempfile::tempdir().expect("a folder");
    let root = work.path();
    add_run(root, "evaluationrun/coco", &evaluation_spec(), &evaluation_status("llava-v1.6-mistral-7b-hf"));
    write(&root.join("mounts/default/evaluationrun/coco/stic/results-1/results.json"), &results());
    for (name, images, steps) in [("stageonerun/coco-6k", 6_000, 90), ("stageonerun/coco-12k", 12_000, 3)] {
        add_run(root, name, &json!({}), &training_status(images));
        write_metrics(root, name, steps, |step| {
            let margin = step / 1000.0;
            json!({"loss": 0.7 - margin, "rewards/margins": margin, "rewards/accuracies": 0.5 + margin, "logps/chosen": null})
        });
    }
    let from_12k = json!({"initFrom": {"stageOneRunRef": {"name": "coco-12k"}}});
    let mut tuned = training_status(0);
    tuned["inputs"] = json!({});
    add_run(root, "stagetworun/coco-12k", &from_12k, &tuned);
    write_metrics(root, "stagetworun/coco-12k", 2, |step| json!({"loss": 1.5 - step / 10.0}));
    add_run(root, "stagetworun/next", &from_12k, &json!({"conditions": conditions("Unknown", "Training")}));
    work
}

fn report_of(work: &Path, names: &[&str], paper: bool) -> Report {
    let names: Vec<RunName> = names.iter().map(|name| name.parse().expect("a name")).collect();
    let runs = local(work, "default", &names).expect("it is read");
    assemble("work folder work".into(), &runs, paper)
}

#[test]
fn a_work_folder_as_text_with_the_paper_s_claims() {
    let report = report_of(work_folder().path(), &[], true);
    insta::assert_snapshot!(render(&report, ReportFormat::Text));
}

#[test]
fn a_work_folder_as_markdown() {
    let report = report_of(work_folder().path(), &[], false);
    insta::assert_snapshot!(render(&report, ReportFormat::Markdown));
}

#[test]
fn a_work_folder_as_csv() {
    let report = report_of(work_folder().path(), &[], true);
    insta::assert_snapshot!(render(&report, ReportFormat::Csv));
}

#[test]
fn a_work_folder_as_html() {
    let page = render(&report_of(work_folder().path(), &[], true), ReportFormat::Html);
    assert!(
        !page.contains("<script") && !page.contains("http://") && !page.contains("https://"),
        "it needs no network"
    );
    let count = |text: &str| page.matches(text).count();
    assert_eq!(count("<figure"), count("The numbers of this figure"), "every figure has a table");
    assert_eq!(
        count("<figure"),
        13,
        "gains, scores, images, twice four curves of stage 1 and two of stage 2"
    );
    insta::assert_snapshot!(page);
}

#[test]
fn named_runs_bring_the_runs_that_they_refer_to() {
    let work = work_folder();
    let names = |wanted: &[&str]| -> Vec<String> {
        let names: Vec<RunName> = wanted.iter().map(|name| name.parse().expect("a name")).collect();
        let runs = local(work.path(), "default", &names).expect("it is read");
        runs.iter().map(|run| run.name.to_string()).collect()
    };
    assert_eq!(names(&["s2/coco-12k"]), ["stageonerun/coco-12k", "stagetworun/coco-12k"]);
    assert_eq!(names(&["ev/coco"]).len(), 4);
    let missing =
        local(work.path(), "default", &[RunName::new(stic_contract::RunKind::EvaluationRun, "other")]);
    let message = missing.expect_err("there is none").message.expect("a message");
    assert!(message.starts_with("evaluationrun/other has not run in the work folder"), "{message}");
}

#[test]
fn missing_files_leave_the_headlines_and_a_note() {
    let work = work_folder();
    fs::remove_file(work.path().join("mounts/default/evaluationrun/coco/stic/results-1/results.json"))
        .expect("it is removed");
    fs::remove_dir_all(work.path().join("mounts/default/stageonerun/coco-6k")).expect("it is removed");
    let report = report_of(work.path(), &["ev/coco"], false);
    assert_eq!(report.evaluations[0].rows.len(), 2);
    let score = report.evaluations[0].rows[1].score.expect("a score");
    assert_eq!((score.points, score.interval), (73.3, None));
    let notes = report.notes.join("\n");
    assert!(notes.contains("evaluationrun/coco: ") && notes.contains("results.json is missing"), "{notes}");
    assert!(notes.contains("stageonerun/coco-6k: "), "{notes}");
    assert_eq!(report.trainings[1].last.get("loss"), Some(&0.61));
    let page = render(&report, ReportFormat::Html);
    assert!(
        page.contains("Gains on benchmarks") && !page.contains("tokens/s, stageonerun/coco-6k"),
        "{page}"
    );
}

#[test]
fn an_empty_work_folder_says_so_and_has_the_expectations() {
    let work = tempfile::tempdir().expect("a folder");
    let text = render(&report_of(work.path(), &[], true), ReportFormat::Text);
    assert!(text.contains("There is no EvaluationRun in work folder work."), "{text}");
    assert!(text.contains("no data; cannot be shown with 60 questions"), "{text}");
    assert!(text.contains("no data; can be shown with 2017 questions"), "{text}");
}

fn source(name: &str, spec: Value, status: &Value) -> SourceRun {
    SourceRun {
        name: name.parse().expect("a name"),
        spec,
        status: serde_json::from_value(status.clone()).expect("a status"),
        results: None,
        steps: Vec::new(),
        notes: Vec::new(),
    }
}

#[test]
fn names_from_outside_are_escaped_in_every_format() {
    let evil = "a|b<script>alert(\"x\")</script>,&'\u{1b}[2J";
    let mut status = evaluation_status("other");
    for result in status["results"].as_array_mut().expect("results") {
        result["subject"] = json!(evil);
    }
    let mut run = source("ev/coco", json!({}), &status);
    run.notes.push(format!("{evil}: no results yet."));
    let report = assemble(evil.into(), &[run], false);
    let html = render(&report, ReportFormat::Html);
    assert!(
        !html.contains("<script")
            && html.contains("a|b&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;,&amp;&#39;"),
        "{html}"
    );
    let markdown = render(&report, ReportFormat::Markdown);
    assert!(!markdown.contains("<script") && markdown.contains("a\\|b&lt;script&gt;"), "{markdown}");
    let csv = render(&report, ReportFormat::Csv);
    assert!(csv.contains(",\"a|b<script>alert(\"\"x\"\")</script>,&'"), "{csv}");
    let text = render(&report, ReportFormat::Text);
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_baseline_is_a_published_model_only_under_exactly_its_name() {
    for (path, expected) in [
        ("llava-v1.6-mistral-7b-hf", Some("LLaVA-v1.6-7B")),
        ("models/llava-1.5-7b-hf/", Some("LLaVA-v1.5-7B")),
        ("liuhaotian/LLaVA-v1.5-7b", Some("LLaVA-v1.5-7B")),
        ("llava-v1.6-vicuna-7b-hf", None),
        ("llava-1.5-7b-hf-finetuned", None),
        ("base", None),
    ] {
        let report =
            assemble(String::new(), &[source("ev/coco", json!({}), &evaluation_status(path))], false);
        assert_eq!(report.evaluations[0].model.map(|model| model.as_str()), expected, "{path}");
        let text = render(&report, ReportFormat::Text);
        assert_eq!(text.contains("does not say which of the paper's models"), expected.is_none(), "{path}");
    }
}

#[test]
fn a_claim_is_judged_by_the_half_width_of_the_data() {
    let report = report_of(work_folder().path(), &[], true);
    let verdicts: Vec<String> = report
        .claims
        .expect("they were asked for")
        .iter()
        .map(|of| {
            let (claim, half_width) = (&of.claim, of.half_width);
            format!(
                "{} {} {} {half_width:.1}: {}",
                claim.model.as_str(),
                claim.what,
                claim.benchmark,
                of.verdict_text()
            )
        })
        .collect();
    for expected in [
        "LLaVA-v1.6-7B + STIC, both direct ScienceQA 1.4: can be shown",
        "LLaVA-v1.6-7B + STIC, both direct MMVet 4.6: cannot be shown with 217 questions",
        "LLaVA-v1.6-7B + STIC, both with DaR MMVet 4.7: no data; cannot be shown with 218 questions",
        "LLaVA-v1.6-7B + STIC, 12k instead of 6k images LLaVABench 5.2: no data; cannot be shown with 60 questions",
    ] {
        assert!(verdicts.iter().any(|verdict| verdict == expected), "{expected}: {verdicts:#?}");
    }
}

#[test]
fn a_cluster_s_run_without_files_says_where_they_are() {
    let status = serde_json::from_value(evaluation_status("llava-1.5-7b-hf")).expect("a status");
    let name: RunName = "ev/coco".parse().expect("a name");
    let run = on_cluster(name, &json!({"spec": evaluation_spec()}), status);
    let report = assemble("namespace research".into(), &[run], false);
    assert_eq!(
        report.notes,
        [
            "evaluationrun/coco: the intervals of scores and all other metrics are in results.csv in the folder results-1 of the claim stic."
        ]
    );
    let text = render(&report, ReportFormat::Text);
    assert!(text.contains("+2.9 to +5.8") && text.contains("headline"), "{text}");
}
