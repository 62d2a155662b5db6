//! How a step ends, in the numbers of `sysexits.h`.

/// The exit status of a trainer step. A `podFailurePolicy` is built from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// The step is done and its artifact is in place.
    Done = 0,
    /// A bug of ours: nothing the user wrote explains it.
    Bug = 1,
    /// The configuration is invalid (`EX_USAGE`): running again changes nothing.
    ConfigInvalid = 64,
    /// The data is invalid (`EX_DATAERR`): the message names file, line and reason.
    DataInvalid = 65,
    /// Storage failed (`EX_IOERR`): a full or broken disk; worth a retry.
    StorageFailed = 74,
    /// Interrupted (`EX_TEMPFAIL`): SIGTERM was honoured and the state saved; resume me.
    Interrupted = 75,
}

impl ExitCode {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Done,
        Self::Bug,
        Self::ConfigInvalid,
        Self::DataInvalid,
        Self::StorageFailed,
        Self::Interrupted,
    ];

    /// The number the process exits with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a process's exit status; anything undocumented is a bug.
    #[must_use]
    pub fn from_status(status: i32) -> Self {
        Self::ALL.into_iter().find(|code| i32::from(code.code()) == status).unwrap_or(Self::Bug)
    }

    /// Whether the same step with the same configuration may end otherwise.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        !matches!(self, Self::Done | Self::ConfigInvalid | Self::DataInvalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_sysexits() {
        assert_eq!(ExitCode::ALL.map(ExitCode::code), [0, 1, 64, 65, 74, 75]);
        assert_eq!(ExitCode::from_status(75), ExitCode::Interrupted);
        assert_eq!(ExitCode::from_status(139), ExitCode::Bug);
    }
}
