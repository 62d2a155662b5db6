//! How much disk a run needs, and whether it is there.

use std::io;
use std::path::Path;

use stic_contract::config::{DataRecipe, Prepare};

use crate::error::{Error, Result};
use crate::model::config::TextConfig;
use crate::model::lora::projection_shape;

/// A token takes an id and a few characters of text in a journal.
const JOURNAL_BYTES_PER_TOKEN: u64 = 12;
const JOURNAL_BYTES_PER_ROW: u64 = 1024;

/// An upper bound in bytes: journals, their sealed copy, the adapter, and two generations of training state.
pub(super) fn estimate(task: &Prepare, config: &TextConfig, items: u64) -> u64 {
    let (responses, tokens) = match &task.recipe {
        DataRecipe::Preferences(recipe) => (2, recipe.sampling.max_new_tokens),
        DataRecipe::Descriptions(recipe) => (1, recipe.sampling.max_new_tokens),
    };
    let row = JOURNAL_BYTES_PER_ROW + responses * u64::from(tokens) * JOURNAL_BYTES_PER_TOKEN;
    let adapter = task.train.lora.as_ref().map_or(0, |lora| {
        let per_layer: u64 = lora
            .targets
            .iter()
            .map(|target| {
                let (out, input) = projection_shape(config, *target);
                u64::from(lora.rank) * (out + input) as u64
            })
            .sum();
        per_layer * config.num_hidden_layers as u64 * 4
    });
    // Weights and two moments, saved beside the older state before that is removed.
    2 * items * row + adapter * (1 + 2 * 3)
}

/// # Errors
/// [`Error::Storage`] when the file system of `dir` has less than `bytes` left.
pub(super) fn require(dir: &Path, bytes: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| Error::storage(dir)(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    Err(Error::storage(dir)(io::Error::new(
        io::ErrorKind::StorageFull,
        format!("the run needs up to {}, {} are free", human(bytes), human(free)),
    )))
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
    fn a_lack_of_space_says_how_much() {
        let dir = tempfile::tempdir().expect("a folder");
        require(dir.path(), 1).expect("a byte is free");
        let message = require(dir.path(), u64::MAX).expect_err("nobody has that").to_string();
        assert!(message.contains("16777216.0 TiB") && message.contains("free space"), "{message}");
        assert_eq!(human(1536), "1.5 KiB");
    }
}
