//! A full disk in every step: exit code 74, finished work is kept, no file is incomplete, and with free space the same
//! command continues to the bytes of an undisturbed run.
//!
//! The disk is a small tmpfs in a mount namespace of its own. On a machine without mount namespaces, only the limits on
//! the size of files are tested, with a note.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::adapter::write_adapter;
use crate::config::{generate, images, train};
use crate::evaluation::{self, question, scene};
use crate::sandbox::{CommandOutput, Sandbox, TRAINER, files_in};

type Files = BTreeMap<String, Vec<u8>>;

/// Runs `$@` on a disk with `$SPACE` KiB left, copies the disk to `full/`, frees space and runs `$@` again.
const FULL_DISK: &str = r#"
cp -a stic before && mount -t tmpfs -o size=32m tmpfs stic && cp -a before/. stic || exit 99
available=$(df --output=avail -k stic | tail -n 1)
head -c $(( (available - SPACE) * 1024 )) /dev/zero > ballast.size
cp ballast.size stic/ballast || exit 98
"$@" > first.out 2> first.err; echo $? > first.code
rm stic/ballast && cp -a stic full || exit 97
"$@" > second.out 2> second.err; echo $? > second.code
cp -a stic after
"#;

/// The same with room for only `$SPACE` further files and folders.
const NO_INODES: &str = r#"
cp -a stic before || exit 99
mount -t tmpfs -o size=32m,nr_inodes=$(( $(find before | wc -l) + SPACE )) tmpfs stic || exit 98
cp -a before/. stic || exit 97
"$@" > first.out 2> first.err; echo $? > first.code
mount -o remount,nr_inodes=10000 stic && cp -a stic full || exit 96
"$@" > second.out 2> second.err; echo $? > second.code
cp -a stic after
"#;

/// The same with files of at most `$SPACE` KiB. SIGXFSZ is ignored, as Python does, so that the write fails.
const SMALL_FILES: &str = r#"
trap '' XFSZ
(ulimit -f "$SPACE"; exec "$@") 2>&1 > first.out | cat > first.err; echo "${PIPESTATUS[0]}" > first.code
cp -a stic full || exit 97
"$@" > second.out 2> second.err; echo $? > second.code
cp -a stic after
"#;

/// The command that gives a mount namespace on this machine; `None` where there is none.
fn namespace() -> Option<&'static [&'static str]> {
    static FOUND: OnceLock<Option<&[&str]>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let ways: [&[&str]; 2] = [&["unshare", "-m"], &["unshare", "-rm"]];
        let found = ways.into_iter().find(|way| {
            let mut mount = Command::new(way[0]);
            mount.args(&way[1..]).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(dir.path());
            mount.output().is_ok_and(|ended| ended.status.success())
        });
        if found.is_none() {
            eprintln!(
                "skipped: no mount namespace on this machine (unshare -m), so a full disk is tested by file size only"
            );
        }
        found
    })
}

/// The results of a command without free space, and then with it.
struct Twice {
    first: CommandOutput,
    full: Files,
    after: Files,
}

#[derive(Debug, Clone, Copy)]
enum Space {
    Disk(u32),
    Inodes(u32),
    File(u32),
}

impl Space {
    /// `disk` where this machine has mount namespaces, and `files`.
    fn all(disk: &[u32], files: &[u32]) -> Vec<Self> {
        let disk = if namespace().is_some() { disk } else { &[] };
        disk.iter().map(|kib| Self::Disk(*kib)).chain(files.iter().map(|kib| Self::File(*kib))).collect()
    }

    const fn expected(self) -> &'static [&'static str] {
        match self {
            Self::Disk(_) | Self::Inodes(_) => {
                &["free space or enlarge the volume", "run again: finished items are kept"]
            }
            Self::File(_) => &["File too large", "ulimit -f", "run again: finished items are kept"],
        }
    }
}

/// Runs the program with little space, which must not be enough, and again with enough.
fn twice(sandbox: &Sandbox, space: Space, args: &[&str]) -> Twice {
    for left in ["before", "full", "after", "first.err", "second.err"] {
        sandbox.remove(left);
    }
    let (way, script, space_left): (&[&str], _, _) = match space {
        Space::Disk(kib) => (namespace().unwrap(), FULL_DISK, kib),
        Space::Inodes(files) => (namespace().unwrap(), NO_INODES, files),
        Space::File(kib) => (&["env"], SMALL_FILES, kib),
    };
    let ended = Command::new(way[0])
        .args(&way[1..])
        .args(["bash", "-c", script, "-", "timeout", "120", TRAINER])
        .args(args)
        .current_dir(sandbox.path(""))
        .env("SPACE", space_left.to_string())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{space:?}: {}", String::from_utf8_lossy(&ended.stderr));
    let text = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    let ran = |which: &str| CommandOutput {
        code: text(&format!("{which}.code")).trim().parse().ok(),
        out: text(&format!("{which}.out")),
        err: text(&format!("{which}.err")),
    };
    let name = format!("{space:?} {}", args[0]);
    let first = ran("first").expect_exit(&name, 74, space.expected());
    assert!(!first.err.contains("panicked"), "{name}: {}", first.err);
    ran("second").expect_exit(&name, 0, &[]);
    let twice =
        Twice { first, full: files_in(&sandbox.path("full")), after: files_in(&sandbox.path("after")) };
    check_complete(&name, &twice.full);
    check_complete(&name, &twice.after);
    twice
}

/// Checks that finished artifacts are marked complete, rows are whole lines, and no partial file is left.
fn check_complete(name: &str, files: &Files) {
    for (path, bytes) in files {
        assert!(!path.ends_with(".partial"), "{name}: {path}");
        if path.ends_with(".jsonl") && !path.ends_with("metrics.jsonl") {
            assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{name}: {path} ends within a row");
            for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                serde_json::from_slice::<Value>(line).unwrap_or_else(|e| panic!("{name}: {path}: {e}"));
            }
        }
        let mut parts = path.split('/');
        if let (Some("out"), Some(artifact), Some(_)) = (parts.next(), parts.next(), parts.next())
            && artifact != ".partial"
        {
            assert!(files.contains_key(&format!("out/{artifact}/_SUCCESS.json")), "{name}: {path}");
        }
    }
}

/// The only file of that name in a finished artifact.
fn payload<'f>(files: &'f Files, name: &str) -> &'f [u8] {
    let mut found = files.iter().filter(|(path, _)| path.ends_with(name) && !path.contains(".partial"));
    let (_, bytes) = found.next().unwrap();
    assert!(found.next().is_none(), "{name} is there twice");
    bytes
}

/// The steps of a run and their outputs with enough space.
struct Undisturbed {
    sandbox: Sandbox,
    prepare: Value,
    generate: Value,
    train: Value,
    generated: Files,
    trained: Files,
}

impl Undisturbed {
    /// Runs all steps once. Also returns the files after prepare.
    fn run() -> (Self, Files) {
        let sandbox = Sandbox::new();
        let prepare = images(None, "Skip");
        let prepared = sandbox.step(&prepare).expect_exit("prepare", 0, &[]).result();
        let after_prepare = sandbox.files("stic");
        let generate = generate(&prepared);
        let generated = sandbox.step(&generate).expect_exit("generate", 0, &[]).result();
        let after_generate = sandbox.files("stic");
        let train = train(&prepared, &generated);
        sandbox.step(&train).expect_exit("train", 0, &[]);
        let trained = sandbox.files("stic");
        (Self { sandbox, prepare, generate, train, generated: after_generate, trained }, after_prepare)
    }

    /// The sandbox with `files` on its output volume, and a step's config.
    fn at(&self, files: &Files, config: &Value) -> &Sandbox {
        self.sandbox.folder("stic");
        for (path, bytes) in files {
            self.sandbox.put(&format!("stic/{path}"), bytes);
        }
        self.sandbox.put("config.json", config.to_string());
        &self.sandbox
    }
}

const STEP: [&str; 5] = ["step", "--config", "config.json", "--volumes", "."];

#[test]
fn every_step_keeps_finished_work_and_continues_to_the_same_bytes() {
    let (run, prepared) = Undisturbed::run();
    for space in Space::all(&[0, 8], &[0]) {
        let ended = twice(run.at(&Files::new(), &run.prepare), space, &STEP);
        assert_eq!(payload(&ended.after, "items.jsonl"), payload(&prepared, "items.jsonl"), "{space:?}");
    }

    let journal = |files: &Files| -> Vec<u8> {
        let found = files.iter().find(|(path, _)| path.ends_with("shard-00000.jsonl"));
        found.map(|(_, rows)| rows.clone()).unwrap_or_default()
    };
    let sorted = |rows: &[u8]| -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = rows.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    let mut kept = 0;
    for space in Space::all(&[0, 8, 12], &[1]) {
        let ended = twice(run.at(&prepared, &run.generate), space, &STEP);
        let (first, second) = (journal(&ended.full), journal(&ended.after));
        assert!(second.starts_with(&first), "{space:?}: finished rows must not change");
        assert_eq!(sorted(&second), sorted(&journal(&run.generated)), "{space:?}");
        kept += first.len();
    }
    assert!(kept > 0, "no case had room for a row");

    // Less space than the estimate is refused before the first step. What the estimate cannot foresee ends a step later.
    let adapter =
        u32::try_from(payload(&run.trained, "adapter_model.safetensors").len()).unwrap().div_ceil(1024);
    let mut rare_states = run.train.clone();
    rare_states["task"]["train"]["recipe"]["saveSteps"] = Value::from(1000);
    let (mut refused, mut resumed) = (0, 0);
    for (config, disk, inodes, files) in [
        (&run.train, &[0, adapter, 8 * adapter][..], &[10, 13, 16][..], &[adapter / 2][..]),
        (&rare_states, &[24], &[10], &[adapter / 2]),
    ] {
        let inodes = if namespace().is_some() { inodes } else { &[] };
        let inodes = inodes.iter().map(|files| Space::Inodes(*files));
        for space in Space::all(disk, files).into_iter().chain(inodes) {
            let ended = twice(run.at(&run.generated, config), space, &STEP);
            for file in ["preferences.jsonl", "adapter_model.safetensors", "adapter_config.json"] {
                assert!(payload(&ended.after, file) == payload(&run.trained, file), "{space:?}: {file}");
            }
            let started = ended.full.keys().any(|path| path.contains("metrics.jsonl"));
            if ended.first.err.contains("train needs up to ") {
                assert!(!started && ended.first.err.contains(" for training states"), "{space:?}");
                refused += 1;
            }
            resumed += usize::from(ended.full.keys().any(|path| path.contains(".state/state-")));
            assert!(ended.first.out.is_empty(), "{space:?}: a result without an artifact");
        }
    }
    assert!(namespace().is_none() || (refused > 0 && resumed > 0), "{refused} refused, {resumed} resumed");
}

#[test]
fn the_tools_write_complete_output_or_nothing() {
    let sandbox = Sandbox::new();
    write_adapter(&sandbox.path("models/m"), &sandbox.path("adapter"));
    sandbox.put("rows.jsonl", r#"{"id": "a", "image": "a.jpg", "prompt": "q", "response": "a cat"}"#);
    let of_model = ["--model", "models/m", "--adapter", "adapter"];
    let score = [
        &["score"],
        &of_model[..],
        &["--input", "rows.jsonl", "--images", "images", "--output", "stic/s.jsonl"],
    ];
    let merged = [&["export", "merged"], &of_model[..], &["--output", "stic/merged"]];
    let adapter = [&["export", "adapter"], &of_model[..], &["--output", "stic/adapter"]];
    for (args, disk, files, output) in [
        (score.concat(), &[0][..], &[0][..], "s.jsonl"),
        (merged.concat(), &[0, 4000], &[64], "merged/config.json"),
        (adapter.concat(), &[0, 20], &[4], "adapter/adapter_config.json"),
    ] {
        for space in Space::all(disk, files) {
            let ended = twice(&sandbox, space, &args);
            assert!(ended.full.is_empty(), "{space:?}: {:?}", ended.full.keys());
            assert!(ended.after.contains_key(output), "{space:?}: {output}");
            sandbox.folder("stic");
        }
    }
}

#[test]
fn an_evaluation_keeps_its_answers() {
    let sandbox = Sandbox::new();
    let mut questions = String::new();
    let mut scenes = String::new();
    for image in crate::sandbox::IMAGES {
        questions += &format!("{}\n", question(image, image));
        scenes += &format!("{}\n", scene(image, image));
    }
    sandbox.put("images/questions.jsonl", questions);
    sandbox.put("images/scenes.jsonl", scenes);
    let args: Vec<&str> =
        evaluation::ARGS.iter().map(|arg| if *arg == "out/e" { "stic/e" } else { arg }).collect();
    // With space for four images, the questions, the subjects and the answers, a page each, the results are missing.
    for space in Space::all(&[0, 28], &[0]) {
        let ended = twice(&sandbox, space, &args);
        let answers = |files: &Files| {
            files
                .iter()
                .find(|(path, _)| path.contains("answers-"))
                .map(|(_, rows)| rows.clone())
                .unwrap_or_default()
        };
        assert!(!ended.full.contains_key("e/results.json"), "{space:?}");
        assert!(answers(&ended.after).starts_with(&answers(&ended.full)), "{space:?}");
        assert!(ended.after.contains_key("e/results.json"), "{space:?}");
        if matches!(space, Space::Disk(28)) {
            assert_eq!(answers(&ended.full), answers(&ended.after));
            assert!(!answers(&ended.full).is_empty());
        }
        sandbox.folder("stic");
    }
}

#[test]
fn an_output_that_cannot_be_written_ends_the_step() {
    let sandbox = Sandbox::new();
    let config = images(None, "Skip");
    sandbox.put("stic/out", "a file where the output folder is to be");
    sandbox.step(&config).expect_exit("a file", 64, &["stic/out is a file where a folder is needed"]);
    assert_eq!(sandbox.read("stic/out"), b"a file where the output folder is to be");
    sandbox.remove("stic/out");
    if let Some(way) = namespace() {
        let script = "mount -t tmpfs -o ro tmpfs stic && exec \"$@\"";
        let args = [&way[1..], &["bash", "-c", script, "-", TRAINER], &STEP].concat();
        let output = Command::new(way[0]).args(args).current_dir(sandbox.path("")).output().unwrap();
        CommandOutput::from(output).expect_exit(
            "read-only",
            74,
            &["stic/out", "Read-only file system", "must be mounted read-write"],
        );
    }
    sandbox.step(&config).expect_exit("fixed", 0, &[]);
}
