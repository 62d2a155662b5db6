//! The same seed gives the same bytes, wherever and however it runs.

use std::path::Path;
use std::process::Command;

use crate::artifacts::Content;
use crate::bench::{Baseline, Bench, IMAGES, INSTRUCTIONS, Layout, STAGE_ONE_STEPS};

#[test]
fn the_same_seed_in_another_folder_gives_the_same_bytes() {
    let baseline = Baseline::get();
    let bench = Bench::new(Layout::PLAIN);
    bench.run_both().ended(0);
    bench.assert_is_baseline(0);

    // And they are the bytes of a whole run: nothing here compares nothing.
    let count = |prefix: &str, file: &str| -> Vec<usize> {
        let files =
            baseline.artifacts.iter().filter(|(name, _)| name.starts_with(prefix) && name.ends_with(file));
        let size = |content: &Content| match content {
            Content::Bytes(bytes) => bytes.iter().filter(|byte| **byte == b'\n').count(),
            Content::Json(rows) => rows.len(),
            Content::Events(events) => events.len(),
        };
        files.map(|(_, content)| size(content)).collect()
    };
    assert_eq!(count("preferences-", "/preferences.jsonl"), [IMAGES]);
    assert_eq!(count("descriptions-", "/descriptions.jsonl"), [INSTRUCTIONS]);
    let mut steps = count("adapter-", "/metrics.jsonl");
    steps.sort_unstable();
    assert_eq!(steps, [INSTRUCTIONS, STAGE_ONE_STEPS as usize]);
    for (file, folders) in [("adapter_model.safetensors", 2), ("adapter_config.json", 2), ("README.md", 2)] {
        assert_eq!(count("adapter-", file).len(), folders, "{file}");
    }
    assert_eq!(count("", "_SUCCESS.json").len(), 6);
    // Loss, learning rate and norm at least, of every step of both.
    assert!(count("adapter-", "/tensorboard").iter().all(|events| *events >= 3 * INSTRUCTIONS));
}

#[test]
fn shards_threads_and_save_intervals_change_nothing() {
    let one_core = |program: &Path| {
        // The trainer works on as many items as it may use cores; the tensor library asks for threads itself.
        let mut command = Command::new("taskset");
        command.args(["-c", &first_core()]).arg(program).env("RAYON_NUM_THREADS", "1");
        command
    };
    let many_threads = |program: &Path| {
        let mut command = Command::new(program);
        command.env("RAYON_NUM_THREADS", "5");
        command
    };
    let bench = Bench::new(Layout { shards: 3, save_steps: 1 });
    bench.start_both(one_core).end().ended(0);
    bench.assert_is_baseline(0);
    let bench = Bench::new(Layout { shards: 2, save_steps: 500 });
    bench.start_both(many_threads).end().ended(0);
    bench.assert_is_baseline(0);
}

/// One that this process may use.
fn first_core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    allowed.trim().split(['-', ',']).next().unwrap().to_owned()
}
