//! Ends the process at a write to the API server, to test that nothing is lost or doubled whenever it dies.
//!
//! Only in builds with the feature `failpoints`: `STIC_FAILPOINT=after:create-job:2` aborts right after the second
//! Job was created. Without the feature this is nothing.

use std::fmt;

/// A write to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "a write is its name")]
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
    /// All of them.
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

    /// Its name, also as a metric label.
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

/// The process may end here, before `write`.
#[cfg(not(feature = "failpoints"))]
pub const fn before(_: Write) {}

/// The process may end here, after `write`.
#[cfg(not(feature = "failpoints"))]
pub const fn after(_: Write) {}

#[cfg(feature = "failpoints")]
pub use armed::{after, before};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Write;

    /// The process may end here, before `write`.
    pub fn before(write: Write) {
        reach("before", write);
    }

    /// The process may end here, after `write`.
    pub fn after(write: Write) {
        reach("after", write);
    }

    fn reach(when: &str, write: Write) {
        static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
        static SEEN: AtomicU32 = AtomicU32::new(0);
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
        if *point == format!("{when}:{write}") && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *count {
            eprintln!("failpoint {point}:{count} reached");
            std::process::abort();
        }
    }
}
