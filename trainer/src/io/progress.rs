//! Reports progress: in `progress.json`, at most a few times a second, and over HTTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stic_contract::{Progress, StepName};

use super::atomic;
use super::metrics::display;
use super::serve::LatestProgress;
use crate::error::Result;

const INTERVAL: Duration = Duration::from_millis(250);
/// How often progress is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Reports the progress of a step.
#[derive(Debug)]
pub struct Reporter {
    path: PathBuf,
    latest: LatestProgress,
    progress: Progress,
    started: Instant,
    /// Units that an earlier attempt finished, which do not count for the speed of this one.
    resumed_from: u64,
    last_write: Option<Instant>,
    last_log: Option<Instant>,
}

impl Reporter {
    /// Reports to the file at `path` and to `latest`.
    #[must_use]
    pub fn new(path: PathBuf, latest: LatestProgress, step: StepName) -> Self {
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
        Self {
            path,
            latest,
            progress,
            started: Instant::now(),
            resumed_from: 0,
            last_write: None,
            last_log: None,
        }
    }

    /// Begins an activity of `total` units, `done` of which an earlier attempt finished.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub fn begin(&mut self, activity: &str, unit: &str, done: u64, total: u64) -> Result<()> {
        tracing::info!(activity, done, total, unit, "started");
        self.progress.activity = activity.into();
        self.progress.unit = unit.into();
        self.progress.current = done;
        self.progress.total = total;
        self.resumed_from = done;
        self.started = Instant::now();
        self.last_log = Some(self.started);
        self.write()
    }

    /// Adds finished units.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub fn advance(&mut self, units: u64) -> Result<()> {
        self.progress.current += units;
        self.write_if_due()?;
        let finished = self.progress.current >= self.progress.total;
        if finished || self.last_log.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.log();
        }
        Ok(())
    }

    fn log(&mut self) {
        self.last_log = Some(Instant::now());
        let Progress { activity, current, total, unit, metrics, .. } = &self.progress;
        let metric = |name: &str| metrics.get(name).map(|value| display(*value));
        tracing::info!(
            activity,
            done = current,
            total,
            unit,
            loss = metric("loss"),
            margin = metric("rewards/margins"),
            learning_rate = metric("learning_rate"),
            per_second = display(self.progress.rate_per_second),
            remaining_seconds = self.progress.estimated_remaining_seconds,
            "progress"
        );
    }

    /// Counts a skipped item.
    pub const fn skip(&mut self) {
        self.progress.skipped += 1;
    }

    /// Replaces the metrics.
    pub fn set_metrics(&mut self, metrics: BTreeMap<String, f64>) {
        self.progress.metrics = metrics;
    }

    /// Writes the progress now.
    ///
    /// # Errors
    /// [`crate::Error::Storage`].
    pub fn flush(&mut self) -> Result<()> {
        self.write()
    }

    fn write_if_due(&mut self) -> Result<()> {
        if self.last_write.is_some_and(|at| at.elapsed() < INTERVAL)
            && self.progress.current < self.progress.total
        {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let done = self.progress.current.saturating_sub(self.resumed_from);
        self.progress.rate_per_second = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = self.progress.total.saturating_sub(self.progress.current) as f64;
        self.progress.estimated_remaining_seconds =
            (done > 0 && seconds > 0.0).then(|| (left / self.progress.rate_per_second).ceil() as u64);
        self.progress.updated = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let bytes = serde_json::to_vec(&self.progress).unwrap_or_default();
        self.last_write = Some(Instant::now());
        self.latest.set(&self.progress);
        atomic::write_unsynced(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_step_is_logged_with_loss_margin_rate_and_time_left() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let dir = tempfile::tempdir().expect("a folder");
            let file = dir.path().join("progress.json");
            let mut reporter = Reporter::new(file, LatestProgress::default(), StepName::Train);
            reporter.begin("training", "steps", 0, 2).expect("written");
            reporter.advance(1).expect("written");
            let metrics = [("loss", 0.712_371_456), ("rewards/margins", 1e-7), ("learning_rate", 2e-5)];
            reporter.set_metrics(metrics.map(|(name, value)| (name.to_owned(), value)).into());
            reporter.advance(1).expect("written");
        });
        let text = String::from_utf8(buffer.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert_eq!(text.matches(" progress ").count(), 1, "{text}");
        for part in [
            "done=2 total=2",
            "loss=\"0.712371\"",
            "margin=\"1e-7\"",
            "learning_rate=\"2e-5\"",
            "remaining_seconds=0",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
