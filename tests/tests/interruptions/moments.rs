//! When to interrupt: drawn from a seed, in terms of a step's progress.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::path::{Path, PathBuf};

use crate::artifacts::whole_lines;
use crate::sandbox::{Sandbox, Step};

/// A random number generator (xorshift64*).
pub(crate) struct Moments {
    pub(crate) seed: u64,
    state: u64,
}

impl Moments {
    /// Seeded with `STIC_TEST_SEED`, or at random.
    pub(crate) fn draw() -> Self {
        let given = std::env::var("STIC_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one("seed") >> 32);
        println!("STIC_TEST_SEED={seed}");
        Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// A step's unfinished work on disk.
pub(crate) struct Work {
    dir: PathBuf,
    step: &'static str,
}

impl Work {
    pub(crate) fn of(sandbox: &Sandbox, step: &Step) -> Self {
        Self { dir: sandbox.output().join(&step.partial), step: step.name }
    }

    /// The activity that the step reports, if any.
    pub(crate) fn activity(&self) -> Option<String> {
        let text = fs::read(self.dir.join(format!("{}-00000.progress.json", self.step))).ok()?;
        let progress: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(progress["activity"].as_str()?.to_owned())
    }

    /// Removes the progress of earlier attempts.
    pub(crate) fn remove_progress(&self) {
        let _ = fs::remove_file(self.dir.join(format!("{}-00000.progress.json", self.step)));
    }

    fn find(&self, predicate: impl Fn(&str) -> bool) -> Option<PathBuf> {
        let entries = fs::read_dir(&self.dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        entries
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| predicate(&name.to_string_lossy())))
    }

    /// The journal of the first shard, usually the only one.
    pub(crate) fn journal(&self) -> Option<PathBuf> {
        self.journal_of(0)
    }

    pub(crate) fn journal_of(&self, shard: usize) -> Option<PathBuf> {
        let kind = if self.step == "generate" { "preferences-" } else { "descriptions-" };
        let folder = self.find(|name| name.starts_with(kind) && !name.contains('.'))?;
        Some(folder.join(format!("shard-{shard:05}.jsonl")))
    }

    pub(crate) fn rows(&self) -> Vec<String> {
        self.rows_of(0)
    }

    pub(crate) fn rows_of(&self, shard: usize) -> Vec<String> {
        self.journal_of(shard).map(|journal| whole_lines(&journal)).unwrap_or_default()
    }

    fn draft(&self) -> Option<PathBuf> {
        self.find(|name| name.starts_with("adapter-") && !name.contains('.'))
    }

    /// Whether there is an unfinished adapter.
    pub(crate) fn has_draft(&self) -> bool {
        self.draft().is_some()
    }

    /// A file of the unfinished adapter.
    pub(crate) fn draft_file(&self, name: &str) -> PathBuf {
        self.draft().unwrap().join(name)
    }

    /// The lines of `metrics.jsonl`, one per training step.
    pub(crate) fn metrics(&self) -> Vec<String> {
        self.draft().map(|draft| whole_lines(&draft.join("metrics.jsonl"))).unwrap_or_default()
    }

    /// Whether training is done and the adapter is being verified.
    pub(crate) fn is_verifying(&self) -> bool {
        self.draft().is_some_and(|draft| draft.join("adapter_model.safetensors").exists())
    }

    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        self.find(|name| name.starts_with("adapter-") && name.ends_with(".state"))
    }

    /// The training step of the newest saved state; 0 if there is none.
    pub(crate) fn saved(&self) -> usize {
        let Some(dir) = self.state_dir() else { return 0 };
        let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        let steps =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("state-")?.parse().ok());
        steps.max().unwrap_or(0)
    }
}

/// Cuts a file in the middle of its last line, as a crash may.
pub(crate) fn cut_last_line(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let end = bytes.len() - 1;
    let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    fs::write(path, &bytes[..start + (end - start) / 2]).unwrap();
}
