//! The memory of `generate` does not grow with the number of images: resuming a shard with a few rows left takes as much
//! with 100,000 items as with 1,000.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stic_contract::Digest;
use tempfile::TempDir;

const TRAINER: &str = env!("CARGO_BIN_EXE_stic-trainer");
/// Items without a row.
const LEFT: usize = 4;

/// Volumes with a small model and one image, which every item uses.
struct Sandbox {
    root: TempDir,
    config: Value,
    /// The marker and the only item of a real `prepare`.
    marker: Value,
    item: Value,
}

impl Sandbox {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes");
        for volume in ["models/m", "images", "stic"] {
            fs::create_dir_all(root.path().join(volume)).unwrap();
        }
        for entry in fs::read_dir(quickstart.join("models/scenes-llava")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), root.path().join("models/m").join(entry.file_name())).unwrap();
        }
        image::RgbImage::from_pixel(40, 24, image::Rgb([90, 140, 20]))
            .save(root.path().join("images/a.png"))
            .unwrap();

        let model = json!({"location": {"volume": "models", "path": "m"}, "imageLayout": "Model"});
        let images = json!({"volume": "images", "path": ""});
        let recipe = json!({"source": "Generate", "negatives": "PromptsOnly", "corruptedShare": 0.0,
            "captionPrompts": ["Describe it."], "wellCuratedPrompt": "Describe it well.",
            "hallucinationPrompts": ["Make it up."], "corruptions": [], "chatTemplate": "Auto",
            "sampling": {"temperature": 0.0, "topP": 1.0, "topK": 0, "maxNewTokens": 4}});
        let train = json!({"objective": {"sft": {"infusion": null}},
            "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]},
            "optimizer": {"learningRate": 1e-3, "schedule": "Cosine", "warmupRatio": 0.0, "weightDecay": 0.0,
                "maxGradientNorm": 1.0},
            "epochs": 1, "globalBatchSize": 1, "maxLength": null, "withImage": true, "chatTemplate": "Auto",
            "saveSteps": 1});
        let config = json!({"version": 1,
            "run": {"kind": "StageOneRun", "namespace": "default", "name": "r", "uid": "u", "rerun": 0},
            "output": {"volume": "stic", "path": "out"}, "seed": 0,
            "task": {"prepare": {"model": model, "adapter": null, "recipe": {"preferences": recipe},
                "source": {"images": {"location": images, "listFile": null, "limit": null, "onUnreadable": "Fail"}},
                "train": train, "precision": "F32"}}});
        let mut sandbox = Self { root, config, marker: Value::Null, item: Value::Null };
        let (result, _) = sandbox.step(&sandbox.config);
        let prepared =
            sandbox.path("stic").join(result["artifacts"][0]["location"]["path"].as_str().unwrap());
        sandbox.marker = serde_json::from_slice(&fs::read(prepared.join("_SUCCESS.json")).unwrap()).unwrap();
        sandbox.item = serde_json::from_slice(&fs::read(prepared.join("items.jsonl")).unwrap()).unwrap();
        let mut model = model;
        model["digest"] = result["inputs"]["model"].clone();
        sandbox.config["task"] = json!({"generate": {"model": model, "adapter": null, "items": null, "images": images,
            "recipe": recipe, "precision": "F32", "shards": 1}});
        sandbox
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// Runs a step on one core with one malloc arena, so that memory depends on the work alone. Returns the result and
    /// the peak resident memory in KiB.
    #[expect(clippy::zombie_processes, reason = "wait4 waits for it, and reports its memory")]
    fn step(&self, config: &Value) -> (Value, i64) {
        fs::write(self.path("config.json"), config.to_string()).unwrap();
        let (result, log) = (self.path("result.json"), self.path("log"));
        let child = Command::new("taskset")
            .args([
                "-c",
                &first_core(),
                TRAINER,
                "step",
                "--config",
                "config.json",
                "--volumes",
                ".",
                "--result",
            ])
            .arg(&result)
            .current_dir(self.root.path())
            .envs([("MALLOC_ARENA_MAX", "1"), ("RAYON_NUM_THREADS", "1")])
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
        #[expect(unsafe_code, reason = "the standard library does not report memory")]
        // SAFETY: both pointers are to values that live until the call returns, and a `rusage` of zeros is one.
        let (ended, usage) = unsafe {
            let ended = libc::wait4(child.id().try_into().unwrap(), &raw mut status, 0, usage.as_mut_ptr());
            (ended, usage.assume_init())
        };
        assert_eq!(
            (ended, status),
            (child.id().try_into().unwrap(), 0),
            "{}",
            fs::read_to_string(&log).unwrap()
        );
        (serde_json::from_slice(&fs::read(&result).unwrap()).unwrap(), usage.ru_maxrss)
    }

    /// The peak memory of a shard of `count` items, all but the last few of which have a row.
    fn peak_of_generate(&self, count: usize) -> i64 {
        let folder = self.path(&format!("stic/out/prepared-{count}"));
        fs::create_dir_all(&folder).unwrap();
        let items = folder.join("items.jsonl");
        self.write_rows(&items, &self.item, 0..count);
        let (digest, bytes) = Digest::of_reader(File::open(&items).unwrap()).unwrap();
        let mut marker = self.marker.clone();
        marker["digest"] = json!(digest);
        marker["sizeBytes"] = json!(bytes);
        fs::write(folder.join("_SUCCESS.json"), marker.to_string()).unwrap();
        let mut config = self.config.clone();
        config["task"]["generate"]["items"] = json!({"location": {"volume": "stic", "path": format!("out/prepared-{count}")}, "digest": digest});

        // A shard of one item shows what a row looks like and where the journal is.
        let mut one = config.clone();
        one["task"]["generate"]["shards"] = json!(count);
        let (result, _) = self.step(&one);
        let folder = result["shards"]["folder"].as_str().unwrap();
        let journal = self.path(&format!("stic/out/.partial/u-0/{folder}/shard-00000.jsonl"));
        let row: Value = serde_json::from_slice(&fs::read(&journal).unwrap()).unwrap();

        // One run in six takes 1.3 MiB more for any number of items, when the prefetching thread is one item further
        // ahead. So the smallest peak of several runs counts; what grows with the items is in every run.
        let peaks = [(); 5].map(|()| {
            self.write_rows(&journal, &row, 0..count - LEFT);
            let (result, peak) = self.step(&config);
            assert_eq!(result["items"], json!({"total": count, "done": count, "skipped": 0}));
            // Line by line: a child starts with the peak of its parent.
            assert_eq!(BufReader::new(File::open(&journal).unwrap()).lines().count(), count);
            peak
        });
        peaks.into_iter().min().unwrap()
    }

    /// `row` for each of the items.
    fn write_rows(&self, path: &Path, row: &Value, items: std::ops::Range<usize>) {
        let mut out = BufWriter::new(File::create(path).unwrap());
        let mut row = row.clone();
        for item in items {
            row["id"] = json!(format!("folder/{item:08}.png"));
            writeln!(out, "{row}").unwrap();
        }
        out.flush().unwrap();
    }
}

/// A core that this process may use.
fn first_core() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    allowed.trim().split(['-', ',']).next().unwrap().to_owned()
}

#[test]
fn the_memory_of_generate_does_not_depend_on_the_number_of_images() {
    let sandbox = Sandbox::new();
    let (few, many) = (sandbox.peak_of_generate(1_000), sandbox.peak_of_generate(100_000));
    println!("peak RSS: {few} KiB of 1,000 items, {many} KiB of 100,000");
    assert!(many * 100 < few * 105, "{few} KiB of 1,000 items, {many} KiB of 100,000");
}
