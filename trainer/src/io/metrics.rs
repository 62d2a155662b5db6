//! Per-step metrics under the names TRL gives them: `metrics.jsonl`, and TensorBoard events.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic;
use super::tensorboard::{self, EventFile};
use crate::error::{Error, Result};

const FILE: &str = "metrics.jsonl";
const EVENTS: &str = "tensorboard";

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps taken, this one included.
    pub step: u64,
    /// Passes over the data so far, in parts.
    pub epoch: f64,
    /// By name.
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// Writes both.
pub struct MetricsLog {
    path: PathBuf,
    events: EventFile,
}

impl MetricsLog {
    /// Goes on after `steps` steps: lines and events of later ones, which are taken again, are dropped.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn open(dir: &Path, steps: u64) -> Result<Self> {
        let path = dir.join(FILE);
        let earlier = match std::fs::read(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(&path)(e)),
            read => read.unwrap_or_default(),
        };
        let kept: String = String::from_utf8_lossy(&earlier)
            .lines()
            .filter(|line| serde_json::from_str::<StepMetrics>(line).is_ok_and(|m| m.step <= steps))
            .map(|line| format!("{line}\n"))
            .collect();
        atomic::write(&path, kept.as_bytes())?;
        let events_dir = dir.join(EVENTS);
        atomic::create_dir(&events_dir)?;
        tensorboard::cut_back(&events_dir, steps)?;
        Ok(Self { path, events: EventFile::create(&events_dir, steps)? })
    }

    /// Appends one step.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_vec(metrics)
            .map_err(|e| Error::Storage { path: self.path.clone(), source: std::io::Error::other(e) })?;
        line.push(b'\n');
        OpenOptions::new()
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(&line))
            .map_err(Error::storage(&self.path))?;
        for (name, value) in &metrics.values {
            self.events.scalar(&format!("train/{name}"), *value, metrics.step)?;
        }
        self.events.flush()
    }
}
