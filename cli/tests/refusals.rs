//! Manifests that are refused, each with file, line and mend, before anything runs; and a full disk.
#![expect(clippy::unwrap_used, reason = "a test ends where its inputs are not what they should be")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const GOOD: &str = "apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: scenes}
spec:
  model: {volume: {claimName: models, path: llava}}
  images: {volume: {claimName: images}}
  output: {volume: {claimName: stic, path: scenes}}
";

const TRAINER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-trainer.sh");

struct Bench {
    root: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().unwrap() };
        for folder in ["volumes/models", "volumes/images", "fake"] {
            fs::create_dir_all(bench.path(folder)).unwrap();
        }
        bench
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.root.path()).env("FAKE_DIR", self.path("fake"));
        command
    }

    fn run(&self, manifest: &str) -> Output {
        let args = ["run", "-f", manifest, "--work-dir", "work", "--trainer", TRAINER];
        self.command(env!("CARGO_BIN_EXE_kubectl-stic"), &args).output().unwrap()
    }
}

#[track_caller]
fn ended(name: &str, output: &Output, code: i32, says: &[&str]) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name}: {err}");
    for text in says {
        assert!(err.contains(text), "{name}: {text:?} is not in: {err}");
    }
}

#[test]
fn every_mistake_in_a_manifest_is_told_with_its_place_and_nothing_runs() {
    let with = |more: &str| format!("{GOOD}{more}").into_bytes();
    let but = |from: &str, to: &str| GOOD.replace(from, to).into_bytes();
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        (
            "a field of the root",
            with("specs: {}\n"),
            &["m.yaml:8: unknown field \"specs\": did you mean spec?"],
        ),
        (
            "a field of spec",
            with("  trainin: {}\n"),
            &["m.yaml:8: unknown field \"spec.trainin\": did you mean training?"],
        ),
        (
            "a nested field",
            with("  training:\n    lora:\n      rnk: 4\n"),
            &["m.yaml:10: unknown field \"spec.training.lora.rnk\": did you mean rank?"],
        ),
        (
            "a field of an item",
            with("  preferences:\n    corruptions:\n    - {kind: LowResolution, weight: 1, shortside: 20}\n"),
            &["m.yaml:10: unknown field \"spec.preferences.corruptions[0].shortside\""],
        ),
        (
            "text for a number",
            with("  seed: \"one\"\n"),
            &["m.yaml:8: spec.seed: Invalid value: \"string\"", "must be of type integer"],
        ),
        (
            "a number for a decimal",
            with("  training: {optimizer: {learningRate: 1e-3}}\n"),
            &["m.yaml:8: spec.training.optimizer.learningRate: ", "put it in quotes: \"0.001\""],
        ),
        (
            "a list for an object",
            with("  training: []\n"),
            &["m.yaml:8: spec.training: Invalid value: \"array\"", "must be of type object"],
        ),
        (
            "an unknown choice",
            with("  profile: Papr\n"),
            &["m.yaml:8: spec.profile: Unsupported value: \"Papr\"", "\"Paper\""],
        ),
        (
            "a required field",
            but("  output: {volume: {claimName: stic, path: scenes}}\n", ""),
            &["m.yaml:4: spec.output: Required value"],
        ),
        ("no name", but("metadata: {name: scenes}\n", ""), &["m.yaml:1: metadata.name: Required value"]),
        (
            "a name that is none",
            but("name: scenes", "name: Scenes_1"),
            &["m.yaml:3: metadata.name: ", "choose another name"],
        ),
        (
            "an output out of its volume",
            but("path: scenes", "path: ../x"),
            &["m.yaml:7: spec.output.volume.path: ", "without a leading / and without .."],
        ),
        (
            "another version",
            but("v1alpha1", "v1beta1"),
            &[
                "m.yaml:1: no matches for kind \"StageOneRun\" in version \"stic.dev/v1beta1\"",
                "stic.dev/v1alpha1",
            ],
        ),
        (
            "another group",
            but("stic.dev", "stick.dev"),
            &["m.yaml:1: no matches for kind \"StageOneRun\" in version \"stick.dev/v1alpha1\""],
        ),
        (
            "another kind",
            but("StageOneRun", "StageOneRuns"),
            &[
                "m.yaml:2: no matches for kind \"StageOneRuns\"",
                "this program knows StageOneRun and StageTwoRun",
            ],
        ),
        (
            "no kind",
            but("kind: StageOneRun\n", ""),
            &["m.yaml:1: no Kubernetes object: apiVersion and kind must be set"],
        ),
        (
            "a tab",
            with("  training:\n\tepochs: 2\n"),
            &["nothing was done: m.yaml:9: tabs disallowed", "mend the YAML there"],
        ),
        (
            "a key twice",
            with("  seed: 1\n  seed: 2\n"),
            &["nothing was done: m.yaml:9: duplicate mapping key: seed; mend the YAML there"],
        ),
        (
            "two documents, one broken",
            with("---\nkind: StageTwoRun\nmetadata: {name: x\nspec: 1\n"),
            &["nothing was done: m.yaml:11: "],
        ),
        (
            "two documents, one wrong",
            with(&format!("---\n{GOOD}  seeds: 1\n").replace("name: scenes", "name: more")),
            &["nothing was done: 1 mistake", "m.yaml:16: unknown field \"spec.seeds\""],
        ),
        ("an alias to itself", b"a: &a [*a]\n".to_vec(), &["nothing was done: m.yaml:1: "]),
        ("not UTF-8", b"\xff\xfe".to_vec(), &["m.yaml: ", "save the file as UTF-8"]),
        ("empty", Vec::new(), &["no StageOneRun or StageTwoRun in m.yaml", "with -f"]),
        ("a text", b"hello".to_vec(), &["m.yaml:1: no Kubernetes object"]),
        (
            "a volume that is nowhere",
            but("claimName: images", "claimName: coco"),
            &["volume coco of scenes: no folder ", "name its folder with --volume coco=DIR"],
        ),
    ];
    let bench = Bench::new();
    for (name, text, says) in cases {
        fs::write(bench.path("m.yaml"), text).unwrap();
        ended(name, &bench.run("m.yaml"), 64, says);
        assert!(!bench.path("fake/calls").exists(), "{name}: something was run");
    }
    ended("gone", &bench.run("gone.yaml"), 64, &["gone.yaml: No such file", "name a manifest"]);
    fs::write(bench.path("m.yaml"), GOOD).unwrap();
    ended("mended", &bench.run("m.yaml"), 0, &["scenes train: done in"]);
}

/// Runs a command where standard output, or standard error, is a full disk.
#[test]
fn where_words_cannot_be_written_the_run_is_not_lost() {
    let bench = Bench::new();
    fs::write(bench.path("m.yaml"), GOOD).unwrap();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["run", "-f", "m.yaml", "--work-dir", "work", "--trainer", TRAINER];
    let mut command = bench.command(env!("CARGO_BIN_EXE_kubectl-stic"), &args);
    ended("stderr", &command.stderr(full()).output().unwrap(), 0, &[]);
    let mut command = bench.command(env!("CARGO_BIN_EXE_kubectl-stic"), &args);
    let output = command.stdout(full()).output().unwrap();
    ended("stdout", &output, 74, &["train: done before", "standard output: No space left on device"]);
}

/// A small disk for the work folder, `$SPACE` KiB of it left; then with room.
const FULL_DISK: &str = r#"
mkdir -p work && mount -t tmpfs -o size=1m tmpfs work || exit 99
head -c $(( (1024 - SPACE) * 1024 )) /dev/zero > ballast && cp ballast work/ballast || exit 98
"$@" > first.out 2> first.err; echo $? > first.code
rm work/ballast; find work -name '*.new' > left
"$@" > second.out 2> second.err; echo $? > second.code
"#;

#[test]
fn a_full_work_folder_is_74_and_with_room_the_same_command_goes_on() {
    let ways: [&[&str]; 2] = [&["-m"], &["-rm"]];
    let place = tempfile::tempdir().unwrap();
    let way = ways.into_iter().find(|way| {
        let mut mount = Command::new("unshare");
        mount.args(*way).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(place.path());
        mount.output().is_ok_and(|ended| ended.status.success())
    });
    // Every machine has a limit on the size of files, which stops the first file that is written.
    let limit = r#"trap '' XFSZ; ulimit -f 0; exec "$@""#;
    let run = ["run", "-f", "m.yaml", "--work-dir", "work", "--volume", "stic=out", "--trainer", TRAINER];
    let bench = Bench::new();
    fs::write(bench.path("m.yaml"), GOOD).unwrap();
    let args = [&["-c", limit, "-", env!("CARGO_BIN_EXE_kubectl-stic")], &run[..]].concat();
    let output = bench.command("bash", &args).output().unwrap();
    ended(
        "file",
        &output,
        74,
        &["work/", "File too large", "check the folder and the space left", "run the same command again"],
    );
    ended("file, mended", &bench.run("m.yaml"), 0, &["train: done in"]);

    let Some(way) = way else {
        eprintln!(
            "this machine gives no mount namespace (unshare -m): a full disk is tried by file size only"
        );
        return;
    };
    for space in ["0", "4", "8", "20"] {
        let bench = Bench::new();
        fs::write(bench.path("m.yaml"), GOOD).unwrap();
        let args =
            [way, &["bash", "-c", FULL_DISK, "-", env!("CARGO_BIN_EXE_kubectl-stic")], &run[..]].concat();
        let output = bench.command("unshare", &args).env("SPACE", space).output().unwrap();
        ended(space, &output, 0, &[]);
        let text = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
        let first = text("first.err");
        assert_eq!(text("first.code").trim(), "74", "{space}: {first}");
        assert!(first.contains("work/") && first.contains("No space left on device"), "{space}: {first}");
        assert!(
            first.contains("check the folder and the space left, then run the same command again"),
            "{space}: {first}"
        );
        assert_eq!(text("left"), "", "{space}: half a file is left");
        assert_eq!(text("second.code").trim(), "0", "{space}: {}", text("second.err"));
        assert!(Path::new(&bench.path("out")).is_dir(), "{space}");
    }
}
