//! The errors of the trainer, and the one place where they become exit codes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use stic_contract::ExitCode;

/// Why a step failed. Every message names the file and the field, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run config or a model's file is unusable. A retry cannot succeed.
    #[error("{0}")]
    Config(String),
    /// The data is unusable. A retry cannot succeed.
    #[error("{0}")]
    Data(String),
    /// Reading or writing failed. A retry may succeed.
    #[error("{path}: {source}; {}", storage_advice(path, source))]
    Storage { path: PathBuf, source: std::io::Error },
    /// The step ended because of SIGTERM or SIGINT, after it saved its state.
    #[error("interrupted; finished work was saved, run the step again to continue")]
    Interrupted,
    /// The GPU ran out of memory.
    #[error(
        "the GPU ran out of memory: {0}; lower preferences.batchSize, description.batchSize or an evaluation's batchSize, or use a larger GPU, and raise spec.retry; or create a run with a lower training.maxLength, rank or maxNewTokens"
    )]
    OutOfMemory(String),
    /// The GPU has less memory than the least that the step can take.
    #[error(
        "{0}; use a larger GPU and raise spec.retry, or create a run with a lower training.maxLength, rank or maxNewTokens"
    )]
    GpuTooSmall(String),
    /// The GPU failed. A retry resumes from what was saved, on another one if there is one.
    #[error("the GPU failed: {0}")]
    DeviceFailed(String),
    /// The judge of an evaluation does not answer. A retry may succeed.
    #[error("{0}")]
    JudgeUnavailable(String),
    /// The judge of an evaluation refuses requests, or may be sent no more of them.
    #[error("{0}")]
    JudgeStopped(String),
    /// The tensor library failed, which is a bug of the trainer.
    #[error("tensor computation failed: {0}; this is a bug, please report it with the run config")]
    Tensor(candle_core::Error),
}

/// Without the backtrace of a build that has one, which explains nothing here.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// What CUDA and cuBLAS call a lack of memory. cuBLAS cannot be initialized without memory for its workspace.
const OUT_OF_MEMORY: [&str; 3] =
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"];

/// What they call a GPU that no longer works. An illegal address or an invalid value is not among them: that is a bug.
const DEVICE_FAILED: [&str; 14] = [
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_DEVICE_NOT_LICENSED",
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    "CUDA_ERROR_UNKNOWN",
    "CUBLAS_STATUS_EXECUTION_FAILED",
];

impl From<stic_evaluation::error::Error> for Error {
    fn from(error: stic_evaluation::error::Error) -> Self {
        Self::Data(error.to_string())
    }
}

impl From<candle_core::Error> for Error {
    /// candle has no variant for what happens to a device: its errors contain the text of CUDA's.
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        let is_any = |names: &[&str]| names.iter().any(|name| text.contains(name));
        if is_any(&OUT_OF_MEMORY) {
            Self::OutOfMemory(first_line(&text))
        } else if is_any(&DEVICE_FAILED) {
            Self::DeviceFailed(first_line(&text))
        } else {
            Self::Tensor(error)
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A storage error at `path`.
    pub fn storage(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Storage { path, source }
    }

    /// An error in opening an input at `path`: a data error where the file does not exist, else a storage error.
    pub fn input(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| {
            let reason = match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => "not found",
                ErrorKind::IsADirectory => "is a folder where a file is expected",
                _ => return Self::Storage { path, source },
            };
            Self::Data(format!("{}: {reason}; correct the path, or put the file there", path.display()))
        }
    }

    /// The same error with the file and line of one row in front.
    #[must_use]
    pub fn in_row(self, row: &str) -> Self {
        match self {
            Self::Config(message) => Self::Config(format!("{row}: {message}")),
            Self::Data(message) => Self::Data(format!("{row}: {message}")),
            other => other,
        }
    }

    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::ConfigInvalid,
            Self::Data(_) => ExitCode::DataInvalid,
            Self::Storage { .. } => ExitCode::StorageFailed,
            Self::Interrupted => ExitCode::Interrupted,
            Self::OutOfMemory(_) | Self::GpuTooSmall(_) => ExitCode::OutOfMemory,
            Self::DeviceFailed(_) => ExitCode::DeviceFailed,
            Self::JudgeUnavailable(_) => ExitCode::JudgeUnavailable,
            Self::JudgeStopped(_) => ExitCode::JudgeStopped,
            Self::Tensor(_) => ExitCode::Bug,
        }
    }
}

/// What Kubernetes sets in every container.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

fn storage_advice(path: &Path, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::NotFound => "check that the path exists in the volume",
        ErrorKind::PermissionDenied if std::env::var_os(IN_A_POD).is_some() => {
            "check the owner of the volume and the pod's fsGroup"
        }
        ErrorKind::PermissionDenied => return permission_advice(path),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space or enlarge the volume, then run again: finished items are kept"
        }
        ErrorKind::FileTooLarge => {
            "raise the limit on the size of a file (ulimit -f), then run again: finished items are kept"
        }
        ErrorKind::ReadOnlyFilesystem => "the output volume must be mounted read-write",
        _ => "check the volume, then run again: finished items are kept",
    };
    advice.to_owned()
}

/// Names what this user may not read or write: the file, or the deepest folder on the way to it that exists.
fn permission_advice(path: &Path) -> String {
    use rustix::fs::Access;
    let denied = path.ancestors().find(|part| part.exists()).unwrap_or(path);
    let to_read = if denied.is_dir() { Access::READ_OK | Access::EXEC_OK } else { Access::READ_OK };
    let what = if rustix::fs::access(denied, to_read).is_ok() { "write" } else { "read" };
    format!("no {what} permission on {}: change its owner or mode, or run as another user", denied.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_a_gpu_is_no_bug() {
        let exit = |text: &str| Error::from(candle_core::Error::Msg(text.into()).bt()).exit_code();
        let of_driver =
            |name: &str| exit(&format!("DriverError({name}, \"what it means\") when launching copy"));
        assert_eq!(of_driver("CUDA_ERROR_OUT_OF_MEMORY"), ExitCode::OutOfMemory);
        assert_eq!(exit("CublasError(CUBLAS_STATUS_ALLOC_FAILED)"), ExitCode::OutOfMemory);
        assert_eq!(of_driver("CUDA_ERROR_ECC_UNCORRECTABLE"), ExitCode::DeviceFailed);
        assert_eq!(of_driver("CUDA_ERROR_LAUNCH_FAILED"), ExitCode::DeviceFailed);
        assert_eq!(of_driver("CUDA_ERROR_ILLEGAL_ADDRESS"), ExitCode::Bug);
        assert_eq!(exit("shape mismatch in matmul"), ExitCode::Bug);
    }

    #[test]
    fn outside_a_pod_a_denied_path_is_named_without_a_pod() {
        let dir = tempfile::tempdir().expect("a folder");
        let denied = |path: &Path| Error::storage(path)(ErrorKind::PermissionDenied.into()).to_string();
        let message = denied(&dir.path().join("a/b"));
        let expected = format!(
            "no write permission on {}: change its owner or mode, or run as another user",
            dir.path().display()
        );
        assert!(message.ends_with(&expected), "{message}");
    }
}
