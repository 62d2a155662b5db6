//! `kubectl-stic run` as a whole, with a trainer that keeps the contract and does no work.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const STAGE_ONE: &str = "
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: scenes}
spec:
  model: {volume: {claimName: models, path: llava}}
  images: {volume: {claimName: images}}
  output: {volume: {claimName: stic, path: scenes}}
";

const STAGE_TWO: &str = "
apiVersion: stic.dev/v1alpha1
kind: StageTwoRun
metadata: {name: scenes}
spec:
  initFrom: {stageOneRunRef: {name: scenes}}
  instructions: {volume: {claimName: instructions}, file: mix.json}
  images: {volume: {claimName: instructions}}
  output: {volume: {claimName: stic, path: scenes}}
";

/// A folder with manifests, volumes beside them, a work folder and the fake trainer's switches.
struct Bench {
    root: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().expect("a folder") };
        for folder in ["volumes/models", "volumes/images", "volumes/instructions", "fake"] {
            fs::create_dir_all(bench.path(folder)).expect("a folder");
        }
        bench.write("one.yaml", STAGE_ONE);
        bench.write("two.yaml", STAGE_TWO);
        bench
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        fs::write(self.path(relative), text).expect("it can be written");
    }

    fn switch(&self, name: &str, text: &str) {
        self.write(&format!("fake/{name}"), text);
    }

    fn command(&self, files: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
        command.current_dir(self.root.path()).env("FAKE_DIR", self.path("fake")).arg("run");
        for file in files {
            command.args(["-f", file]);
        }
        let trainer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-trainer.sh");
        command.args(["--work-dir", "work", "--trainer"]).arg(trainer);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, files: &[&str]) -> Ran {
        Ran::from(self.command(files).output().expect("it starts"))
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("fake/calls")).unwrap_or_default();
        text.lines().map(Into::into).collect()
    }

    fn status(&self, run: &str) -> Value {
        let text =
            fs::read_to_string(self.path(&format!("work/runs/default/{run}/status.json"))).expect("a status");
        serde_json::from_str(&text).expect("it is JSON")
    }

    fn wait_for_call(&self, call: &str) {
        let start = Instant::now();
        while !self.calls().iter().any(|line| line == call) {
            assert!(start.elapsed() < Duration::from_secs(300), "{call} was not called: {:?}", self.calls());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into(),
            err: String::from_utf8_lossy(&output.stderr).into(),
        }
    }
}

impl Ran {
    #[track_caller]
    fn ended(self, code: i32, saying: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        for text in saying {
            assert!(self.err.contains(text), "{text:?} is not in: {}", self.err);
        }
        self
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("it runs");
}

const ALL_STEPS: [&str; 6] = [
    "StageOneRun prepare 0",
    "StageOneRun generate 0",
    "StageOneRun train 0",
    "StageTwoRun prepare 0",
    "StageTwoRun describe 0",
    "StageTwoRun train 0",
];

#[test]
fn both_stages_run_in_order_whatever_the_order_of_files_and_a_second_call_does_nothing() {
    let bench = Bench::new();
    let first = bench.run(&["two.yaml", "one.yaml"]).ended(0, &["stagetworun/scenes train: done in"]);
    assert_eq!(bench.calls(), ALL_STEPS);
    assert!(first.out.contains("PeftModel.from_pretrained(model, \""), "{}", first.out);
    assert!(first.out.contains("adapter-"), "{}", first.out);
    assert_eq!(bench.status("stagetworun/scenes")["display"]["phase"], "Succeeded");
    assert_eq!(bench.status("stageonerun/scenes")["display"]["margin"], "0.200");
    bench.run(&["one.yaml", "two.yaml"]).ended(0, &["stageonerun/scenes train: done before"]);
    assert_eq!(bench.calls(), ALL_STEPS);
}

#[test]
fn an_artifact_is_found_by_its_run() {
    let bench = Bench::new();
    let artifact = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
        command.current_dir(bench.root.path()).args(["artifact", "--work-dir", "work"]).args(arguments);
        Ran::from(command.output().expect("it starts"))
    };
    artifact(&["s1/scenes"]).ended(64, &["stageonerun/scenes: no such run in work; run its manifest"]);
    bench.switch("fail-train", "65 items.jsonl:3: no prompt; mend the line");
    bench.run(&["one.yaml"]).ended(65, &[]);
    artifact(&["s1/scenes"]).ended(64, &["is not finished (phase DataInvalid); run its manifest again"]);
    fs::remove_file(bench.path("fake/fail-train")).expect("it is there");
    bench.run(&["one.yaml"]).ended(0, &[]);
    let found = artifact(&["stageonerun/scenes"]).ended(0, &[]);
    let folder = Path::new(found.out.trim_end());
    assert!(
        folder.join("_SUCCESS.json").is_file() && found.out.contains("/scenes/adapter-"),
        "{}",
        found.out
    );
    artifact(&["s1/scenes", "descriptions"]).ended(64, &["has no descriptions; it has prepared, "]);
}

#[test]
fn stage_two_finds_a_stage_one_of_an_earlier_command() {
    let bench = Bench::new();
    bench.run(&["one.yaml"]).ended(0, &[]);
    bench.run(&["two.yaml"]).ended(0, &[]);
    assert_eq!(bench.calls(), ALL_STEPS);
    let config =
        fs::read_to_string(bench.path("work/runs/default/stagetworun/scenes/train.json")).expect("a config");
    let config: Value = serde_json::from_str(&config).expect("it is JSON");
    let adapter = &config["task"]["train"]["adapter"];
    let made = &bench.status("stageonerun/scenes")["artifacts"][2];
    assert_eq!(adapter["digest"], made["digest"]);
    assert_eq!(adapter["location"]["path"], made["volume"]["path"]);
}

#[test]
fn a_reference_to_nothing_is_refused_before_anything_runs() {
    let bench = Bench::new();
    bench
        .run(&["two.yaml"])
        .ended(64, &["two.yaml:6: no StageOneRun scenes is among the manifests", "add its manifest with -f"]);
    assert!(bench.calls().is_empty());
}

#[test]
fn every_mistake_is_told_with_its_line_and_nothing_runs() {
    let bench = Bench::new();
    bench.write(
        "bad.yaml",
        &format!(
            "{STAGE_TWO}  trainin: {{}}\n---\n{STAGE_ONE}  seed: -1\n  training: {{dpo: {{beta: 0.1}}}}\n"
        ),
    );
    bench.run(&["one.yaml", "bad.yaml"]).ended(
        64,
        &[
            "nothing was done: 3 mistakes",
            "bad.yaml:10: unknown field \"spec.trainin\": did you mean training?",
            "bad.yaml:20: spec.seed: Invalid value: -1: spec.seed in body should be greater than or equal to 0",
            "bad.yaml:21: spec.training.dpo.beta: Invalid value: \"number\": spec.training.dpo.beta in body must be of type string: \"number\": put it in quotes: \"0.1\"",
        ],
    );
    assert!(bench.calls().is_empty());
}

#[test]
fn other_kinds_are_noted_and_duplicates_refused() {
    let bench = Bench::new();
    bench.write(
        "more.yaml",
        &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: research}}\n---{STAGE_ONE}"),
    );
    bench.run(&["more.yaml"]).ended(0, &["note: Namespace research (more.yaml:1) is left out"]);
    bench
        .run(&["one.yaml", "more.yaml"])
        .ended(64, &["more.yaml:7: StageOneRun scenes is already in one.yaml:2"]);
    bench.write("odd.yaml", "apiVersion: stic.dev/v1alpha1\nkind: StageThreeRun\nmetadata: {name: a}\n");
    bench.run(&["odd.yaml"]).ended(64, &["odd.yaml:2: no matches for kind \"StageThreeRun\""]);
}

#[test]
fn manifests_come_from_folders_and_from_standard_input() {
    let bench = Bench::new();
    bench.run(&["."]).ended(0, &[]);
    assert_eq!(bench.calls(), ALL_STEPS);
    let mut child = bench.command(&["-"]).stdin(Stdio::piped()).spawn().expect("it starts");
    let text = STAGE_ONE.replace("name: scenes", "name: other");
    std::io::Write::write_all(child.stdin.as_mut().expect("a pipe"), text.as_bytes()).expect("it is read");
    Ran::from(child.wait_with_output().expect("it ends")).ended(0, &["stageonerun/other train: done"]);
}

#[test]
fn a_missing_folder_of_stage_two_is_found_before_stage_one_runs() {
    let bench = Bench::new();
    fs::remove_dir(bench.path("volumes/instructions")).expect("it is empty");
    bench.run(&["one.yaml", "two.yaml"]).ended(
        64,
        &["volume instructions of scenes: no folder", "name its folder with --volume instructions=DIR"],
    );
    assert!(bench.calls().is_empty());
}

#[test]
fn a_changed_spec_is_refused_and_names_the_field() {
    let bench = Bench::new();
    bench.run(&["one.yaml"]).ended(0, &[]);
    bench.write("one.yaml", &format!("{STAGE_ONE}  training: {{epochs: 2}}\n"));
    bench.run(&["one.yaml"]).ended(
        64,
        &[
            "one.yaml:9: spec.training.epochs: Invalid value: 2: spec.training.epochs cannot change",
            "create a run with a new name",
        ],
    );
    // What decides no result may change, and a rerun starts over.
    bench.write("one.yaml", &format!("{STAGE_ONE}  backoff: {{limit: 1}}\n"));
    bench.run(&["one.yaml"]).ended(0, &["train: done before"]);
    bench.write("one.yaml", &format!("{STAGE_ONE}  rerun: 1\n"));
    bench.run(&["one.yaml"]).ended(0, &["train: done in"]);
    assert_eq!(bench.calls().len(), 6);
    assert_eq!(bench.status("stageonerun/scenes")["observedGeneration"], 3);
}

#[test]
fn a_failed_step_ends_with_the_trainers_code_and_words_and_is_mended_by_a_second_call() {
    let bench = Bench::new();
    bench.switch("fail-prepare", "65 images/a.jpg: not an image; remove it");
    bench.run(&["one.yaml", "two.yaml"]).ended(
        65,
        &[
            "stageonerun/scenes prepare: images/a.jpg: not an image; remove it",
            "log: ",
            "stageonerun/scenes/prepare.log",
        ],
    );
    assert_eq!(bench.calls(), ["StageOneRun prepare 0"]);
    let status = bench.status("stageonerun/scenes");
    assert_eq!(status["conditions"][0]["reason"], "DataInvalid");
    assert_eq!(status["conditions"][4]["status"], "True");
    fs::remove_file(bench.path("fake/fail-prepare")).expect("it was there");
    bench.switch("fail-train", "74 disk full; free space");
    bench.run(&["one.yaml"]).ended(74, &["stageonerun/scenes train: disk full; free space"]);
    fs::remove_file(bench.path("fake/fail-train")).expect("it was there");
    bench.run(&["one.yaml"]).ended(0, &["generate: done before", "train: done in"]);
    assert_eq!(bench.status("stageonerun/scenes")["conditions"][4]["status"], "False");
}

#[test]
fn an_undocumented_exit_code_is_a_bug() {
    let bench = Bench::new();
    bench.switch("fail-generate", "42 what");
    bench.run(&["one.yaml"]).ended(1, &["stageonerun/scenes generate: what"]);
}

#[test]
fn shards_run_one_after_another_and_all_count() {
    let bench = Bench::new();
    bench.write("one.yaml", &format!("{STAGE_ONE}  preferences: {{shards: 3}}\n"));
    bench.run(&["one.yaml"]).ended(0, &["generate: 30 items, done"]);
    let shards: Vec<String> = bench.calls().into_iter().filter(|call| call.contains("generate")).collect();
    assert_eq!(shards, ["StageOneRun generate 0", "StageOneRun generate 1", "StageOneRun generate 2"]);
}

#[test]
fn an_artifact_that_is_gone_is_made_again() {
    let bench = Bench::new();
    bench.run(&["one.yaml"]).ended(0, &[]);
    let adapter = bench.status("stageonerun/scenes")["artifacts"][2]["volume"]["path"].clone();
    let folder = bench.path("work/volumes/stic").join(adapter.as_str().expect("a path"));
    fs::remove_dir_all(folder).expect("it was there");
    bench.run(&["one.yaml"]).ended(0, &["generate: done before", "train: done in"]);
    assert_eq!(bench.calls().last().map(String::as_str), Some("StageOneRun train 0"));
}

#[test]
fn an_artifact_that_was_changed_is_not_taken_for_the_one_that_was_made() {
    let bench = Bench::new();
    bench.run(&["one.yaml"]).ended(0, &[]);
    let path = bench.status("stageonerun/scenes")["artifacts"][1]["volume"]["path"].clone();
    let folder = bench.path("work/volumes/stic").join(path.as_str().expect("a path"));
    fs::write(folder.join("preferences.jsonl"), "{}").expect("it can be written");
    bench.run(&["one.yaml"]).ended(65, &["preferences.jsonl: has digest ", "or delete its folder"]);
    fs::remove_dir_all(folder).expect("it was there");
    bench.run(&["one.yaml"]).ended(0, &["prepare: done before", "train: done in"]);
}

#[test]
fn an_interrupt_reaches_the_trainer_once_and_the_same_command_goes_on() {
    for sent in [Signal::INT, Signal::TERM] {
        let bench = Bench::new();
        bench.switch("slow-train", "");
        let child = bench.command(&["one.yaml", "two.yaml"]).spawn().expect("it starts");
        bench.wait_for_call("StageOneRun train 0");
        signal(&child, sent);
        Ran::from(child.wait_with_output().expect("it ends")).ended(
            75,
            &[
                "saving; press Ctrl-C again",
                "train: interrupted and saved; run the same command again to go on",
            ],
        );
        assert_eq!(bench.calls().iter().filter(|call| *call == "SIGTERM").count(), 1);
        fs::remove_file(bench.path("fake/slow-train")).expect("it was there");
        bench.run(&["one.yaml", "two.yaml"]).ended(0, &["stageonerun/scenes generate: done before"]);
    }
}

#[test]
fn a_second_interrupt_kills() {
    let bench = Bench::new();
    bench.switch("deaf-generate", "");
    let child = bench.command(&["one.yaml"]).spawn().expect("it starts");
    bench.wait_for_call("StageOneRun generate 0");
    signal(&child, Signal::INT);
    bench.wait_for_call("SIGTERM");
    signal(&child, Signal::INT);
    // By itself it would work for a minute and end with 1.
    Ran::from(child.wait_with_output().expect("it ends")).ended(75, &["stopped at once"]);
}

#[test]
fn two_commands_do_not_share_a_run() {
    let bench = Bench::new();
    bench.switch("slow-prepare", "");
    let child = bench.command(&["one.yaml"]).spawn().expect("it starts");
    bench.wait_for_call("StageOneRun prepare 0");
    bench.run(&["one.yaml"]).ended(64, &["another kubectl stic run has", "open; wait for it"]);
    signal(&child, Signal::TERM);
    Ran::from(child.wait_with_output().expect("it ends")).ended(75, &[]);
}

#[test]
fn json_is_what_programs_get() {
    let bench = Bench::new();
    let output = bench.command(&["one.yaml"]).args(["-o", "json"]).output().expect("it starts");
    let runs: Value = serde_json::from_slice(&output.stdout).expect("it is JSON and nothing else");
    assert_eq!(runs[0]["run"]["status"]["display"]["phase"], "Succeeded");
    let folder = runs[0]["artifacts"][2]["folder"].as_str().expect("a folder");
    assert!(Path::new(folder).join("adapter_model.safetensors").is_file());
}

#[test]
fn bad_arguments_are_64_and_a_missing_trainer_is_named() {
    let bench = Bench::new();
    let mut bare = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
    Ran::from(bare.arg("run").output().expect("it starts")).ended(64, &["--filename"]);
    let mut lost = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
    lost.current_dir(bench.root.path()).args(["run", "-f", "one.yaml", "--trainer", "nowhere"]);
    Ran::from(lost.output().expect("it starts")).ended(64, &["--trainer nowhere: there is no such file"]);
}
