//! How much disk space a step needs: a step without room is refused before it starts, not when the disk is full.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use stic_contract::config::{DataRecipe, Prepare};
use stic_contract::recipe::Lora;

use crate::error::{Error, Result};
use crate::io::human_bytes as human;
use crate::memory::estimate;
use crate::model::config::TextConfig;
use crate::training::checkpoint_policy::KEPT;

/// A token in a journal: an id and a few characters of text.
const JOURNAL_BYTES_PER_TOKEN: u64 = 12;
const JOURNAL_BYTES_PER_RECORD: u64 = 1024;
/// An answer's id and field names.
const ANSWER_BYTES: u64 = 256;
/// A few characters of text.
const ANSWER_BYTES_PER_TOKEN: u64 = 8;
/// An item's size, digest and field names.
const ITEM_BYTES: u64 = 256;
/// A pair's id and its log-probabilities under the reference policy.
const REFERENCE_BYTES: u64 = 256;
/// A training step's line in `metrics.jsonl` and its TensorBoard events.
const METRICS_BYTES_PER_STEP: u64 = 2048;

/// An upper bound of the bytes still to be written, by purpose.
#[derive(Debug, Default)]
pub(super) struct Requirement {
    parts: Vec<(&'static str, u64)>,
}

impl Requirement {
    /// Of `prepare` itself: the listing, which is sorted on disk, and the items.
    pub(super) fn of_listing(items: u64, bytes: u64) -> Self {
        Self::default().and("the listing", bytes).and("the items", bytes + items * ITEM_BYTES)
    }

    /// Of all steps after `prepare`.
    pub(super) fn of_run(task: &Prepare, config: &TextConfig, items: u64) -> Self {
        let data = record_bytes(&task.recipe) * items;
        let adapter = task.train.lora.as_ref().map_or(0, |lora| adapter_bytes(config, lora));
        Self::of_data(&task.recipe, items).and("its sealed copy", data).and_training(adapter, 0)
    }

    /// Of the data generated for `items` items.
    pub(super) fn of_data(recipe: &DataRecipe, items: u64) -> Self {
        Self::default().and("generated data", record_bytes(recipe) * items)
    }

    /// Of `answers` answers of an evaluation, which have at most `tokens` tokens in all with their descriptions.
    pub(super) fn of_answers(answers: u64, tokens: u64) -> Self {
        let bytes = answers * ANSWER_BYTES + tokens.saturating_mul(ANSWER_BYTES_PER_TOKEN);
        Self::default().and("answers", bytes)
    }

    /// Adds training an adapter of `adapter` bytes of whose training states `saved` bytes exist already: the adapter, the
    /// states that are kept and the one being written, each with weights and two moments.
    pub(super) fn and_training(self, adapter: u64, saved: u64) -> Self {
        let states = 3 * adapter * (KEPT as u64 + 1);
        self.and("the adapter", adapter).and("training states", states.saturating_sub(saved))
    }

    /// Adds the reference policy's log-probabilities of `pairs`. They are kept over epochs, and the new file is written
    /// before the old one is removed.
    pub(super) fn and_references(self, pairs: u64) -> Self {
        self.and("the reference's log-probabilities", 2 * pairs * REFERENCE_BYTES)
    }

    pub(super) fn and_metrics(self, steps: u64) -> Self {
        self.and("metrics", steps * METRICS_BYTES_PER_STEP)
    }

    pub(super) fn and(mut self, purpose: &'static str, bytes: u64) -> Self {
        self.parts.push((purpose, bytes));
        self
    }

    /// The total.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Refuses `subject`, a step or the run, if the disk has no room for it.
    ///
    /// # Errors
    /// [`Error::Storage`] if the file system of `dir` has less space left.
    pub(super) fn check(&self, subject: &str, dir: &Path) -> Result<()> {
        let stat = rustix::fs::statvfs(dir).map_err(|e| Error::storage(dir)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= self.bytes() {
            return Ok(());
        }
        let mut message = format!("{subject} needs up to {}", human(self.bytes()));
        for (index, (purpose, bytes)) in self.parts.iter().filter(|(_, bytes)| *bytes > 0).enumerate() {
            let _ =
                write!(message, "{}{} for {purpose}", if index == 0 { " (" } else { ", " }, human(*bytes));
        }
        let _ = write!(message, "), but only {} are free", human(free));
        Err(Error::storage(dir)(io::Error::new(io::ErrorKind::StorageFull, message)))
    }
}

fn record_bytes(recipe: &DataRecipe) -> u64 {
    let (responses, tokens) = match recipe {
        DataRecipe::Preferences(recipe) => (2, recipe.sampling.max_new_tokens),
        DataRecipe::Descriptions(recipe) => (1, recipe.sampling.max_new_tokens),
    };
    JOURNAL_BYTES_PER_RECORD + responses * u64::from(tokens) * JOURNAL_BYTES_PER_TOKEN
}

/// The weights of a new adapter.
pub(super) fn adapter_bytes(config: &TextConfig, lora: &Lora) -> u64 {
    estimate::adapter_bytes(config, lora.rank as usize, &lora.targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_how_much_space_is_needed_and_for_what() {
        let dir = tempfile::tempdir().expect("a folder");
        let required = |bytes| Requirement::default().and("generated data", bytes).and("metrics", 0);
        required(1).check("generate", dir.path()).expect("one byte is free");
        let refused = required(u64::MAX).check("generate", dir.path()).expect_err("no disk has that much");
        let message = refused.to_string();
        assert!(
            message.contains(
                "generate needs up to 16777216.0 TiB (16777216.0 TiB for generated data), but only "
            ),
            "{message}"
        );
        assert!(message.contains("are free; free space or enlarge the volume"), "{message}");
        assert_eq!(refused.exit_code(), stic_contract::ExitCode::StorageFailed);
    }

    #[test]
    fn existing_training_states_need_no_further_space() {
        let required = |saved| Requirement::default().and_training(100, saved).bytes();
        assert_eq!((required(0), required(600), required(10_000)), (100 + 900, 100 + 300, 100));
    }
}
