//! The same seed gives the same bytes in any folder, with any number of shards and threads.

use std::path::Path;
use std::process::Command;

use crate::artifacts::{Comparable, Content, comparable};
use crate::sandbox::{Baseline, IMAGES, INSTRUCTIONS, Layout, STAGE_ONE_STEPS, Sandbox};

#[test]
fn the_same_seed_in_another_folder_gives_the_same_bytes() {
    let baseline = Baseline::get();
    let sandbox = Sandbox::new(Layout::PLAIN);
    sandbox.run_both().expect_exit(0);
    sandbox.assert_is_baseline(0);

    // And the comparison covers a whole run.
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
    // At least loss, learning rate and norm of every step of both.
    assert!(count("adapter-", "/tensorboard").iter().all(|events| *events >= 3 * INSTRUCTIONS));
}

#[test]
fn shards_threads_and_save_intervals_change_nothing() {
    let one_core = |program: &Path| {
        // The trainer uses as many threads as it has cores; rayon has a setting of its own.
        let mut command = Command::new("taskset");
        command.args(["-c", &first_core()]).arg(program).env("RAYON_NUM_THREADS", "1");
        command
    };
    let many_threads = |program: &Path| {
        let mut command = Command::new(program);
        command.env("RAYON_NUM_THREADS", "5");
        command
    };
    let sandbox = Sandbox::new(Layout { shards: 3, save_steps: 1, ..Layout::PLAIN });
    sandbox.start_both(one_core).wait().expect_exit(0);
    sandbox.assert_is_baseline(0);
    let sandbox = Sandbox::new(Layout { shards: 2, save_steps: 500, ..Layout::PLAIN });
    sandbox.start_both(many_threads).wait().expect_exit(0);
    sandbox.assert_is_baseline(0);
}

/// bf16 is composed of the operations that a GPU uses, on the CPU too.
#[test]
fn in_bf16_the_policy_starts_equal_to_the_reference_and_shards_change_nothing() {
    let artifacts = |shards, save_steps| {
        let sandbox = Sandbox::new(Layout { shards, save_steps, precision: "BF16" });
        sandbox.run_both().expect_exit(0);
        comparable(&sandbox.output())
    };
    let found = artifacts(1, 500);
    let first = found.iter().find_map(|(name, content)| match content {
        Content::Json(rows) if name.ends_with("/metrics.jsonl") => {
            rows.first().filter(|row| row.get("rewards/margins").is_some())
        }
        _ => None,
    });
    let first = first.unwrap();
    for reward in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"] {
        assert_eq!(first[reward], 0.0, "{first}");
    }
    assert!(found == artifacts(3, 2), "the artifacts differ with other shards and save intervals");
    let names =
        |of: &Comparable| of.keys().filter(|name| name.starts_with("adapter-")).cloned().collect::<Vec<_>>();
    assert_ne!(names(&found), names(&Baseline::get().artifacts), "another precision is another artifact");
}

/// A core that this process may use.
fn first_core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    allowed.trim().split(['-', ',']).next().unwrap().to_owned()
}
