//! Any batch size, any number of shards, killed anywhere: the same sealed journal.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::artifacts::whole_lines;
use crate::moments::{Moments, Work, cut_last_line};
use crate::sandbox::{Baseline, IMAGES, Sandbox, Step};

#[test]
fn every_batch_size_and_number_of_shards_seals_the_same_bytes() {
    let mut moments = Moments::draw();
    let baseline = Baseline::get();
    let sealed =
        |sandbox: &Sandbox| fs::read(sandbox.artifact("preferences-", |_| true).join("preferences.jsonl"));
    let expected = sealed(&Sandbox::with_all_artifacts()).unwrap();
    for shards in [1, 2] {
        let generate = baseline
            .step("stageonerun", "generate")
            .with(|config| config["task"]["generate"]["shards"] = json!(shards));
        let train = baseline
            .step("stageonerun", "train")
            .with(|config| config["task"]["train"]["data"]["shards"]["shards"] = json!(shards));
        for batch_size in [1, 3, 8] {
            let sandbox = Sandbox::with_artifacts(|folder| folder.starts_with("prepared-"));
            for shard in 0..shards {
                generate_shard(&sandbox, &generate, shard, IMAGES / shards, batch_size, &mut moments);
            }
            // Training seals before anything else.
            let is_sealed = || {
                let names = fs::read_dir(sandbox.output()).unwrap().map(|entry| entry.unwrap().file_name());
                names.into_iter().any(|name| name.to_string_lossy().starts_with("preferences-"))
            };
            let mut training = sandbox.start(&train);
            assert!(training.until(is_sealed), "{shards} shards: {}", training.wait().log);
            training.signal(Signal::KILL);
            training.wait();
            assert!(
                sealed(&sandbox).unwrap() == expected,
                "batch size {batch_size}, {shards} shards, seed {}: the sealed journal differs",
                moments.seed
            );
        }
    }
}

/// Generates a shard through two kills, each with a half-written row; no complete row is generated again.
fn generate_shard(
    sandbox: &Sandbox,
    step: &Step,
    shard: usize,
    items: usize,
    batch_size: usize,
    moments: &mut Moments,
) {
    let work = Work::of(sandbox, step);
    let more = [("--shard-index", shard), ("--responses-at-once", batch_size)];
    let more: Vec<String> = more.into_iter().flat_map(|(flag, n)| [flag.to_owned(), n.to_string()]).collect();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let enough = kept.len() + 1 + moments.below(2);
        let mut running = sandbox.start_with(step, &more);
        if running.until(|| work.rows_of(shard).len() >= enough) {
            running.signal(Signal::KILL);
        }
        running.wait();
        let journal = work.journal_of(shard).unwrap();
        let rows = whole_lines(&journal);
        assert_eq!(rows[..kept.len()], kept, "shard {shard}: rows were lost or generated again");
        cut_last_line(&journal);
        kept = whole_lines(&journal);
    }
    sandbox.start_with(step, &more).wait().expect_exit(0).expect_log("the last row is incomplete");
    let rows = work.rows_of(shard);
    assert_eq!(rows[..kept.len()], kept, "shard {shard}: rows were lost or generated again");
    assert_eq!(rows.len(), items, "shard {shard}");
}
