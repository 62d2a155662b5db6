//! However many responses are computed at once, in however many shards, and wherever each was killed: one sealed
//! journal.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::artifacts::whole_lines;
use crate::bench::{Baseline, Bench, IMAGES, Step};
use crate::moments::{Moments, Work, cut_last_line};

#[test]
fn every_number_of_responses_at_once_and_of_shards_seals_the_same_bytes() {
    let mut moments = Moments::draw();
    let baseline = Baseline::get();
    let sealed = |bench: &Bench| fs::read(bench.artifact("preferences-", |_| true).join("preferences.jsonl"));
    let expected = sealed(&Bench::finished()).unwrap();
    for shards in [1, 2] {
        let generate = baseline
            .step("stageonerun", "generate")
            .with(|config| config["task"]["generate"]["shards"] = json!(shards));
        let train = baseline
            .step("stageonerun", "train")
            .with(|config| config["task"]["train"]["data"]["shards"]["shards"] = json!(shards));
        for at_once in [1, 3, 8] {
            let bench = Bench::holding(|folder| folder.starts_with("prepared-"));
            for shard in 0..shards {
                write(&bench, &generate, shard, IMAGES / shards, at_once, &mut moments);
            }
            // Sealing is the first thing that training does.
            let is_sealed = || {
                let names = fs::read_dir(bench.output()).unwrap().map(|entry| entry.unwrap().file_name());
                names.into_iter().any(|name| name.to_string_lossy().starts_with("preferences-"))
            };
            let mut training = bench.start(&train);
            assert!(training.until(is_sealed), "{shards} shards: {}", training.end().log);
            training.signal(Signal::KILL);
            training.end();
            assert!(
                sealed(&bench).unwrap() == expected,
                "{at_once} at once in {shards} shards, seed {}: the sealed journal differs",
                moments.seed
            );
        }
    }
}

/// A shard's rows, through two kills and a row cut in its middle; no row that was whole is made again.
fn write(bench: &Bench, step: &Step, shard: usize, items: usize, at_once: usize, moments: &mut Moments) {
    let work = Work::of(bench, step);
    let more = [("--shard-index", shard), ("--responses-at-once", at_once)];
    let more: Vec<String> = more.into_iter().flat_map(|(flag, n)| [flag.to_owned(), n.to_string()]).collect();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let enough = kept.len() + 1 + moments.below(2);
        let mut running = bench.start_with(step, &more);
        if running.until(|| work.rows_of(shard).len() >= enough) {
            running.signal(Signal::KILL);
        }
        running.end();
        let journal = work.journal_of(shard).unwrap();
        let rows = whole_lines(&journal);
        assert_eq!(rows[..kept.len()], kept, "shard {shard}: rows were lost or made again");
        cut_last_line(&journal);
        kept = whole_lines(&journal);
    }
    bench.start_with(step, &more).end().ended(0).saying("half written");
    let rows = work.rows_of(shard);
    assert_eq!(rows[..kept.len()], kept, "shard {shard}: rows were lost or made again");
    assert_eq!(rows.len(), items, "shard {shard}");
}
