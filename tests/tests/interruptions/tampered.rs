//! An artifact of which one bit was changed is refused by whoever reads it, and the message names the file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::{Baseline, Bench};
use crate::moments::Moments;

/// Flips a bit of `path`, somewhere.
pub(crate) fn flip(path: &Path, moments: &mut Moments) {
    let mut bytes = fs::read(path).unwrap();
    let at = moments.below(bytes.len());
    bytes[at] ^= 1 << moments.below(8);
    fs::write(path, bytes).unwrap();
    println!("flipped a bit of byte {at} of {}", path.display());
}

/// The adapter of a stage: that of stage 1 was made from nothing, that of stage 2 from an adapter.
pub(crate) fn adapter(bench: &Bench, stage: u8) -> PathBuf {
    bench.artifact("adapter-", |folder| {
        let marker: Value = serde_json::from_slice(&fs::read(folder.join("_SUCCESS.json")).unwrap()).unwrap();
        marker["madeFrom"]["adapter"].is_null() == (stage == 1)
    })
}

/// The items of a run.
fn prepared(bench: &Bench, stage: u8) -> PathBuf {
    bench.artifact("prepared-", |folder| {
        let items = fs::read_to_string(folder.join("items.jsonl")).unwrap();
        // Items of stage 2 are conversations.
        let conversations = items.lines().next().unwrap().contains("\"human\"");
        conversations == (stage == 2)
    })
}

/// A payload, and who reads it.
struct Case {
    file: &'static str,
    folder: fn(&Bench) -> PathBuf,
    /// (run, step).
    consumers: &'static [(&'static str, &'static str)],
    /// Stage 2 is not done yet: a finished adapter is found by the digests its inputs were recorded with.
    before_stage_two: bool,
}

const CASES: [Case; 5] = [
    Case {
        file: "items.jsonl",
        folder: |bench| prepared(bench, 1),
        consumers: &[("stageonerun", "generate"), ("stageonerun", "train")],
        before_stage_two: false,
    },
    Case {
        file: "preferences.jsonl",
        folder: |bench| bench.artifact("preferences-", |_| true),
        consumers: &[("stageonerun", "train")],
        before_stage_two: false,
    },
    Case {
        file: "adapter_model.safetensors",
        folder: |bench| adapter(bench, 1),
        consumers: &[("stagetworun", "prepare"), ("stagetworun", "describe"), ("stagetworun", "train")],
        before_stage_two: true,
    },
    Case {
        file: "descriptions.jsonl",
        folder: |bench| bench.artifact("descriptions-", |_| true),
        consumers: &[("stagetworun", "train")],
        before_stage_two: false,
    },
    // Its own finished adapter, which train finds and does not make again.
    Case {
        file: "adapter_model.safetensors",
        folder: |bench| adapter(bench, 2),
        consumers: &[("stagetworun", "train")],
        before_stage_two: false,
    },
];

#[test]
fn by_one_bit_is_refused_by_every_consumer_and_named() {
    let mut moments = Moments::draw();
    for Case { file, folder, consumers, before_stage_two } in CASES {
        for (run, name) in consumers {
            let bench = Bench::finished();
            if before_stage_two {
                fs::remove_dir_all(adapter(&bench, 2)).unwrap();
            }
            let folder = folder(&bench);
            flip(&folder.join(file), &mut moments);
            let ended = bench.start(Baseline::get().step(run, name)).end();
            // A broken header of safetensors is an adapter that cannot be used; all else is data that was changed.
            let code = ended.status.code();
            assert!(
                code == Some(65) || code == Some(64) && file.ends_with(".safetensors"),
                "{file}, {run} {name}, seed {}: {code:?}: {}",
                moments.seed,
                ended.log
            );
            ended.saying(&format!("{}/{file}", folder.file_name().unwrap().to_string_lossy()));
        }
    }
}

/// Whoever changes the payload and the digest beside it still meets the digest that the run recorded.
#[test]
fn with_its_digest_is_refused_too() {
    let bench = Bench::finished();
    let folder = adapter(&bench, 1);
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
        bench
            .start(Baseline::get().step("stagetworun", name))
            .end()
            .ended(65)
            .saying(&recorded)
            .saying(&folder.file_name().unwrap().to_string_lossy());
    }
}
