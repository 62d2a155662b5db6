//! A folder with small inputs and manifests, and the artifacts of an undisturbed run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::artifacts::{Comparable, comparable};
use crate::process::{CommandOutput, Running};

/// The programs under test, which cargo built together with this test.
const KUBECTL_STIC: &str = env!("CARGO_BIN_EXE_kubectl-stic-under-test");
const STIC_TRAINER: &str = env!("CARGO_BIN_EXE_stic-trainer-under-test");

pub(crate) const IMAGES: usize = 10;
pub(crate) const INSTRUCTIONS: usize = 8;

/// Training steps of stage 1: two epochs in batches of two.
pub(crate) const STAGE_ONE_STEPS: u64 = 2 * IMAGES as u64 / 2;

/// Training steps between two saved states.
pub(crate) const SAVE_STEPS: usize = 3;

/// Settings of both runs, of which the precision alone changes a result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) shards: usize,
    pub(crate) save_steps: usize,
    pub(crate) precision: &'static str,
}

impl Layout {
    pub(crate) const PLAIN: Self = Self { shards: 1, save_steps: SAVE_STEPS, precision: "F32" };
}

fn stage_one(layout: Layout) -> String {
    format!(
        "apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {{name: scenes}}
spec:
  model: {{volume: {{claimName: models, path: scenes-llava}}}}
  images: {{volume: {{claimName: images, path: unlabelled}}, limit: {IMAGES}}}
  preferences:
    sampling: {{maxNewTokens: 24}}
    shards: {}
  training:
    precision: {}
    lora: {{rank: 4, alpha: 24, dropout: \"0.1\"}}
    optimizer: {{learningRate: \"1e-3\"}}
    epochs: 2
    globalBatchSize: 2
    saveSteps: {}
  output: {{volume: {{claimName: stic, path: scenes}}}}
",
        layout.shards, layout.precision, layout.save_steps
    )
}

fn stage_two(layout: Layout) -> String {
    format!(
        "apiVersion: stic.dev/v1alpha1
kind: StageTwoRun
metadata: {{name: scenes}}
spec:
  initFrom: {{stageOneRunRef: {{name: scenes}}}}
  instructions: {{volume: {{claimName: instructions}}, file: instructions.json, limit: {INSTRUCTIONS}}}
  images: {{volume: {{claimName: instructions}}}}
  description:
    sampling: {{maxNewTokens: 24}}
    shards: {}
  training:
    precision: {}
    optimizer: {{learningRate: \"1e-3\"}}
    epochs: 2
    globalBatchSize: 2
    saveSteps: {}
  output: {{volume: {{claimName: stic, path: scenes}}}}
",
        layout.shards, layout.precision, layout.save_steps
    )
}

/// Files by path under a folder.
type Files = BTreeMap<String, Vec<u8>>;

/// The quickstart's model, and a few more of its images and instructions than are used. Read once, so that every sandbox
/// of this process has the same even if the examples change meanwhile.
fn inputs() -> &'static Files {
    static INPUTS: OnceLock<Files> = OnceLock::new();
    INPUTS.get_or_init(|| {
        let volumes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes");
        let mut files = Files::new();
        for (path, bytes) in read_all(&volumes.join("models/scenes-llava")) {
            files.insert(format!("models/scenes-llava/{path}"), bytes);
        }
        for (path, bytes) in read_all(&volumes.join("images/unlabelled")).into_iter().take(IMAGES + 3) {
            files.insert(format!("images/unlabelled/{path}"), bytes);
        }
        let instructions = fs::read(volumes.join("instructions/instructions.json")).unwrap();
        let mut instructions: Vec<Value> = serde_json::from_slice(&instructions).unwrap();
        instructions.truncate(INSTRUCTIONS + 3);
        for instruction in &instructions {
            let image = instruction["image"].as_str().unwrap();
            files.insert(
                format!("instructions/{image}"),
                fs::read(volumes.join("instructions").join(image)).unwrap(),
            );
        }
        let text = serde_json::to_vec(&instructions).unwrap();
        files.insert("instructions/instructions.json".into(), text);
        files
    })
}

/// Every file under `dir`.
pub(crate) fn read_all(dir: &Path) -> Files {
    fn walk(dir: &Path, prefix: &str, files: &mut Files) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
            if path.is_dir() {
                walk(&path, &format!("{name}/"), files);
            } else {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut files = Files::new();
    walk(dir, "", &mut files);
    files
}

fn write_all(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// One step of one run with the config that the runner wrote for it, which contains no absolute path and so fits every
/// sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// `stageonerun` or `stagetworun`.
    pub(crate) run: &'static str,
    pub(crate) name: &'static str,
    config: Vec<u8>,
    /// The folder of unfinished work, relative to the output path.
    pub(crate) partial: String,
}

/// An undisturbed run of both stages.
pub(crate) struct Baseline {
    pub(crate) steps: Vec<Step>,
    pub(crate) artifacts: Comparable,
    output: Files,
}

impl Step {
    /// The same step with another config.
    pub(crate) fn with(&self, edit: impl FnOnce(&mut Value)) -> Self {
        let mut config = serde_json::from_slice(&self.config).unwrap();
        edit(&mut config);
        Self { config: serde_json::to_vec(&config).unwrap(), ..self.clone() }
    }
}

impl Baseline {
    pub(crate) fn get() -> &'static Self {
        static BASELINE: OnceLock<Baseline> = OnceLock::new();
        BASELINE.get_or_init(|| {
            let sandbox = undisturbed();
            let order = [
                ("stageonerun", ["prepare", "generate", "train"]),
                ("stagetworun", ["prepare", "describe", "train"]),
            ];
            let steps = order.into_iter().flat_map(|(run, names)| {
                names.map(|name| {
                    let path = sandbox.path(&format!("work/runs/default/{run}/scenes/{name}.json"));
                    let config = fs::read(path).unwrap();
                    let parsed: Value = serde_json::from_slice(&config).unwrap();
                    let (uid, rerun) = (&parsed["run"]["uid"], &parsed["run"]["rerun"]);
                    let partial = format!(".partial/{}-{rerun}", uid.as_str().unwrap());
                    Step { run, name, config, partial }
                })
            });
            let steps = steps.collect();
            let mut output = read_all(&sandbox.output());
            output.retain(|name, _| !name.starts_with(".partial"));
            Self { steps, artifacts: comparable(&sandbox.output()), output }
        })
    }

    pub(crate) fn step(&self, run: &str, name: &str) -> &Step {
        self.steps.iter().find(|step| step.run == run && step.name == name).unwrap()
    }
}

/// A sandbox on which both stages ran undisturbed.
///
/// nextest runs every test in a process of its own: the first one that needs the run makes it, and the others of the same
/// test run wait for it and read its result.
fn undisturbed() -> Sandbox {
    let sandbox = Sandbox::new(Layout::PLAIN);
    let Some(test_run) = std::env::var_os("NEXTEST_RUN_ID") else {
        sandbox.run_both().expect_exit(0);
        return sandbox;
    };
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("undisturbed");
    fs::create_dir_all(&shared).unwrap();
    let lock = File::create(shared.join("lock")).unwrap();
    lock.lock().unwrap();
    let result = shared.join(test_run);
    if result.is_dir() {
        write_all(sandbox.root.path(), &read_all(&result));
        return sandbox;
    }
    for earlier in
        fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        fs::remove_dir_all(earlier).unwrap();
    }
    sandbox.run_both().expect_exit(0);
    // Renamed into place, so that a killed test leaves no half of a result.
    let partial = shared.join("partial");
    write_all(&partial, &read_all(sandbox.root.path()));
    fs::rename(partial, result).unwrap();
    sandbox
}

/// A folder of inputs and outputs.
pub(crate) struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    pub(crate) fn new(layout: Layout) -> Self {
        let root = tempfile::tempdir().unwrap();
        write_all(&root.path().join("volumes"), inputs());
        fs::create_dir_all(root.path().join("volumes/stic")).unwrap();
        fs::write(root.path().join("one.yaml"), stage_one(layout)).unwrap();
        fs::write(root.path().join("two.yaml"), stage_two(layout)).unwrap();
        Self { root }
    }

    /// With all artifacts of the baseline.
    pub(crate) fn with_all_artifacts() -> Self {
        Self::with_artifacts(|_| true)
    }

    /// With those artifacts of the baseline whose folder is `wanted`.
    pub(crate) fn with_artifacts(wanted: impl Fn(&str) -> bool) -> Self {
        let sandbox = Self::new(Layout::PLAIN);
        let mut output = Baseline::get().output.clone();
        output.retain(|name, _| wanted(name.split('/').next().unwrap_or_default()));
        write_all(&sandbox.output(), &output);
        sandbox
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// The folder of the artifacts.
    pub(crate) fn output(&self) -> PathBuf {
        self.path("volumes/stic/scenes")
    }

    /// The only artifact whose folder starts with `prefix` and satisfies `holding`.
    pub(crate) fn artifact(&self, prefix: &str, holding: impl Fn(&Path) -> bool) -> PathBuf {
        let entries = fs::read_dir(self.output()).unwrap().map(|entry| entry.unwrap().path());
        let found: Vec<PathBuf> = entries
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix) && holding(path))
            .collect();
        assert_eq!(found.len(), 1, "{prefix}: {found:?}");
        found.into_iter().next().unwrap()
    }

    /// `kubectl-stic run` of both stages.
    pub(crate) fn start_both(&self, wrap: impl Fn(&Path) -> Command) -> Running {
        let mut command = wrap(Path::new(KUBECTL_STIC));
        command.current_dir(self.root.path()).args(["run", "-f", "one.yaml", "-f", "two.yaml"]);
        command.args(["--work-dir", "work", "--trainer", STIC_TRAINER]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Running::start(command, &self.path("kubectl.log"))
    }

    pub(crate) fn run_both(&self) -> CommandOutput {
        self.start_both(|program| Command::new(program)).wait()
    }

    /// `stic-trainer step`.
    pub(crate) fn start(&self, step: &Step) -> Running {
        self.start_with(step, &[])
    }

    /// The same, with more arguments.
    pub(crate) fn start_with(&self, step: &Step, more: &[String]) -> Running {
        self.start_logging(step, more, "first")
    }

    /// The same with a log of its own, while another one runs.
    pub(crate) fn start_second(&self, step: &Step) -> Running {
        self.start_logging(step, &[], "second")
    }

    fn start_logging(&self, step: &Step, more: &[String], which: &str) -> Running {
        let config = self.path(&format!("{}-{}.json", step.run, step.name));
        fs::write(&config, &step.config).unwrap();
        let mut command = Command::new(STIC_TRAINER);
        command.arg("step").arg("--config").arg(config).arg("--volumes").arg(self.path("volumes"));
        command.args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Running::start(command, &self.path(&format!("{which}.log")))
    }

    #[track_caller]
    pub(crate) fn assert_is_baseline(&self, seed: u64) {
        let (found, expected) = (comparable(&self.output()), &Baseline::get().artifacts);
        let names = |of: &Comparable| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(expected), "seed {seed}");
        for (name, content) in expected {
            assert!(found[name] == *content, "seed {seed}: {name} differs from the undisturbed run");
        }
    }
}
