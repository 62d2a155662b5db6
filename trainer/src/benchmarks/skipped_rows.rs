//! The rows that cannot be used: listed where they end an evaluation, and in the log where they are left out.

use stic_contract::recipe::OnUnreadable;

use super::question_reader::SkippedRow;
use crate::error::{Error, Result};

/// How many rows are listed.
const LISTED: usize = 10;

/// Counts rows that cannot be used, and keeps the first.
#[derive(Debug, Default)]
pub struct SkippedRows {
    count: usize,
    first: Vec<String>,
}

impl SkippedRows {
    pub fn add(&mut self, row: &SkippedRow) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(format!("{}: {}", row.benchmark, row.reason));
        }
    }

    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The first row.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.first.first().map(String::as_str)
    }

    /// Logs the rows that are left out. `skip` is what leaves them out.
    ///
    /// # Errors
    /// [`Error::Data`] with the first rows, if there are any and they are not to be left out.
    pub fn accept(&self, on_unreadable: OnUnreadable, skip: &str) -> Result<()> {
        let Self { count, first } = self;
        if *count == 0 {
            return Ok(());
        }
        if on_unreadable == OnUnreadable::Skip {
            for problem in first {
                tracing::warn!("left out: {problem}");
            }
            tracing::warn!(rows = count, "left out rows that cannot be used");
            return Ok(());
        }
        let more =
            if *count > first.len() { format!("\nand {} more", count - first.len()) } else { String::new() };
        Err(Error::Data(format!(
            "{}{more}\nCorrect these rows, or leave them out with {skip}.",
            first.join("\n")
        )))
    }
}
