//! `kubectl-stic run` as a program, with a fake trainer that follows the contract and does no work.
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

/// A folder with manifests, their volumes, a work folder and the switches of the fake trainer.
struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self { root: tempfile::tempdir().expect("a folder") };
        for folder in ["volumes/models", "volumes/images", "volumes/instructions", "fake"] {
            fs::create_dir_all(sandbox.path(folder)).expect("a folder");
        }
        sandbox.write("one.yaml", STAGE_ONE);
        sandbox.write("two.yaml", STAGE_TWO);
        sandbox
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

    fn run(&self, files: &[&str]) -> CommandOutput {
        CommandOutput::from(self.command(files).output().expect("it starts"))
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

struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into(),
            err: String::from_utf8_lossy(&output.stderr).into(),
        }
    }
}

impl CommandOutput {
    #[track_caller]
    fn expect_exit(self, code: i32, messages: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        for text in messages {
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
fn both_stages_run_in_order_and_a_second_command_skips_them() {
    let sandbox = Sandbox::new();
    let first = sandbox.run(&["two.yaml", "one.yaml"]).expect_exit(0, &["stagetworun/scenes train: done in"]);
    assert_eq!(sandbox.calls(), ALL_STEPS);
    assert!(first.out.contains("PeftModel.from_pretrained(model, \""), "{}", first.out);
    assert!(first.out.contains("adapter-"), "{}", first.out);
    assert_eq!(sandbox.status("stagetworun/scenes")["display"]["phase"], "Succeeded");
    assert_eq!(sandbox.status("stageonerun/scenes")["display"]["margin"], "0.200");
    sandbox.run(&["one.yaml", "two.yaml"]).expect_exit(0, &["stageonerun/scenes train: already done"]);
    assert_eq!(sandbox.calls(), ALL_STEPS);
}

#[test]
fn artifact_prints_the_folder_of_a_run_s_artifact() {
    let sandbox = Sandbox::new();
    let artifact = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
        command.current_dir(sandbox.root.path()).args(["artifact", "--work-dir", "work"]).args(arguments);
        CommandOutput::from(command.output().expect("it starts"))
    };
    artifact(&["s1/scenes"])
        .expect_exit(64, &["stageonerun/scenes has not run in the work folder work. Run its manifest"]);
    sandbox.switch("fail-train", "65 items.jsonl:3: no prompt. Fix the line.");
    sandbox.run(&["one.yaml"]).expect_exit(65, &[]);
    artifact(&["s1/scenes"])
        .expect_exit(64, &["has not succeeded (phase DataInvalid). Run its manifest again."]);
    fs::remove_file(sandbox.path("fake/fail-train")).expect("it is there");
    sandbox.run(&["one.yaml"]).expect_exit(0, &[]);
    let found = artifact(&["stageonerun/scenes"]).expect_exit(0, &[]);
    let folder = Path::new(found.out.trim_end());
    assert!(
        folder.join("_SUCCESS.json").is_file() && found.out.contains("/scenes/adapter-"),
        "{}",
        found.out
    );
    artifact(&["s1/scenes", "descriptions"])
        .expect_exit(64, &["has no artifact descriptions. It has prepared, "]);
}

#[test]
fn stage_two_starts_from_a_stage_one_of_an_earlier_command() {
    let sandbox = Sandbox::new();
    sandbox.run(&["one.yaml"]).expect_exit(0, &[]);
    sandbox.run(&["two.yaml"]).expect_exit(0, &[]);
    assert_eq!(sandbox.calls(), ALL_STEPS);
    let config = fs::read_to_string(sandbox.path("work/runs/default/stagetworun/scenes/train.json"))
        .expect("a config");
    let config: Value = serde_json::from_str(&config).expect("it is JSON");
    let adapter = &config["task"]["train"]["adapter"];
    let produced = &sandbox.status("stageonerun/scenes")["artifacts"][2];
    assert_eq!(adapter["digest"], produced["digest"]);
    assert_eq!(adapter["location"]["path"], produced["volume"]["path"]);
}

#[test]
fn a_reference_to_a_missing_run_is_refused_before_anything_runs() {
    let sandbox = Sandbox::new();
    sandbox.run(&["two.yaml"]).expect_exit(
        64,
        &["two.yaml:6: there is no StageOneRun scenes among the manifests", "Add its manifest with -f"],
    );
    assert!(sandbox.calls().is_empty());
}

#[test]
fn every_mistake_is_reported_with_its_line_and_nothing_runs() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "bad.yaml",
        &format!(
            "{STAGE_TWO}  trainin: {{}}\n---\n{STAGE_ONE}  seed: -1\n  training: {{dpo: {{beta: 0.1}}}}\n"
        ),
    );
    sandbox.run(&["one.yaml", "bad.yaml"]).expect_exit(
        64,
        &[
            "nothing was done: 3 mistakes",
            "bad.yaml:10: unknown field \"spec.trainin\": did you mean training?",
            "bad.yaml:20: spec.seed: Invalid value: -1: spec.seed in body should be greater than or equal to 0",
            "bad.yaml:21: spec.training.dpo.beta: Invalid value: \"number\": spec.training.dpo.beta in body must be of type string: \"number\": put it in quotes: \"0.1\"",
        ],
    );
    assert!(sandbox.calls().is_empty());
}

#[test]
fn other_kinds_are_skipped_and_duplicates_refused() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "more.yaml",
        &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: research}}\n---{STAGE_ONE}"),
    );
    sandbox.run(&["more.yaml"]).expect_exit(0, &["note: skipped Namespace research (more.yaml:1)"]);
    sandbox
        .run(&["one.yaml", "more.yaml"])
        .expect_exit(64, &["more.yaml:7: stageonerun/scenes is already in one.yaml:2"]);
    sandbox.write("odd.yaml", "apiVersion: stic.dev/v1alpha1\nkind: StageThreeRun\nmetadata: {name: a}\n");
    sandbox.run(&["odd.yaml"]).expect_exit(64, &["odd.yaml:2: no matches for kind \"StageThreeRun\""]);
}

#[test]
fn manifests_are_read_from_folders_and_from_standard_input() {
    let sandbox = Sandbox::new();
    sandbox.run(&["."]).expect_exit(0, &[]);
    assert_eq!(sandbox.calls(), ALL_STEPS);
    let mut child = sandbox.command(&["-"]).stdin(Stdio::piped()).spawn().expect("it starts");
    let text = STAGE_ONE.replace("name: scenes", "name: other");
    std::io::Write::write_all(child.stdin.as_mut().expect("a pipe"), text.as_bytes()).expect("it is read");
    CommandOutput::from(child.wait_with_output().expect("it ends"))
        .expect_exit(0, &["stageonerun/other train: done"]);
}

#[test]
fn a_folder_without_manifests_and_a_volume_that_nothing_uses_are_named() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("nested/deeper")).expect("folders");
    sandbox.write("nested/deeper/one.yaml", STAGE_ONE);
    sandbox.run(&["nested"]).expect_exit(
        64,
        &["no StageOneRun, StageTwoRun or EvaluationRun in nested (subfolders are not searched)"],
    );
    let mut command = sandbox.command(&["one.yaml"]);
    let output = command.args(["--volume", "model=/nope"]).output().expect("it runs");
    CommandOutput::from(output)
        .expect_exit(0, &["note: --volume model is not used: the manifests name the claims"]);
}

#[test]
fn a_missing_folder_of_stage_two_is_found_before_stage_one_runs() {
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.path("volumes/instructions")).expect("it is empty");
    sandbox.run(&["one.yaml", "two.yaml"]).expect_exit(
        64,
        &[
            "volume instructions of scenes: there is neither a folder",
            "Give its folder with --volume instructions=DIR",
        ],
    );
    assert!(sandbox.calls().is_empty());
}

#[test]
fn a_changed_spec_is_refused_with_the_name_of_the_field() {
    let sandbox = Sandbox::new();
    sandbox.run(&["one.yaml"]).expect_exit(0, &[]);
    sandbox.write("one.yaml", &format!("{STAGE_ONE}  training: {{epochs: 2}}\n"));
    sandbox.run(&["one.yaml"]).expect_exit(
        64,
        &[
            "one.yaml:9: spec.training.epochs: Invalid value: 2: spec.training.epochs is immutable",
            "create a run with a new name",
        ],
    );
    // Fields that do not determine the result can change, and a rerun starts from scratch.
    sandbox.write("one.yaml", &format!("{STAGE_ONE}  backoff: {{limit: 1}}\n"));
    sandbox.run(&["one.yaml"]).expect_exit(0, &["train: already done"]);
    sandbox.write("one.yaml", &format!("{STAGE_ONE}  rerun: 1\n"));
    sandbox.run(&["one.yaml"]).expect_exit(0, &["train: done in"]);
    assert_eq!(sandbox.calls().len(), 6);
    assert_eq!(sandbox.status("stageonerun/scenes")["observedGeneration"], 3);
}

#[test]
fn a_failed_step_exits_with_the_trainer_s_code_and_message_and_a_second_command_retries_it() {
    let sandbox = Sandbox::new();
    sandbox.switch("fail-prepare", "65 images/a.jpg: not an image. Remove it.");
    sandbox.run(&["one.yaml", "two.yaml"]).expect_exit(
        65,
        &[
            "stageonerun/scenes prepare: images/a.jpg: not an image. Remove it.",
            "log: ",
            "stageonerun/scenes/prepare.log",
        ],
    );
    assert_eq!(sandbox.calls(), ["StageOneRun prepare 0"]);
    let status = sandbox.status("stageonerun/scenes");
    assert_eq!(status["conditions"][0]["reason"], "DataInvalid");
    assert_eq!(status["conditions"][4]["status"], "True");
    fs::remove_file(sandbox.path("fake/fail-prepare")).expect("it was there");
    sandbox.switch("fail-train", "74 disk full. Free space.");
    sandbox.run(&["one.yaml"]).expect_exit(74, &["stageonerun/scenes train: disk full. Free space."]);
    fs::remove_file(sandbox.path("fake/fail-train")).expect("it was there");
    sandbox.run(&["one.yaml"]).expect_exit(0, &["generate: already done", "train: done in"]);
    assert_eq!(sandbox.status("stageonerun/scenes")["conditions"][4]["status"], "False");
}

#[test]
fn an_undocumented_exit_code_is_a_bug() {
    let sandbox = Sandbox::new();
    sandbox.switch("fail-generate", "42 what");
    sandbox.run(&["one.yaml"]).expect_exit(1, &["stageonerun/scenes generate: what"]);
}

#[test]
fn shards_run_one_after_another_and_their_items_add_up() {
    let sandbox = Sandbox::new();
    sandbox.write("one.yaml", &format!("{STAGE_ONE}  preferences: {{shards: 3}}\n"));
    sandbox.run(&["one.yaml"]).expect_exit(0, &["generate: 30 items, done"]);
    let shards: Vec<String> = sandbox.calls().into_iter().filter(|call| call.contains("generate")).collect();
    assert_eq!(shards, ["StageOneRun generate 0", "StageOneRun generate 1", "StageOneRun generate 2"]);
}

#[test]
fn a_deleted_artifact_is_created_again() {
    let sandbox = Sandbox::new();
    sandbox.run(&["one.yaml"]).expect_exit(0, &[]);
    let adapter = sandbox.status("stageonerun/scenes")["artifacts"][2]["volume"]["path"].clone();
    let folder = sandbox.path("work/volumes/stic").join(adapter.as_str().expect("a path"));
    fs::remove_dir_all(folder).expect("it was there");
    sandbox.run(&["one.yaml"]).expect_exit(0, &["generate: already done", "train: done in"]);
    assert_eq!(sandbox.calls().last().map(String::as_str), Some("StageOneRun train 0"));
}

#[test]
fn a_changed_artifact_is_not_reused() {
    let sandbox = Sandbox::new();
    sandbox.run(&["one.yaml"]).expect_exit(0, &[]);
    let path = sandbox.status("stageonerun/scenes")["artifacts"][1]["volume"]["path"].clone();
    let folder = sandbox.path("work/volumes/stic").join(path.as_str().expect("a path"));
    fs::write(folder.join("preferences.jsonl"), "{}").expect("it can be written");
    sandbox
        .run(&["one.yaml"])
        .expect_exit(65, &["preferences.jsonl: the file has changed", "or delete its folder"]);
    fs::remove_dir_all(folder).expect("it was there");
    sandbox.run(&["one.yaml"]).expect_exit(0, &["prepare: already done", "train: done in"]);
}

#[test]
fn an_interrupt_reaches_the_trainer_once_and_the_same_command_resumes() {
    for sent in [Signal::INT, Signal::TERM] {
        let sandbox = Sandbox::new();
        sandbox.switch("slow-train", "");
        let child = sandbox.command(&["one.yaml", "two.yaml"]).spawn().expect("it starts");
        sandbox.wait_for_call("StageOneRun train 0");
        signal(&child, sent);
        CommandOutput::from(child.wait_with_output().expect("it ends")).expect_exit(
            75,
            &[
                "saving the state; press Ctrl-C again",
                "train: interrupted, and the state was saved. Run the same command again to resume.",
            ],
        );
        assert_eq!(sandbox.calls().iter().filter(|call| *call == "SIGTERM").count(), 1);
        fs::remove_file(sandbox.path("fake/slow-train")).expect("it was there");
        sandbox.run(&["one.yaml", "two.yaml"]).expect_exit(0, &["stageonerun/scenes generate: already done"]);
    }
}

#[test]
fn a_second_interrupt_kills() {
    let sandbox = Sandbox::new();
    sandbox.switch("stubborn-generate", "");
    let child = sandbox.command(&["one.yaml"]).spawn().expect("it starts");
    sandbox.wait_for_call("StageOneRun generate 0");
    signal(&child, Signal::INT);
    sandbox.wait_for_call("SIGTERM");
    signal(&child, Signal::INT);
    // Without the signal, the trainer would run for a minute and exit with 1.
    CommandOutput::from(child.wait_with_output().expect("it ends")).expect_exit(75, &["generate: killed"]);
}

#[test]
fn two_commands_do_not_share_a_run() {
    let sandbox = Sandbox::new();
    sandbox.switch("slow-prepare", "");
    let child = sandbox.command(&["one.yaml"]).spawn().expect("it starts");
    sandbox.wait_for_call("StageOneRun prepare 0");
    sandbox.run(&["one.yaml"]).expect_exit(64, &["another kubectl stic run uses", "Wait for it"]);
    signal(&child, Signal::TERM);
    CommandOutput::from(child.wait_with_output().expect("it ends")).expect_exit(75, &[]);
}

#[test]
fn json_output_is_only_json() {
    let sandbox = Sandbox::new();
    let output = sandbox.command(&["one.yaml"]).args(["-o", "json"]).output().expect("it starts");
    let runs: Value = serde_json::from_slice(&output.stdout).expect("it is JSON and nothing else");
    assert_eq!(runs[0]["run"]["status"]["display"]["phase"], "Succeeded");
    let folder = runs[0]["artifacts"][2]["folder"].as_str().expect("a folder");
    assert!(Path::new(folder).join("adapter_model.safetensors").is_file());
}

#[test]
fn invalid_arguments_exit_with_64_and_a_missing_trainer_is_reported() {
    let sandbox = Sandbox::new();
    let mut bare = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
    CommandOutput::from(bare.arg("run").output().expect("it starts")).expect_exit(64, &["--filename"]);
    let mut lost = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
    lost.current_dir(sandbox.root.path()).args(["run", "-f", "one.yaml", "--trainer", "nowhere"]);
    CommandOutput::from(lost.output().expect("it starts"))
        .expect_exit(64, &["--trainer nowhere: no such file"]);
}
