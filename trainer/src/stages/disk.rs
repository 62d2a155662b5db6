//! How much disk a step needs, and whether it is there: a step is refused before it starts, not when the disk is full.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use stic_contract::config::{DataRecipe, Prepare};
use stic_contract::recipe::{Lora, LoraTarget};

use crate::error::{Error, Result};
use crate::model::config::TextConfig;
use crate::model::lora::projection_shape;
use crate::training::checkpoint_policy::KEPT;

/// A token takes an id and a few characters of text in a journal.
const JOURNAL_BYTES_PER_TOKEN: u64 = 12;
const JOURNAL_BYTES_PER_ROW: u64 = 1024;
/// The size, the digest and the names of the fields of an item.
const ITEM_BYTES: u64 = 256;
/// The id of a pair and its log-probabilities under the reference policy.
const REFERENCE_BYTES: u64 = 256;
/// A step's line in `metrics.jsonl` and its events.
const METRICS_BYTES_PER_STEP: u64 = 2048;

/// What is still to be written, an upper bound in bytes.
#[derive(Debug, Default)]
pub(super) struct Need {
    parts: Vec<(&'static str, u64)>,
}

impl Need {
    /// Of `prepare` itself: the listing, which is sorted on the disk, and the items.
    pub(super) fn of_listing(items: u64, bytes: u64) -> Self {
        Self::default().and("the listing", bytes).and("the items", bytes + items * ITEM_BYTES)
    }

    /// Of all steps after `prepare`.
    pub(super) fn of_run(task: &Prepare, config: &TextConfig, items: u64) -> Self {
        let rows = row_bytes(&task.recipe) * items;
        let adapter = task.train.lora.as_ref().map_or(0, |lora| adapter_bytes(config, lora));
        Self::of_rows(&task.recipe, items).and("their sealed copy", rows).and_training(adapter, 0)
    }

    /// Of the rows of `items` items.
    pub(super) fn of_rows(recipe: &DataRecipe, items: u64) -> Self {
        Self::default().and("rows", row_bytes(recipe) * items)
    }

    /// And of training an adapter of `adapter` bytes where `saved` bytes of its states are there: the adapter, and the
    /// states that are kept beside the one that is written, each of them weights and two moments.
    pub(super) fn and_training(self, adapter: u64, saved: u64) -> Self {
        let states = 3 * adapter * (KEPT as u64 + 1);
        self.and("the adapter", adapter).and("training states", states.saturating_sub(saved))
    }

    /// And of what the reference policy makes of `pairs`, which is kept over epochs and written anew beside the old.
    pub(super) fn and_references(self, pairs: u64) -> Self {
        self.and("the reference's log-probabilities", 2 * pairs * REFERENCE_BYTES)
    }

    /// And of the metrics of `steps` steps.
    pub(super) fn and_metrics(self, steps: u64) -> Self {
        self.and("metrics", steps * METRICS_BYTES_PER_STEP)
    }

    /// And `bytes` of `what`.
    pub(super) fn and(mut self, what: &'static str, bytes: u64) -> Self {
        self.parts.push((what, bytes));
        self
    }

    /// All of it.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Refuses `who`, a step or the run, where the disk has no room for it.
    ///
    /// # Errors
    /// [`Error::Storage`] when the file system of `dir` has less left.
    pub(super) fn require(&self, who: &str, dir: &Path) -> Result<()> {
        let stat = rustix::fs::statvfs(dir).map_err(|e| Error::storage(dir)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= self.bytes() {
            return Ok(());
        }
        let mut message = format!("{who} needs up to {}", human(self.bytes()));
        for (index, (what, bytes)) in self.parts.iter().filter(|(_, bytes)| *bytes > 0).enumerate() {
            let _ = write!(message, "{}{} for {what}", if index == 0 { " (" } else { ", " }, human(*bytes));
        }
        let _ = write!(message, "), {} are free", human(free));
        Err(Error::storage(dir)(io::Error::new(io::ErrorKind::StorageFull, message)))
    }
}

fn row_bytes(recipe: &DataRecipe) -> u64 {
    let (responses, tokens) = match recipe {
        DataRecipe::Preferences(recipe) => (2, recipe.sampling.max_new_tokens),
        DataRecipe::Descriptions(recipe) => (1, recipe.sampling.max_new_tokens),
    };
    JOURNAL_BYTES_PER_ROW + responses * u64::from(tokens) * JOURNAL_BYTES_PER_TOKEN
}

/// The weights of a new adapter in f32.
pub(super) fn adapter_bytes(config: &TextConfig, lora: &Lora) -> u64 {
    let of_target = |target: &LoraTarget| {
        let (out, input) = projection_shape(config, *target);
        u64::from(lora.rank) * (out + input) as u64
    };
    lora.targets.iter().map(of_target).sum::<u64>() * config.num_hidden_layers as u64 * 4
}

/// `1.5 GiB`.
pub(super) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_space_says_how_much_and_what_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let need = |bytes| Need::default().and("rows", bytes).and("metrics", 0);
        need(1).require("generate", dir.path()).expect("a byte is free");
        let refused = need(u64::MAX).require("generate", dir.path()).expect_err("nobody has that");
        let message = refused.to_string();
        assert!(
            message.contains("generate needs up to 16777216.0 TiB (16777216.0 TiB for rows), "),
            "{message}"
        );
        assert!(message.contains("are free; free space or enlarge the volume"), "{message}");
        assert_eq!(refused.exit_code(), stic_contract::ExitCode::StorageFailed);
        assert_eq!(human(1536), "1.5 KiB");
    }

    #[test]
    fn states_that_are_there_are_not_needed_again() {
        let need = |saved| Need::default().and_training(100, saved).bytes();
        assert_eq!((need(0), need(600), need(10_000)), (100 + 900, 100 + 300, 100));
    }
}
