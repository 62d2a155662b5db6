//! Ends the process at a write to the API server, to test that nothing is lost or duplicated wherever it dies.
//!
//! Only builds with the feature `failpoints` do so: `STIC_FAILPOINT=after:create-job:2` aborts right after the second Job
//! was created.

use std::fmt;

/// A kind of write to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    CreateClaim,
    CreateConfigMap,
    CreateJob,
    PatchClaim,
    PatchJob,
    PatchWorkload,
    DeleteConfigMap,
    DeleteJob,
    PatchStatus,
    CreateEvent,
}

impl Write {
    pub const ALL: [Self; 10] = [
        Self::CreateClaim,
        Self::CreateConfigMap,
        Self::CreateJob,
        Self::PatchClaim,
        Self::PatchJob,
        Self::PatchWorkload,
        Self::DeleteConfigMap,
        Self::DeleteJob,
        Self::PatchStatus,
        Self::CreateEvent,
    ];

    /// The name, in `STIC_FAILPOINT` and as a label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateClaim => "create-claim",
            Self::CreateConfigMap => "create-config-map",
            Self::CreateJob => "create-job",
            Self::PatchClaim => "patch-claim",
            Self::PatchJob => "patch-job",
            Self::PatchWorkload => "patch-workload",
            Self::DeleteConfigMap => "delete-config-map",
            Self::DeleteJob => "delete-job",
            Self::PatchStatus => "patch-status",
            Self::CreateEvent => "create-event",
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ends the process here if `STIC_FAILPOINT` names the point before `write`.
#[cfg(not(feature = "failpoints"))]
pub const fn before(_: Write) {}

/// Ends the process here if `STIC_FAILPOINT` names the point after `write`.
#[cfg(not(feature = "failpoints"))]
pub const fn after(_: Write) {}

#[cfg(feature = "failpoints")]
pub use armed::{after, before};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Write;

    /// Ends the process here if `STIC_FAILPOINT` names the point before `write`.
    pub fn before(write: Write) {
        reach("before", write);
    }

    /// Ends the process here if `STIC_FAILPOINT` names the point after `write`.
    pub fn after(write: Write) {
        reach("after", write);
    }

    fn reach(when: &str, write: Write) {
        static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
        static REACHED: AtomicU32 = AtomicU32::new(0);
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var("STIC_FAILPOINT").ok()?;
            let (point, count) = match text.rsplit_once(':') {
                Some((point, count)) if count.parse::<u32>().is_ok() => {
                    (point.to_owned(), count.parse().unwrap_or(1))
                }
                _ => (text, 1),
            };
            Some((point, count))
        });
        let Some((point, count)) = armed else { return };
        if *point == format!("{when}:{write}") && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *count {
            eprintln!("failpoint {point}:{count} reached");
            std::process::abort();
        }
    }
}
