//! What is known about reading the progress of Jobs.
//!
//! An interruption counts as one without progress only if progress was read since the previous one. After a restart of
//! the operator that is not known, and the interruption does not count.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;

/// A trainer that starts, or a pod that ends, is unreachable for a shorter time.
const UNREACHABLE: SignedDuration = SignedDuration::from_secs(30);

/// The reads of each Job's progress, by the Job's UID.
#[derive(Debug, Default)]
pub struct ProgressLog {
    by_job: Mutex<HashMap<String, Reads>>,
}

#[derive(Debug, Default)]
struct Reads {
    /// How many interruptions there had been when progress was last read.
    interruptions: Option<u32>,
    failing_since: Option<Time>,
    reported: bool,
}

impl ProgressLog {
    /// Records that progress was read after this many interruptions.
    pub fn succeeded(&self, job: &str, interruptions: u32) {
        let mut by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        let reads = by_job.entry(job.to_owned()).or_default();
        reads.interruptions = Some(interruptions);
        reads.failing_since = None;
    }

    /// Records that progress could not be read, and returns whether that is to be reported now: once for each Job.
    pub fn failed(&self, job: &str, now: &Time) -> bool {
        let mut by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        let reads = by_job.entry(job.to_owned()).or_default();
        let since = reads.failing_since.get_or_insert_with(|| now.clone());
        let due = !reads.reported && now.0.duration_since(since.0) >= UNREACHABLE;
        reads.reported |= due;
        due
    }

    /// Whether progress was read after this many interruptions.
    #[must_use]
    pub fn is_known(&self, job: &str, interruptions: u32) -> bool {
        let by_job = self.by_job.lock().unwrap_or_else(PoisonError::into_inner);
        by_job.get(job).and_then(|reads| reads.interruptions).is_some_and(|read| read >= interruptions)
    }

    /// Forgets a Job that was deleted.
    pub fn forget(&self, job: &str) {
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_progress_is_reported_once_for_each_job() {
        let log = ProgressLog::default();
        let at = |second: u32| Time(format!("2026-11-26T12:00:{second:02}Z").parse().expect("a time"));
        assert_eq!([0, 29, 30, 59].map(|second| log.failed("a", &at(second))), [false, false, true, false]);
        assert!(!log.is_known("a", 0));
        log.succeeded("a", 1);
        assert_eq!([1, 2].map(|interruptions| log.is_known("a", interruptions)), [true, false]);
        log.failed("b", &at(0));
        log.succeeded("b", 0);
        assert!(!log.failed("b", &at(40)), "it was read in between");
        log.forget("a");
        assert!(!log.is_known("a", 1));
    }
}
