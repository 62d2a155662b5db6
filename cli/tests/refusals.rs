//! Invalid manifests, which are refused with file, line and fix before anything runs; and full disks.
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

struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self { root: tempfile::tempdir().unwrap() };
        for folder in ["volumes/models", "volumes/images", "fake"] {
            fs::create_dir_all(sandbox.path(folder)).unwrap();
        }
        sandbox
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
fn assert_exit(name: &str, output: &Output, code: i32, messages: &[&str]) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name}: {err}");
    for text in messages {
        assert!(err.contains(text), "{name}: {text:?} is not in: {err}");
    }
}

#[test]
fn every_mistake_in_a_manifest_is_reported_with_its_line_and_nothing_runs() {
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
            "an invalid name",
            but("name: scenes", "name: Scenes_1"),
            &["m.yaml:3: metadata.name: ", "choose another name"],
        ),
        (
            "an output outside its volume",
            but("path: scenes", "path: ../x"),
            &["m.yaml:7: spec.output.volume.path: ", "remove the leading / and every .."],
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
                "this program supports StageOneRun, StageTwoRun and EvaluationRun",
            ],
        ),
        (
            "no kind",
            but("kind: StageOneRun\n", ""),
            &["m.yaml:1: not a Kubernetes object: set apiVersion and kind"],
        ),
        (
            "a tab",
            with("  training:\n\tepochs: 2\n"),
            &["nothing was done: m.yaml:9: tabs disallowed", "Fix the YAML there."],
        ),
        (
            "a key twice",
            with("  seed: 1\n  seed: 2\n"),
            &["nothing was done: m.yaml:9: duplicate mapping key: seed. Fix the YAML there."],
        ),
        (
            "two documents, one is not YAML",
            with("---\nkind: StageTwoRun\nmetadata: {name: x\nspec: 1\n"),
            &["nothing was done: m.yaml:11: "],
        ),
        (
            "two documents, one is invalid",
            with(&format!("---\n{GOOD}  seeds: 1\n").replace("name: scenes", "name: more")),
            &["nothing was done: 1 mistake", "m.yaml:16: unknown field \"spec.seeds\""],
        ),
        ("an alias to itself", b"a: &a [*a]\n".to_vec(), &["nothing was done: m.yaml:1: "]),
        ("not UTF-8", b"\xff\xfe".to_vec(), &["m.yaml: ", "Save the file as UTF-8"]),
        ("empty", Vec::new(), &["no StageOneRun, StageTwoRun or EvaluationRun in m.yaml", "with -f"]),
        ("a text", b"hello".to_vec(), &["m.yaml:1: not a Kubernetes object"]),
        (
            "a quantity with a space",
            with("  pod: {resources: {limits: {memory: 16 Gigs}}}\n"),
            &["m.yaml:8: spec.pod.resources.limits.memory: ", "write a quantity such as 500m or 16Gi"],
        ),
        (
            "a number out of all range",
            with("  training: {optimizer: {learningRate: \"1e400\"}}\n"),
            &["m.yaml:8: spec.training.optimizer.learningRate: ", "write a decimal number such as"],
        ),
        (
            "a claim with a space",
            but("claimName: stic", "claimName: My Claim"),
            &["m.yaml:7: spec.output.volume.claimName: ", "must be the name of a PersistentVolumeClaim"],
        ),
        (
            "a setting of the other method",
            with("  training: {sft: {learningRate: \"1e-3\"}}\n"),
            &["m.yaml:8: spec.training.sft.learningRate: ", "method DPO ignores", "set training.optimizer"],
        ),
        (
            "a negative limit",
            with("  backoff: {limit: -1}\n"),
            &["m.yaml:8: spec.backoff.limit: Invalid value: -1: ", "greater than or equal to 0"],
        ),
        (
            "an empty list",
            with("  preferences: {captionPrompts: []}\n"),
            &["m.yaml:8: spec.preferences.captionPrompts: ", "should have at least 1 items"],
        ),
        (
            "two models",
            but("path: llava}}", "path: llava}, image: {reference: a}}"),
            &[
                "m.yaml:5: spec.model: ",
                "exactly one of volume, image, huggingFace must be set: keep or add one",
            ],
        ),
        (
            "a run that starts from itself",
            GOOD.replace("StageOneRun", "StageTwoRun")
                .replace(
                    "model: {volume: {claimName: models, path: llava}}",
                    "initFrom: {stageOneRunRef: {name: scenes}}",
                )
                .replace(
                    "images: {",
                    "instructions: {volume: {claimName: images}, file: i.json}\n  images: {",
                )
                .into_bytes(),
            &["m.yaml:5: there is no StageOneRun scenes among the manifests", "Add its manifest with -f."],
        ),
        (
            "a volume without a folder",
            but("claimName: images", "claimName: coco"),
            &["volume coco of scenes: there is neither a folder", "Give its folder with --volume coco=DIR"],
        ),
    ];
    let sandbox = Sandbox::new();
    for (name, text, messages) in cases {
        fs::write(sandbox.path("m.yaml"), text).unwrap();
        let output = sandbox.run("m.yaml");
        assert_exit(name, &output, 64, messages);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("bug") && !err.contains("Decimal("), "{name}: {err}");
        assert!(!sandbox.path("fake/calls").exists(), "{name}: something ran");
    }
    assert_exit("gone", &sandbox.run("gone.yaml"), 64, &["gone.yaml: No such file", "Give a manifest"]);
    fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
    assert_exit("fixed", &sandbox.run("m.yaml"), 0, &["scenes train: done in"]);
}

#[test]
fn a_volume_that_is_no_folder_is_named_as_the_command_line_gave_it() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
    fs::write(sandbox.path("afile"), "").unwrap();
    for (volume, message) in [
        ("models=/nope", "--volume models=/nope: no such folder."),
        ("models=afile", "afile is a file; --volume needs a folder."),
        ("stic=afile", "afile is a file; --volume needs a folder."),
    ] {
        let args = ["run", "-f", "m.yaml", "--work-dir", "work", "--trainer", TRAINER, "--volume", volume];
        let output = sandbox.command(env!("CARGO_BIN_EXE_kubectl-stic"), &args).output().unwrap();
        assert_exit(volume, &output, 64, &[message]);
        assert!(!sandbox.path("fake/calls").exists(), "{volume}: something ran");
    }
}

#[test]
fn a_file_in_the_place_of_a_folder_is_named() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
    fs::write(sandbox.path("afile"), "").unwrap();
    fs::create_dir(sandbox.path("out")).unwrap();
    fs::write(sandbox.path("out/scenes"), "").unwrap();
    for (args, message) in [
        (
            ["--work-dir", "afile", "--volume", "stic=out2"],
            "--work-dir: afile is a file where a folder is needed",
        ),
        (["--work-dir", "afile/work", "--volume", "stic=out2"], "--work-dir: afile is a file where a folder"),
        (["--work-dir", "work", "--volume", "stic=out"], "out/scenes is a file where a folder is needed"),
    ] {
        let run = [&["run", "-f", "m.yaml", "--trainer", TRAINER], &args[..]].concat();
        let output = sandbox.command(env!("CARGO_BIN_EXE_kubectl-stic"), &run).output().unwrap();
        assert_exit(message, &output, 64, &[message, "Remove it or give another path."]);
        assert!(!sandbox.path("fake/calls").exists(), "{message}: something ran");
    }
}

#[test]
fn settings_without_an_effect_are_noted() {
    let sandbox = Sandbox::new();
    let manifest = GOOD.replace("claimName: images}", "claimName: images}, limit: 6000")
        + "  preferences: {negatives: ImagesOnly, hallucinationPrompts: [\"Lie.\"]}\n";
    fs::write(sandbox.path("m.yaml"), manifest).unwrap();
    let ineffective = "note: scenes: spec.preferences.hallucinationPrompts has no effect with spec.preferences.negatives: ImagesOnly";
    let limit = "scenes prepare: note: spec.images.limit is 6000, but there are only 10";
    assert_exit("", &sandbox.run("m.yaml"), 0, &[ineffective, limit]);
}

#[test]
fn the_list_of_skipped_items_is_named() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
    fs::write(sandbox.path("fake/skip"), "").unwrap();
    let output = sandbox.run("m.yaml");
    let folder = sandbox.path("work/volumes/stic/scenes").canonicalize().unwrap();
    let list = format!("2 skipped (listed in {}/", folder.display());
    assert_exit("skipped", &output, 0, &["scenes prepare: 8 items, done in", &list, "/skipped.jsonl)"]);
}

#[test]
fn a_run_survives_a_full_disk_behind_stdout_or_stderr() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["run", "-f", "m.yaml", "--work-dir", "work", "--trainer", TRAINER];
    let mut command = sandbox.command(env!("CARGO_BIN_EXE_kubectl-stic"), &args);
    assert_exit("stderr", &command.stderr(full()).output().unwrap(), 0, &[]);
    let mut command = sandbox.command(env!("CARGO_BIN_EXE_kubectl-stic"), &args);
    let output = command.stdout(full()).output().unwrap();
    assert_exit("stdout", &output, 74, &["train: already done", "standard output: No space left on device"]);
}

/// Runs a command with a small disk for the work folder, of which `$SPACE` KiB are free, and again with free space.
const FULL_DISK: &str = r#"
mkdir -p work && mount -t tmpfs -o size=1m tmpfs work || exit 99
head -c $(( (1024 - SPACE) * 1024 )) /dev/zero > ballast && cp ballast work/ballast || exit 98
"$@" > first.out 2> first.err; echo $? > first.code
rm work/ballast; find work -name '*.new' > left
"$@" > second.out 2> second.err; echo $? > second.code
"#;

#[test]
fn a_full_work_folder_exits_with_74_and_the_same_command_resumes_with_free_space() {
    let ways: [&[&str]; 2] = [&["-m"], &["-rm"]];
    let place = tempfile::tempdir().unwrap();
    let way = ways.into_iter().find(|way| {
        let mut mount = Command::new("unshare");
        mount.args(*way).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(place.path());
        mount.output().is_ok_and(|ended| ended.status.success())
    });
    // A limit on the size of files works on every machine, and fails the first file that is written.
    let limit = r#"trap '' XFSZ; ulimit -f 0; exec "$@""#;
    let run = ["run", "-f", "m.yaml", "--work-dir", "work", "--volume", "stic=out", "--trainer", TRAINER];
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
    let args = [&["-c", limit, "-", env!("CARGO_BIN_EXE_kubectl-stic")], &run[..]].concat();
    let output = sandbox.command("bash", &args).output().unwrap();
    assert_exit(
        "file",
        &output,
        74,
        &["work/", "File too large", "Check the folder and the free space", "run the same command again"],
    );
    assert_exit("file, fixed", &sandbox.run("m.yaml"), 0, &["train: done in"]);

    let Some(way) = way else {
        eprintln!(
            "SKIPPED in part: this machine does not allow mount namespaces (unshare -m), so full disks are only tested with a file size limit"
        );
        return;
    };
    for space in ["0", "4", "8", "20"] {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("m.yaml"), GOOD).unwrap();
        let args =
            [way, &["bash", "-c", FULL_DISK, "-", env!("CARGO_BIN_EXE_kubectl-stic")], &run[..]].concat();
        let output = sandbox.command("unshare", &args).env("SPACE", space).output().unwrap();
        assert_exit(space, &output, 0, &[]);
        let text = |name: &str| fs::read_to_string(sandbox.path(name)).unwrap();
        let first = text("first.err");
        assert_eq!(text("first.code").trim(), "74", "{space}: {first}");
        assert!(first.contains("work/") && first.contains("No space left on device"), "{space}: {first}");
        assert!(
            first.contains("Check the folder and the free space, then run the same command again"),
            "{space}: {first}"
        );
        assert_eq!(text("left"), "", "{space}: an incomplete file is left");
        assert_eq!(text("second.code").trim(), "0", "{space}: {}", text("second.err"));
        assert!(Path::new(&sandbox.path("out")).is_dir(), "{space}");
    }
}
