//! Every consumer refuses an artifact with one changed bit, and names the file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::moments::Moments;
use crate::sandbox::{Baseline, Sandbox};

/// Flips a random bit of `path`.
pub(crate) fn flip(path: &Path, moments: &mut Moments) {
    let mut bytes = fs::read(path).unwrap();
    let at = moments.below(bytes.len());
    bytes[at] ^= 1 << moments.below(8);
    fs::write(path, bytes).unwrap();
    println!("flipped a bit of byte {at} of {}", path.display());
}

/// The adapter of a stage: stage 1 starts without an adapter, stage 2 with one.
pub(crate) fn adapter(sandbox: &Sandbox, stage: u8) -> PathBuf {
    sandbox.artifact("adapter-", |folder| {
        let marker: Value = serde_json::from_slice(&fs::read(folder.join("_SUCCESS.json")).unwrap()).unwrap();
        marker["madeFrom"]["adapter"].is_null() == (stage == 1)
    })
}

/// The items of a run.
fn prepared(sandbox: &Sandbox, stage: u8) -> PathBuf {
    sandbox.artifact("prepared-", |folder| {
        let items = fs::read_to_string(folder.join("items.jsonl")).unwrap();
        // Items of stage 2 are conversations.
        let conversations = items.lines().next().unwrap().contains("\"human\"");
        conversations == (stage == 2)
    })
}

/// A payload and its consumers.
struct Case {
    file: &'static str,
    folder: fn(&Sandbox) -> PathBuf,
    /// (run, step).
    consumers: &'static [(&'static str, &'static str)],
    /// Without the adapter of stage 2, which would be found and reused by the recorded digests of its inputs.
    before_stage_two: bool,
}

const CASES: [Case; 5] = [
    Case {
        file: "items.jsonl",
        folder: |sandbox| prepared(sandbox, 1),
        consumers: &[("stageonerun", "generate"), ("stageonerun", "train")],
        before_stage_two: false,
    },
    Case {
        file: "preferences.jsonl",
        folder: |sandbox| sandbox.artifact("preferences-", |_| true),
        consumers: &[("stageonerun", "train")],
        before_stage_two: false,
    },
    Case {
        file: "adapter_model.safetensors",
        folder: |sandbox| adapter(sandbox, 1),
        consumers: &[("stagetworun", "prepare"), ("stagetworun", "describe"), ("stagetworun", "train")],
        before_stage_two: true,
    },
    Case {
        file: "descriptions.jsonl",
        folder: |sandbox| sandbox.artifact("descriptions-", |_| true),
        consumers: &[("stagetworun", "train")],
        before_stage_two: false,
    },
    // The finished adapter of the run itself, which train would reuse.
    Case {
        file: "adapter_model.safetensors",
        folder: |sandbox| adapter(sandbox, 2),
        consumers: &[("stagetworun", "train")],
        before_stage_two: false,
    },
];

#[test]
fn one_changed_bit_is_refused_by_every_consumer() {
    let mut moments = Moments::draw();
    for Case { file, folder, consumers, before_stage_two } in CASES {
        for (run, name) in consumers {
            let sandbox = Sandbox::with_all_artifacts();
            if before_stage_two {
                fs::remove_dir_all(adapter(&sandbox, 2)).unwrap();
            }
            let folder = folder(&sandbox);
            flip(&folder.join(file), &mut moments);
            let ended = sandbox.start(Baseline::get().step(run, name)).wait();
            // A broken safetensors header makes the adapter unusable (64); any other change makes the data invalid (65).
            let code = ended.status.code();
            assert!(
                code == Some(65) || code == Some(64) && file.ends_with(".safetensors"),
                "{file}, {run} {name}, seed {}: {code:?}: {}",
                moments.seed,
                ended.log
            );
            ended.expect_log(&format!("{}/{file}", folder.file_name().unwrap().to_string_lossy()));
        }
    }
}

/// A changed payload with a matching digest beside it still differs from the digest that the run recorded.
#[test]
fn a_changed_payload_with_a_matching_digest_is_refused() {
    let sandbox = Sandbox::with_all_artifacts();
    let folder = adapter(&sandbox, 1);
    let path = folder.join("adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let marker = folder.join("_SUCCESS.json");
    let mut parsed: Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    let recorded = parsed["digest"].as_str().unwrap().to_owned();
    parsed["digest"] = stic_contract::Digest::of(&bytes).to_string().into();
    fs::write(&marker, serde_json::to_vec(&parsed).unwrap()).unwrap();
    for name in ["prepare", "describe"] {
        sandbox
            .start(Baseline::get().step("stagetworun", name))
            .wait()
            .expect_exit(65)
            .expect_log(&recorded)
            .expect_log(&folder.file_name().unwrap().to_string_lossy());
    }
}
