//! Metrics of training steps under TRL's names: `metrics.jsonl`, and TensorBoard events.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic;
use super::tensorboard::{self, EventFile};
use crate::error::{Error, Result};

const METRICS_FILE: &str = "metrics.jsonl";
const EVENTS_DIR: &str = "tensorboard";

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The number of the step, from 1.
    pub step: u64,
    /// Passes over the data so far, as a fraction.
    pub epoch: f64,
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// The metric that differs between runs that are otherwise equal, so that it is no fact about an adapter.
pub const SPEED: &str = "tokens/s";

/// The last line of the `metrics.jsonl` in a folder, each value as exactly as there, without [`SPEED`]. Empty if there is
/// none.
///
/// # Errors
/// [`Error::Storage`].
pub fn last(dir: &Path) -> Result<BTreeMap<String, String>> {
    let path = dir.join(METRICS_FILE);
    let lines = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage(&path)(e)),
        read => read.unwrap_or_default(),
    };
    let last = lines.lines().last().unwrap_or_default();
    let mut values: BTreeMap<String, serde_json::Number> = serde_json::from_str(last).unwrap_or_default();
    values.remove(SPEED);
    Ok(values.into_iter().map(|(name, value)| (name, value.to_string())).collect())
}

/// A metric for people: six significant digits, and an exponent where zeros would hide them.
#[must_use]
pub fn display(value: f64) -> String {
    const DIGITS: i32 = 6;
    let rounded = format!("{value:.*e}", DIGITS as usize - 1);
    let Some((digits, exponent)) = rounded.split_once('e') else { return rounded };
    match exponent.parse::<i32>() {
        Ok(exponent @ -4..DIGITS) => {
            let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
            without_trailing_zeros(&format!("{value:.decimals$}")).to_owned()
        }
        _ => format!("{}e{exponent}", without_trailing_zeros(digits)),
    }
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Writes metrics to both places.
pub struct MetricsLog {
    path: PathBuf,
    events: EventFile,
}

impl MetricsLog {
    /// Opens the log of a training that resumes after `steps` steps. Lines and events of later steps, which will run
    /// again, are removed.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn open(dir: &Path, steps: u64) -> Result<Self> {
        let path = dir.join(METRICS_FILE);
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
        let events_dir = dir.join(EVENTS_DIR);
        atomic::create_dir(&events_dir)?;
        tensorboard::truncate_after(&events_dir, steps)?;
        Ok(Self { path, events: EventFile::create(&events_dir, steps)? })
    }

    /// Appends the metrics of one step.
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

#[cfg(test)]
mod tests {
    use super::{display, last};

    #[test]
    fn the_last_line_is_read_with_every_digit() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(last(dir.path()).expect("there may be none").is_empty());
        let lines = "{\"step\":1,\"epoch\":0.5,\"loss\":0.7}\n{\"step\":2,\"epoch\":1.0,\"loss\":0.6931471824645996,\"tokens/s\":9.5}\n";
        std::fs::write(dir.path().join("metrics.jsonl"), lines).expect("a file");
        let expected = [("epoch", "1.0"), ("loss", "0.6931471824645996"), ("step", "2")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(last(dir.path()).expect("it is read"), expected.into());
    }

    #[test]
    fn a_metric_keeps_its_significant_digits() {
        for (value, expected) in [
            (1e-7, "1e-7"),
            (2e-5, "2e-5"),
            (1.234_567_8e-7, "1.23457e-7"),
            (0.000_123_456_78, "0.000123457"),
            (0.712_371_456, "0.712371"),
            (-83.787_2, "-83.7872"),
            (0.5, "0.5"),
            (0.0, "0"),
            (1.0, "1"),
            (999_999.6, "1e6"),
            (123_456.7, "123457"),
            (12_345_678.0, "1.23457e7"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(display(value), expected);
        }
    }
}
