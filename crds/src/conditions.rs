//! The condition types of a run and the reasons that they carry.
//!
//! The reason of the condition `Succeeded` is the phase of the run. To add a reason, add a variant with a doc comment
//! that tells a user what it means and what to do, and give it a row in [`Reason::classification`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stic_contract::pipeline::Phase;
use stic_contract::{ExitCode, StepName};

/// An enum whose variants are words of the API, each with its documentation available at run time.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// Every variant, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as the API writes it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }

            /// What a user needs to know about the word: the doc comment of the variant.
            #[must_use]
            pub const fn documentation(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| UnknownWord {
                    what: stringify!($name),
                    text: text.to_owned(),
                })
            }
        }
    };
}

/// A word that this version of the API does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownWord {
    what: &'static str,
    text: String,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a {} of stic.dev/{}", self.text, self.what, crate::VERSION)
    }
}

impl std::error::Error for UnknownWord {}

words! {
    /// The type of a condition of a run. Every run has each of them once.
    pub enum ConditionType {
        /// Unknown while the run is under way, True when every artifact is complete, False when the run failed. Its
        /// reason is the phase that `kubectl get` shows.
        Succeeded,
        /// Whether everything that the run reads exists and was checked. Unknown until the step prepare has checked it.
        InputsReady,
        /// Whether `spec.suspend` holds the run: no step starts, and running pods save their state and end.
        Suspended,
        /// kstatus: True until the run is accepted and its first Job exists, and while it waits for somebody to fix something.
        Reconciling,
        /// kstatus: True when the run failed.
        Stalled,
    }
}

words! {
    /// Why a condition has its status: one word for each cause, also used as a label of metrics.
    pub enum Reason {
        /// The Job of the step waits to be admitted, most often by Kueue. The message names the Workload and what Kueue
        /// says about it.
        Queued,
        /// The step prepare checks and digests the inputs. Nothing to do.
        Preparing,
        /// The step generate writes a chosen and a rejected response for each image. Nothing to do.
        Generating,
        /// The step describe writes a description for each instruction. Nothing to do.
        Describing,
        /// The step train trains the adapter. Nothing to do.
        Training,
        /// The step answer asks the models the questions of the benchmarks. Nothing to do.
        Answering,
        /// The step judge asks the judge about the answers. Nothing to do.
        Judging,
        /// The step score scores the answers. Nothing to do.
        Scoring,
        /// `spec.suspend` is true. Set it to false to resume the run.
        Suspended,
        /// `spec.suspend` is false. Nothing to do.
        NotSuspended,
        /// Every input exists and was checked. Nothing to do.
        InputsReady,
        /// Every artifact is complete. `status.artifacts` says where they are.
        Succeeded,
        /// The StageOneRun that this run starts from or evaluates does not exist or has not succeeded. Apply it or wait for it; this run
        /// then starts on its own.
        StageOneNotSucceeded,
        /// The StageOneRun that this run starts from failed. Fix it and raise its `spec.retry`; this run then starts on its
        /// own.
        StageOneFailed,
        /// A StageTwoRun that this run evaluates does not exist or has not succeeded. Apply it or wait for it; this run then
        /// starts on its own.
        StageTwoNotSucceeded,
        /// A StageTwoRun that this run evaluates failed. Fix it and raise its `spec.retry`; this run then starts on its own.
        StageTwoFailed,
        /// A field of the spec has a value that can never work. Create the run again with the field corrected.
        InvalidSpec,
        /// The operator cannot fetch the model from the source that the spec names. Copy the model to a volume and name
        /// that in the spec.
        ModelSourceUnsupported,
        /// Several pods would have to mount a claim that only one pod may mount. Set `shards` to 1, or use a claim with
        /// the access mode ReadWriteMany.
        ClaimNotShareable,
        /// The model is not the one that the adapter was trained on. Restore that model, or run stage 1 on this one.
        ModelChanged,
        /// The trainer rejected its configuration (exit code 64). The message names the field; correct it in a new run.
        ConfigInvalid,
        /// An input is malformed (exit code 65). The message names the file and line; correct it and raise `spec.retry`.
        DataInvalid,
        /// Reading from or writing to a volume failed (exit code 74), most often because it is full. Free space, then
        /// raise `spec.retry`.
        StorageFailed,
        /// The step was interrupted repeatedly and made no progress in between (exit code 75). The log of its last pod
        /// shows what interrupts it; fix that and raise `spec.retry`.
        Interrupted,
        /// The trainer failed for a reason that no configuration explains: it was killed, or has a bug. See the log of its
        /// last pod, then raise `spec.retry`.
        TrainerFailed,
        /// The trainer needed more memory than its limit and was killed, or than its GPU has. The message names what to
        /// change. A step that is being retried uses it at its next attempt; a run that has failed needs `spec.retry`
        /// raised, too.
        OutOfMemory,
        /// A step reported success without everything that the next step needs. Use the trainer image of the operator's
        /// version, then raise `spec.rerun`.
        ResultIncomplete,
        /// The run did not end within `spec.activeDeadlineSeconds`. Raise that and `spec.retry`.
        DeadlineExceeded,
        /// An object with the name that the run needs exists and is not owned by this run. Delete or rename it; the run
        /// then continues on its own.
        NameTaken,
        /// A setting in `spec.pod` cannot work, such as a resource claim that no container uses. The message names the
        /// field; correct it, and the run continues on its own.
        PodInvalid,
        /// The API server rejected an object of the run, most often because of `spec.pod`. Correct what the message names;
        /// the run then continues on its own.
        JobRejected,
        /// Several reconciliations in a row failed, for example because an admission webhook does not respond or the
        /// operator lacks a right. The message has the words of the API server. The operator keeps trying, and the
        /// reason disappears with the cause.
        ReconcileFailed,
        /// A warning event only: the operator cannot read the progress of a step from its pods. Let it connect to their
        /// port 8080. The step itself is not affected.
        ProgressUnreadable,
        /// A PersistentVolumeClaim that the run uses does not exist. Create it; the run then continues on its own.
        ClaimMissing,
        /// A PersistentVolumeClaim has lost its volume. Restore the volume or the claim; the run then continues on its own.
        ClaimLost,
        /// A PersistentVolumeClaim is being deleted, so that no new pod can mount it. Create it again once it is gone.
        ClaimTerminating,
        /// A PersistentVolumeClaim has no volume yet. Create a PersistentVolume that fits, or use a storage class that
        /// provisions one.
        ClaimUnbound,
        /// The Job controller cannot create pods, for example because an admission webhook rejects them. Fix what the
        /// message names; the pods are then created on their own.
        PodsNotCreated,
        /// A ResourceQuota leaves no room for an object of the run. Free or raise the quota; the run then continues on
        /// its own.
        QuotaExceeded,
        /// No node has what the pod requests. Free or add such a node, or change `spec.pod`; the step is
        /// then launched again.
        Unschedulable,
        /// The image of the pod cannot be pulled. Make it available, or correct `spec.pod`; the step is then
        /// launched again.
        ImagePullFailed,
        /// The kubelet refused a pod before it started, for example because a device plugin was not up yet. Such pods do
        /// not count towards `spec.backoff.limit`: the step is tried again, at growing intervals and up to ten times. If
        /// it keeps failing, fix what the message names and raise `spec.retry`.
        PodRejected,
        /// A volume cannot be attached to the node of a pod or mounted in it. The message has the event of the pod that
        /// says why; fix that, and the pod starts on its own.
        VolumeNotMounted,
        /// The trainer has ended, but another container, such as an injected sidecar, keeps its pod from ending. Exclude
        /// the pods from injection with `spec.pod.labels` or `spec.pod.annotations`, and the step is launched again; or
        /// inject it as a native sidecar.
        SidecarRunning,
        /// A container other than the trainer's, such as an injected one, failed, and its pod with it. See the log of
        /// that container, then raise `spec.retry`.
        ContainerFailed,
        /// A pod was deleted and does not end within its grace period, most often because a process of it hangs in a
        /// storage operation, or its node is lost. `kubectl describe pod`, the node's condition and the log of its kubelet
        /// say more.
        PodNotEnding,
        /// The container of the pod cannot start. Fix what the message names, or correct `spec.pod`; the step is then
        /// launched again.
        PodStartFailed,
        /// The node of a pod does not respond. Its pod is not replaced while it might still write; bring the node back,
        /// or taint it as out of service.
        NodeLost,
        /// A GPU failed several times without progress in between. The message names the node; have it checked, or keep the run
        /// away from it, then raise `spec.retry`.
        DeviceFailed,
        /// The judge of an evaluation does not answer (exit code 68). Check `spec.judge.url` and the judge itself; if it
        /// keeps failing, raise `spec.retry`. Answers and judgements are kept.
        JudgeUnavailable,
        /// The judge refuses requests, most often because of its key, or `spec.judge.maxRequests` are used up (exit code
        /// 77). Correct that, then raise `spec.retry`. Answers and judgements are kept.
        JudgeStopped,
        /// Kueue has deactivated the Workload of the step for good, for example because its pods did not become ready in
        /// time too often. The message has the last problem of its pods; fix that, then raise `spec.retry`.
        WorkloadDeactivated,
        /// The operator may not change Kueue's Workloads, which it must do to suspend or resume a run in a queue. Set the
        /// chart value `kueue.enabled` to true; the operator then continues on its own.
        KueueForbidden,
        /// A pod disappeared before its result was read. The step is retried; if it keeps failing, raise `spec.retry`.
        ResultLost,
        /// The Job of the step was deleted. The step is retried; if it keeps failing, raise `spec.retry`.
        JobDeleted,
        /// Another version of the operator wrote the run, and this version cannot read it. Install that version.
        NotUnderstood,
    }
}

/// What a reason means for a run as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonKind {
    /// The run waits for a queue, for the end of a suspension, or for another run.
    Waiting,
    /// The run is under way.
    Progressing,
    /// Something that the user can fix keeps the run from continuing. It is published as a warning.
    Trouble,
    /// The run has failed, or its step has.
    Failed,
    /// The run has succeeded.
    Succeeded,
}

/// Whether a step that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Another attempt would end in the same way.
    Never,
    /// As often as `spec.backoff.limit` allows.
    WithinLimit,
    /// The step is not at fault, so it is tried at least this often, whatever `spec.backoff.limit` says.
    AtLeast(u32),
}

/// What a reason says about the inputs of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputState {
    /// Nothing.
    Unaffected,
    /// One is missing or unusable now, even if it was checked before.
    Unavailable,
    /// The step prepare found one to be wrong.
    Rejected,
}

/// Everything that follows from a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Classification {
    /// What the reason means for the run.
    pub kind: ReasonKind,
    /// Whether a step that failed for it is tried again.
    pub retry: Retry,
    /// What the reason says about the inputs.
    pub inputs: InputState,
    /// The exit code of `kubectl stic run` when a run ends with it.
    pub exit_code: ExitCode,
}

impl Classification {
    const fn of(kind: ReasonKind, retry: Retry, inputs: InputState, exit_code: ExitCode) -> Self {
        Self { kind, retry, inputs, exit_code }
    }
}

impl Reason {
    /// The one place that says what follows from each reason.
    #[must_use]
    pub const fn classification(self) -> Classification {
        use ExitCode::{
            Bug, ConfigInvalid, DataInvalid, DeviceFailed, Done, Interrupted, JudgeStopped, JudgeUnavailable,
            OutOfMemory, StorageFailed,
        };
        use InputState::{Rejected, Unaffected, Unavailable};
        use ReasonKind::{Failed, Progressing, Succeeded, Trouble, Waiting};
        use Retry::{AtLeast, Never, WithinLimit};
        match self {
            Self::Preparing
            | Self::Generating
            | Self::Describing
            | Self::Training
            | Self::Answering
            | Self::Judging
            | Self::Scoring
            | Self::NotSuspended
            | Self::InputsReady => Classification::of(Progressing, Never, Unaffected, ConfigInvalid),
            Self::Succeeded => Classification::of(Succeeded, Never, Unaffected, Done),
            Self::Queued | Self::Suspended => Classification::of(Waiting, Never, Unaffected, ConfigInvalid),
            Self::StageOneNotSucceeded | Self::StageTwoNotSucceeded => {
                Classification::of(Waiting, Never, Unavailable, ConfigInvalid)
            }
            Self::InvalidSpec | Self::ModelSourceUnsupported | Self::WorkloadDeactivated => {
                Classification::of(Failed, Never, Unaffected, ConfigInvalid)
            }
            // The deadline of a Job came first. Once that of the run has passed, `decide` starts nothing.
            Self::DeadlineExceeded => Classification::of(Failed, WithinLimit, Unaffected, ConfigInvalid),
            Self::ClaimNotShareable => Classification::of(Failed, Never, Unavailable, ConfigInvalid),
            Self::ConfigInvalid => Classification::of(Failed, Never, Rejected, ConfigInvalid),
            Self::ModelChanged | Self::DataInvalid => {
                Classification::of(Failed, Never, Rejected, DataInvalid)
            }
            Self::StorageFailed => Classification::of(Failed, WithinLimit, Unaffected, StorageFailed),
            Self::Interrupted => Classification::of(Failed, WithinLimit, Unaffected, Interrupted),
            Self::TrainerFailed | Self::ContainerFailed => {
                Classification::of(Failed, WithinLimit, Unaffected, Bug)
            }
            Self::OutOfMemory => Classification::of(Failed, WithinLimit, Unaffected, OutOfMemory),
            Self::DeviceFailed => Classification::of(Failed, WithinLimit, Unaffected, DeviceFailed),
            Self::JudgeUnavailable => Classification::of(Failed, WithinLimit, Unaffected, JudgeUnavailable),
            Self::JudgeStopped => Classification::of(Failed, Never, Unaffected, JudgeStopped),
            // Bounded, because a node may refuse pods for ever.
            Self::PodRejected => Classification::of(Trouble, AtLeast(10), Unaffected, ConfigInvalid),
            Self::ResultIncomplete => Classification::of(Failed, Never, Unaffected, Bug),
            Self::ResultLost | Self::JobDeleted => {
                Classification::of(Failed, AtLeast(3), Unaffected, ConfigInvalid)
            }
            Self::StageOneFailed
            | Self::StageTwoFailed
            | Self::ClaimMissing
            | Self::ClaimLost
            | Self::ClaimTerminating
            | Self::ClaimUnbound => Classification::of(Trouble, Never, Unavailable, ConfigInvalid),
            Self::NameTaken
            | Self::PodInvalid
            | Self::JobRejected
            | Self::ReconcileFailed
            | Self::ProgressUnreadable
            | Self::PodsNotCreated
            | Self::QuotaExceeded
            | Self::Unschedulable
            | Self::ImagePullFailed
            | Self::PodStartFailed
            | Self::VolumeNotMounted
            | Self::SidecarRunning
            | Self::PodNotEnding
            | Self::NodeLost
            | Self::KueueForbidden
            | Self::NotUnderstood => Classification::of(Trouble, Never, Unaffected, ConfigInvalid),
        }
    }

    /// Whether a run with this phase needs attention: such a phase is published as a warning.
    #[must_use]
    pub const fn is_warning(self) -> bool {
        matches!(self.classification().kind, ReasonKind::Trouble | ReasonKind::Failed)
    }

    /// Whether `spec.activeDeadlineSeconds` does not run down in this phase, because the run is not allowed to work.
    #[must_use]
    pub const fn pauses_deadline(self) -> bool {
        matches!(self.classification().kind, ReasonKind::Waiting)
            || matches!(self, Self::StageOneFailed | Self::StageTwoFailed)
    }

    /// Whether the run waits for another one.
    #[must_use]
    pub const fn awaits_run(self) -> bool {
        matches!(self, Self::StageOneNotSucceeded | Self::StageTwoNotSucceeded)
    }

    /// The phase of a run that has not failed, as `kubectl get` shows it.
    #[must_use]
    pub fn display(self) -> String {
        match self.classification().kind {
            ReasonKind::Trouble => format!("Waiting ({self})"),
            ReasonKind::Failed => format!("Failed ({self})"),
            ReasonKind::Waiting if self.awaits_run() => format!("Waiting ({self})"),
            ReasonKind::Waiting | ReasonKind::Progressing | ReasonKind::Succeeded => self.to_string(),
        }
    }

    /// The phase of a run while `step` is running.
    #[must_use]
    pub const fn of_step(step: StepName) -> Self {
        match step.phase() {
            Phase::Preparing => Self::Preparing,
            Phase::Generating => Self::Generating,
            Phase::Describing => Self::Describing,
            Phase::Training => Self::Training,
            Phase::Answering => Self::Answering,
            Phase::Judging => Self::Judging,
            Phase::Scoring => Self::Scoring,
        }
    }

    /// Why a step failed whose trainer ended with `exit`.
    #[must_use]
    pub const fn of_exit(exit: ExitCode) -> Self {
        match exit {
            ExitCode::ConfigInvalid => Self::ConfigInvalid,
            ExitCode::DataInvalid => Self::DataInvalid,
            ExitCode::StorageFailed => Self::StorageFailed,
            ExitCode::Interrupted => Self::Interrupted,
            ExitCode::OutOfMemory => Self::OutOfMemory,
            ExitCode::DeviceFailed => Self::DeviceFailed,
            ExitCode::JudgeUnavailable => Self::JudgeUnavailable,
            ExitCode::JudgeStopped => Self::JudgeStopped,
            ExitCode::Done | ExitCode::Bug => Self::TrainerFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_reasons_round_trip_through_text() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(serde_json::to_value(reason).expect("a string"), reason.as_str());
        }
        for kind in ConditionType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        let unknown = "Sleeping".parse::<Reason>().expect_err("no such reason").to_string();
        assert_eq!(unknown, "\"Sleeping\" is not a Reason of stic.dev/v1alpha1");
    }

    #[test]
    fn every_word_is_documented_in_whole_sentences() {
        let reasons = Reason::ALL.iter().map(|reason| (reason.as_str(), reason.documentation()));
        let types = ConditionType::ALL.iter().map(|kind| (kind.as_str(), kind.documentation()));
        for (word, text) in reasons.chain(types) {
            assert!(text.ends_with('.') && !text.contains("  "), "{word}: {text}");
        }
    }

    #[test]
    fn a_failed_step_is_retried_if_its_exit_code_is_retryable() {
        for exit in ExitCode::ALL.into_iter().filter(|exit| *exit != ExitCode::Done) {
            let classification = Reason::of_exit(exit).classification();
            assert_eq!(classification.kind, ReasonKind::Failed);
            assert_eq!(classification.retry != Retry::Never, exit.is_retryable(), "{exit:?}");
            assert_eq!(classification.exit_code, exit);
        }
    }
}
