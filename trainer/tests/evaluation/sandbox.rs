//! Volumes with the quickstart's model, some of its questions and an adapter, and ways to run steps on them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stic_contract::recipe::{Lora, LoraTarget};
use stic_trainer::checkpoint::adapter;
use stic_trainer::model::ModelConfig;
use stic_trainer::model::lora::LoraAdapter;
use tempfile::TempDir;

pub(crate) const TRAINER: &str = env!("CARGO_BIN_EXE_stic-trainer");
/// For whatever a test waits for.
const DEADLINE: Duration = Duration::from_secs(120);

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes").canonicalize().unwrap()
}

/// Volumes, with the benchmark `Scenes` in the volume `heldout`.
pub(crate) struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    /// With so many questions.
    pub(crate) fn new(questions: usize) -> Self {
        let sandbox = Self { root: tempfile::tempdir().unwrap() };
        for volume in ["stic", "heldout", "adapters"] {
            fs::create_dir_all(sandbox.path(volume)).unwrap();
        }
        symlink(&quickstart().join("models"), &sandbox.path("models"));
        symlink(&quickstart().join("heldout/images"), &sandbox.path("heldout/images"));
        fs::copy(quickstart().join("heldout/scenes.jsonl"), sandbox.path("heldout/scenes.jsonl")).unwrap();
        sandbox.write_questions(questions);
        sandbox.write_adapter("tuned", 0.5);
        sandbox
    }

    /// A path under the folder of volumes.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join("volumes").join(relative)
    }

    pub(crate) fn put(&self, relative: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(relative).parent().unwrap()).unwrap();
        fs::write(self.path(relative), text).unwrap();
    }

    pub(crate) fn write_questions(&self, count: usize) {
        let text = fs::read_to_string(quickstart().join("heldout/questions.jsonl")).unwrap();
        let first = text.lines().take(count).map(|line| format!("{line}\n")).collect::<String>();
        self.put("heldout/questions.jsonl", first);
    }

    /// Copies of the images instead of the link to them.
    pub(crate) fn copy_images(&self, names: &[&str]) {
        fs::remove_file(self.path("heldout/images")).unwrap();
        fs::create_dir(self.path("heldout/images")).unwrap();
        for name in names {
            let from = quickstart().join("heldout/images").join(name);
            fs::copy(from, self.path("heldout/images").join(name)).unwrap();
        }
    }

    /// An adapter whose matrices B repeat -b, 0, b.
    pub(crate) fn write_adapter(&self, name: &str, b: f32) {
        let dir = self.path("adapters").join(name);
        fs::create_dir_all(&dir).unwrap();
        let config = ModelConfig::from_dir(&quickstart().join("models/scenes-llava")).unwrap().text;
        let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec![LoraTarget::DownProj] };
        let adapter = LoraAdapter::new(&config, &lora, 0, &Device::Cpu).unwrap();
        for (_, var) in adapter.named_vars().iter().filter(|(name, _)| name.contains("lora_B")) {
            let values = (0..var.elem_count()).map(|i| (i % 3) as f32 * b - b).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        adapter::save(&adapter, &dir, "scenes-llava", adapter::AdapterNames::Transformers).unwrap();
    }

    /// Starts a step with more arguments.
    pub(crate) fn start(&self, config: &Value, more: &[&str]) -> Running {
        self.start_with_key(config, more, None)
    }

    /// The same with a key of the judge's API in the environment.
    pub(crate) fn start_with_key(&self, config: &Value, more: &[&str], key: Option<&str>) -> Running {
        let step = config["task"].as_object().unwrap().keys().next().unwrap();
        let config_file = self.root.path().join(format!("{step}.json"));
        fs::write(&config_file, config.to_string()).unwrap();
        let mut command = Command::new(TRAINER);
        command.arg("step").arg("--config").arg(config_file).arg("--volumes").arg(self.path("")).args(more);
        let log = self.root.path().join("log");
        command.env_remove("STIC_JUDGE_API_KEY").envs(key.map(|key| ("STIC_JUDGE_API_KEY", key)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        Running { child: command.spawn().unwrap(), log }
    }

    pub(crate) fn run(&self, config: &Value) -> Ended {
        self.start(config, &[]).wait()
    }

    /// What a step that succeeds reports.
    #[track_caller]
    pub(crate) fn result(&self, config: &Value) -> Value {
        self.run(config).expect_exit(0, &[]).result()
    }

    /// The payload of an artifact of a result.
    pub(crate) fn payload(&self, result: &Value, kind: &str, file: &str) -> Vec<u8> {
        let location = artifact(result, kind)["location"]["path"].as_str().unwrap().to_owned();
        fs::read(self.path("stic").join(location).join(file)).unwrap()
    }

    /// The journals of answers, with their rows, by path under the folder of answers.
    pub(crate) fn journals(&self) -> Vec<(String, Vec<String>)> {
        let folder = self.path("stic/out/answers");
        let mut journals = Vec::new();
        for subject in fs::read_dir(&folder).into_iter().flatten() {
            for file in fs::read_dir(subject.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "jsonl") {
                    let name = path.strip_prefix(&folder).unwrap().display().to_string();
                    journals.push((name, whole_lines(&path)));
                }
            }
        }
        journals.sort();
        journals
    }

    /// The rows of the journals of a run.
    pub(crate) fn rows_of(&self, run: &Run) -> usize {
        let prefix = format!("/{}-{}-", run.uid, run.rerun);
        let own = self.journals().into_iter().filter(|(name, _)| name.contains(&prefix));
        own.map(|(_, rows)| rows.len()).sum()
    }
}

fn symlink(target: &Path, link: &Path) {
    std::os::unix::fs::symlink(target, link).unwrap();
}

/// The complete lines of a file.
pub(crate) fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// The artifact of `kind` in a result.
pub(crate) fn artifact<'r>(result: &'r Value, kind: &str) -> &'r Value {
    let mut artifacts = result["artifacts"].as_array().unwrap().iter();
    artifacts.find(|artifact| artifact["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {result}"))
}

/// As later steps name an artifact.
pub(crate) fn reference(result: &Value, kind: &str) -> Value {
    let artifact = artifact(result, kind);
    json!({"location": artifact["location"], "digest": artifact["digest"]})
}

/// A run that compares the base model with adapters.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) uid: &'static str,
    pub(crate) rerun: u32,
    /// By name; the folder is named the same.
    pub(crate) adapters: Vec<&'static str>,
    pub(crate) benchmarks: Value,
    pub(crate) prompting: Value,
    pub(crate) on_unreadable: &'static str,
    pub(crate) judged: bool,
}

impl Run {
    pub(crate) fn new(uid: &'static str) -> Self {
        let scenes = json!({"name": "Scenes", "location": {"volume": "heldout", "path": ""}, "limit": null, "ocrTokens": false});
        Self {
            uid,
            rerun: 0,
            adapters: vec!["tuned"],
            benchmarks: json!([scenes]),
            prompting: json!(["Direct", "DescribeAndRespond"]),
            on_unreadable: "Fail",
            judged: false,
        }
    }

    pub(crate) fn config(&self, task: Value) -> Value {
        let run = json!({"kind": "EvaluationRun", "namespace": "default", "name": "e", "uid": self.uid, "rerun": self.rerun});
        json!({"version": 1, "run": run, "output": {"volume": "stic", "path": "out"}, "seed": 0, "task": task})
    }

    pub(crate) fn recipe(&self) -> Value {
        json!({"prompting": self.prompting, "chatTemplate": "Auto", "maxDescriptionTokens": 128, "precision": "F32"})
    }

    pub(crate) fn prepare(&self) -> Value {
        let model = json!({"volume": "models", "path": "scenes-llava"});
        let mut subjects =
            vec![json!({"name": "base", "model": model, "modelDigest": null, "adapter": null})];
        subjects.extend(self.adapters.iter().map(|name| {
            let adapter = json!({"location": {"volume": "adapters", "path": name}, "digest": null});
            json!({"name": name, "model": model, "modelDigest": null, "adapter": adapter})
        }));
        self.config(json!({"prepare-evaluation": {"subjects": subjects, "benchmarks": self.benchmarks, "recipe": self.recipe(),
            "scorers": ["LLaVA"], "hasJudge": self.judged, "onUnreadable": self.on_unreadable, "bf16OnCpu": false, "usesGpu": true}}))
    }

    /// The subjects as later steps name them, by the result of `prepare`.
    pub(crate) fn subjects(prepared: &Value) -> Value {
        let subject = |digests: &Value| {
            let name = digests["name"].as_str().unwrap();
            let adapter = match &digests["adapter"] {
                Value::Null => Value::Null,
                digest => json!({"location": {"volume": "adapters", "path": name}, "digest": digest}),
            };
            json!({"name": name, "adapter": adapter,
                "model": {"location": {"volume": "models", "path": "scenes-llava"}, "digest": digests["model"]}})
        };
        prepared["subjects"].as_array().unwrap().iter().map(subject).collect()
    }

    pub(crate) fn answer(&self, prepared: &Value, shards: u32) -> Value {
        self.config(json!({"answer": {"questions": reference(prepared, "Questions"), "subjects": Self::subjects(prepared),
            "recipe": self.recipe(), "shards": shards}}))
    }

    pub(crate) fn score(&self, prepared: &Value, judgements: Value) -> Value {
        self.config(json!({"score": {"questions": reference(prepared, "Questions"), "subjects": Self::subjects(prepared),
            "recipe": self.recipe(), "scorers": ["LLaVA"], "judgements": judgements}}))
    }

    pub(crate) fn judge(&self, prepared: &Value, endpoint: &Value) -> Value {
        self.config(json!({"judge": {"questions": reference(prepared, "Questions"), "subjects": Self::subjects(prepared),
            "recipe": self.recipe(), "endpoint": endpoint, "prompts": {"volume": "judge-prompts", "path": ""}}}))
    }

    /// All steps without a judge; the results of `prepare` and `score`.
    pub(crate) fn all(&self, sandbox: &Sandbox) -> (Value, Value) {
        let prepared = sandbox.result(&self.prepare());
        sandbox.result(&self.answer(&prepared, 1));
        let scored = sandbox.result(&self.score(&prepared, Value::Null));
        (prepared, scored)
    }
}

/// A step that was started.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Waits until `condition` holds; false if the step ended first.
    pub(crate) fn until(&mut self, condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        loop {
            if condition() {
                return self.child.try_wait().unwrap().is_none();
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < DEADLINE, "{}", fs::read_to_string(&self.log).unwrap());
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    pub(crate) fn terminate(&self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, Signal::TERM).unwrap();
    }

    pub(crate) fn kill(mut self) {
        // It may have just ended.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(self) -> Ended {
        let output = self.child.wait_with_output().unwrap();
        Ended { output, log: fs::read_to_string(self.log).unwrap() }
    }
}

/// How a step ended.
pub(crate) struct Ended {
    output: Output,
    log: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect_exit(self, code: i32, messages: &[&str]) -> Self {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.log);
        for message in messages {
            assert!(self.log.contains(message), "{message:?} is not in: {}", self.log);
        }
        self
    }

    pub(crate) fn log(&self) -> &str {
        &self.log
    }

    pub(crate) fn result(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap()
    }
}
