//! Exit codes, with the numbers of `sysexits.h`, and their reference for users.

use crate::enumerated::enumerated;

enumerated! {
    /// The exit code of a trainer step, and of `kubectl-stic run`, which ends with the code of the step that stopped it.
    /// The `podFailurePolicy` of Jobs is built from these.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum ExitCode {
        /// The step finished and its artifact is in place.
        Done,
        /// A bug: nothing that the user wrote explains the failure.
        Bug,
        /// The configuration is invalid (`EX_USAGE`). Retrying without a change fails again.
        ConfigInvalid,
        /// The data is invalid (`EX_DATAERR`). The message names file, line and reason.
        DataInvalid,
        /// The judge of an evaluation does not answer (`EX_NOHOST`). A retry may succeed.
        JudgeUnavailable,
        /// The GPU ran out of memory (`EX_OSERR`), even with less in it at a time.
        OutOfMemory,
        /// Storage failed (`EX_IOERR`), for example a full disk. A retry may succeed.
        StorageFailed,
        /// Interrupted (`EX_TEMPFAIL`): the step handled SIGTERM and saved its state. It resumes when run again.
        Interrupted,
        /// The GPU failed (`EX_PROTOCOL`), which is neither the user's fault nor the trainer's. It resumes when run again.
        DeviceFailed,
        /// The judge of an evaluation refuses requests, or may be sent no more of them (`EX_NOPERM`).
        JudgeStopped,
    }
}

/// The exit code of `kubectl-stic` when the cluster cannot be reached or refuses a request (`EX_UNAVAILABLE`). No
/// trainer step ends with it.
pub const CLUSTER_UNAVAILABLE: u8 = 69;

impl ExitCode {
    /// The number the process exits with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bug => 1,
            Self::ConfigInvalid => 64,
            Self::DataInvalid => 65,
            Self::JudgeUnavailable => 68,
            Self::OutOfMemory => 71,
            Self::StorageFailed => 74,
            Self::Interrupted => 75,
            Self::DeviceFailed => 76,
            Self::JudgeStopped => 77,
        }
    }

    /// The meaning of a process's exit status. Every undocumented status is a bug.
    #[must_use]
    pub fn from_status(status: i32) -> Self {
        Self::ALL.into_iter().find(|code| i32::from(code.code()) == status).unwrap_or(Self::Bug)
    }

    /// Whether the same step with the same configuration may end differently when it is run again.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        !matches!(self, Self::Done | Self::ConfigInvalid | Self::DataInvalid | Self::JudgeStopped)
    }

    /// Whether Kubernetes ends the whole Job: another pod would fail in the same way.
    #[must_use]
    pub const fn fails_job(self) -> bool {
        matches!(self, Self::ConfigInvalid | Self::DataInvalid | Self::OutOfMemory | Self::JudgeStopped)
    }

    /// Whether Kubernetes starts the pod again without counting it: the step is not at fault, and resumes from what it saved.
    #[must_use]
    pub const fn is_interruption(self) -> bool {
        matches!(self, Self::Interrupted | Self::DeviceFailed)
    }

    /// What the code means to a user, and what to do about it.
    #[must_use]
    pub const fn help(self) -> ExitStatusHelp {
        let (meaning, advice) = match self {
            Self::Done => ("Finished; the artifacts are in place.", "Nothing to do."),
            Self::Bug => (
                "A bug. Any status that is not in this table counts as one too.",
                "Report it with the message and the log of the step.",
            ),
            Self::ConfigInvalid => (
                "The manifest, an argument, the run config or the model is invalid.",
                "Fix the field that the message names. Retrying without a change fails again.",
            ),
            Self::DataInvalid => (
                "The input data is invalid, or a file changed after its digest was recorded.",
                "Fix or restore the file that the message names.",
            ),
            Self::JudgeUnavailable => (
                "The judge of an evaluation does not answer.",
                "Check `spec.judge.url` and the judge itself. Answers and judgements are kept. The step is retried up to \
                 `spec.backoff.limit` times; after that, raise `spec.retry`.",
            ),
            Self::OutOfMemory => (
                "The GPU ran out of memory, even with less in it at a time.",
                "Use a GPU with more memory and run again, on a cluster with `spec.retry`; it continues with what was saved. Or create a run with a lower rank, `maxLength` or `maxNewTokens`.",
            ),
            Self::StorageFailed => (
                "Storage failed, for example a full disk.",
                "Free space and run again; finished items are kept. On a cluster the step is retried up to \
                 `spec.backoff.limit` times; after that, raise `spec.retry`, which continues with them.",
            ),
            Self::Interrupted => (
                "Interrupted by SIGTERM or Ctrl-C; the state was saved.",
                "Run the same command again to resume. On a cluster the step resumes by itself, unless it is \
                 interrupted three times without progress.",
            ),
            Self::DeviceFailed => (
                "The GPU failed, for example with an uncorrectable memory error.",
                "Check the node that the message names. The step resumes by itself from what it saved, unless that happens three times without progress; then raise `spec.retry`.",
            ),
            Self::JudgeStopped => (
                "The judge of an evaluation refuses requests, most often because of its key, or `spec.judge.maxRequests` are used up.",
                "Correct the key or raise `spec.judge.maxRequests`, then raise `spec.retry`. Answers and judgements are kept.",
            ),
        };
        ExitStatusHelp { status: self.code(), meaning, advice }
    }
}

/// An exit status as users meet it: one row of the reference table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatusHelp {
    /// The number, as `$?` and `kubectl get pod` show it.
    pub status: u8,
    /// What happened. One sentence of Markdown.
    pub meaning: &'static str,
    /// What to do about it. Markdown.
    pub advice: &'static str,
}

/// Statuses that are not the trainer's own: those of the plugin and of signals.
const OTHERS: [ExitStatusHelp; 3] = [
    ExitStatusHelp {
        status: CLUSTER_UNAVAILABLE,
        meaning: "`kubectl-stic` only: the cluster cannot be reached, or it refused the request.",
        advice: "Check the kubeconfig, the context and your permissions, as the message says.",
    },
    ExitStatusHelp {
        status: 137,
        meaning: "The trainer was killed by SIGKILL, most often because memory ran out (`OOMKilled`).",
        advice: "Raise the memory limit in `spec.pod.resources`. The step is retried up to `spec.backoff.limit` times and resumes from what it saved. `kubectl-stic run` reports this and exits with 1; free memory and run it again.",
    },
    ExitStatusHelp {
        status: 143,
        meaning: "The trainer received SIGTERM before it could handle it.",
        advice: "The step is retried up to `spec.backoff.limit` times; only work since its last save is lost.",
    },
];

/// The reference of exit statuses, in numeric order: those of [`ExitCode`], of the plugin, and of signals.
#[must_use]
pub fn reference() -> Vec<ExitStatusHelp> {
    let mut rows: Vec<_> = ExitCode::ALL.map(ExitCode::help).into_iter().chain(OTHERS).collect();
    rows.sort_by_key(|row| row.status);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_sysexits() {
        assert_eq!(ExitCode::ALL.map(ExitCode::code), [0, 1, 64, 65, 68, 71, 74, 75, 76, 77]);
        assert_eq!(ExitCode::from_status(75), ExitCode::Interrupted);
        assert_eq!(ExitCode::from_status(139), ExitCode::Bug);
    }

    #[test]
    fn the_reference_lists_every_status_once() {
        let statuses: Vec<u8> = reference().iter().map(|row| row.status).collect();
        assert_eq!(statuses, [0, 1, 64, 65, 68, 69, 71, 74, 75, 76, 77, 137, 143]);
    }
}
