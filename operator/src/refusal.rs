//! Why a run does not go on, in words that a condition can carry.

use std::fmt;

use stic_contract::{ExitCode, StepName};

/// The reason of a condition: `CamelCase`, one word per cause, safe as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "a reason is its name; the message explains it")]
pub enum Reason {
    Queued,
    Preparing,
    Generating,
    Describing,
    Training,
    Suspended,
    NotSuspended,
    InputsReady,
    Succeeded,
    StageOneNotSucceeded,
    InvalidSpec,
    ModelSourceUnsupported,
    ClaimNotShareable,
    ModelChanged,
    ConfigInvalid,
    DataInvalid,
    StorageFailed,
    Interrupted,
    TrainerFailed,
    ResultIncomplete,
    DeadlineExceeded,
    NameTaken,
    JobRejected,
    ClaimMissing,
    ClaimLost,
    ClaimTerminating,
    ClaimUnbound,
    PodsNotCreated,
    QuotaExceeded,
    Unschedulable,
    ImagePullFailed,
    PodStartFailed,
    NodeLost,
    ResultLost,
    JobDeleted,
    NotUnderstood,
}

impl Reason {
    /// As it stands in a condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Preparing => "Preparing",
            Self::Generating => "Generating",
            Self::Describing => "Describing",
            Self::Training => "Training",
            Self::Suspended => "Suspended",
            Self::NotSuspended => "NotSuspended",
            Self::InputsReady => "InputsReady",
            Self::Succeeded => "Succeeded",
            Self::StageOneNotSucceeded => "StageOneNotSucceeded",
            Self::InvalidSpec => "InvalidSpec",
            Self::ModelSourceUnsupported => "ModelSourceUnsupported",
            Self::ClaimNotShareable => "ClaimNotShareable",
            Self::ModelChanged => "ModelChanged",
            Self::ConfigInvalid => "ConfigInvalid",
            Self::DataInvalid => "DataInvalid",
            Self::StorageFailed => "StorageFailed",
            Self::Interrupted => "Interrupted",
            Self::TrainerFailed => "TrainerFailed",
            Self::ResultIncomplete => "ResultIncomplete",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NameTaken => "NameTaken",
            Self::JobRejected => "JobRejected",
            Self::ClaimMissing => "ClaimMissing",
            Self::ClaimLost => "ClaimLost",
            Self::ClaimTerminating => "ClaimTerminating",
            Self::ClaimUnbound => "ClaimUnbound",
            Self::PodsNotCreated => "PodsNotCreated",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::Unschedulable => "Unschedulable",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::PodStartFailed => "PodStartFailed",
            Self::NodeLost => "NodeLost",
            Self::ResultLost => "ResultLost",
            Self::JobDeleted => "JobDeleted",
            Self::NotUnderstood => "NotUnderstood",
        }
    }

    /// The phase of a run whose step runs.
    #[must_use]
    pub const fn of_step(step: StepName) -> Self {
        match step {
            StepName::Prepare => Self::Preparing,
            StepName::Generate => Self::Generating,
            StepName::Describe => Self::Describing,
            StepName::Train => Self::Training,
        }
    }

    /// Why a step failed.
    #[must_use]
    pub const fn of_exit(exit: ExitCode) -> Self {
        match exit {
            ExitCode::ConfigInvalid => Self::ConfigInvalid,
            ExitCode::DataInvalid => Self::DataInvalid,
            ExitCode::StorageFailed => Self::StorageFailed,
            ExitCode::Interrupted => Self::Interrupted,
            ExitCode::Done | ExitCode::Bug => Self::TrainerFailed,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A spec that cannot become a [`crate::Validated`], now or ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something it needs is not there yet.
    #[error("{message}")]
    Wait {
        /// The reason.
        reason: Reason,
        /// What is awaited, and what to do if it never comes.
        message: String,
    },
    /// It can never run.
    #[error("{field}: {message}; {mend}")]
    Invalid {
        /// The reason.
        reason: Reason,
        /// The field at fault.
        field: String,
        /// What is wrong with it.
        message: String,
        /// What to do.
        mend: &'static str,
    },
}

impl Refusal {
    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>, mend: &'static str) -> Self {
        Self::Invalid { reason: Reason::InvalidSpec, field: field.into(), message: message.into(), mend }
    }
}
