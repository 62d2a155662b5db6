//! `progress.json`, replaced at most a few times a second, and the same on the board that is served.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stic_contract::{Progress, StepName};

use super::atomic;
use super::serve::Board;
use crate::error::Result;

const INTERVAL: Duration = Duration::from_millis(250);

/// Reports how far a step is.
#[derive(Debug)]
pub struct Reporter {
    path: PathBuf,
    board: Board,
    progress: Progress,
    started: Instant,
    /// Units an earlier attempt had done: they say nothing about this one's speed.
    inherited: u64,
    written: Option<Instant>,
}

impl Reporter {
    /// To `path` and `board`.
    #[must_use]
    pub fn new(path: PathBuf, board: Board, step: StepName) -> Self {
        let progress = Progress {
            step,
            activity: "starting".into(),
            current: 0,
            total: 0,
            unit: "items".into(),
            rate_per_second: 0.0,
            estimated_remaining_seconds: None,
            metrics: BTreeMap::new(),
            skipped: 0,
            updated: 0,
        };
        Self { path, board, progress, started: Instant::now(), inherited: 0, written: None }
    }

    /// Begins an activity of `total` units, `done` of which an earlier attempt did.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub fn begin(&mut self, activity: &str, unit: &str, done: u64, total: u64) -> Result<()> {
        tracing::info!(activity, done, total, unit, "begins");
        self.progress.activity = activity.into();
        self.progress.unit = unit.into();
        self.progress.current = done;
        self.progress.total = total;
        self.inherited = done;
        self.started = Instant::now();
        self.write()
    }

    /// Some units are done.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub fn advance(&mut self, units: u64) -> Result<()> {
        self.progress.current += units;
        self.write_if_due()
    }

    /// An item was left out.
    pub const fn skip(&mut self) {
        self.progress.skipped += 1;
    }

    /// The latest metrics.
    pub fn metrics(&mut self, metrics: BTreeMap<String, f64>) {
        self.progress.metrics = metrics;
    }

    /// Writes what is there, at the end.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub fn flush(&mut self) -> Result<()> {
        self.write()
    }

    fn write_if_due(&mut self) -> Result<()> {
        if self.written.is_some_and(|at| at.elapsed() < INTERVAL)
            && self.progress.current < self.progress.total
        {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = self.progress.current.saturating_sub(self.inherited);
        self.progress.rate_per_second = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = self.progress.total.saturating_sub(self.progress.current) as f64;
        self.progress.estimated_remaining_seconds =
            (done > 0 && seconds > 0.0).then(|| (left / self.progress.rate_per_second).ceil() as u64);
        self.progress.updated = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let bytes = serde_json::to_vec(&self.progress).unwrap_or_default();
        self.written = Some(Instant::now());
        self.board.show(&self.progress);
        atomic::write_unsynced(&self.path, &bytes)
    }
}
