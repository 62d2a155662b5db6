//! What the reconciliation needs to know about a kind of run.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde::de::DeserializeOwned;
use stic_contract::RunKind;
use stic_crds::lifecycle::Retention;
use stic_crds::volumes::Output;
use stic_crds::{RunStatus, StageOneRun, StageTwoRun};

use super::stage_two::Upstream;
use super::{stage_one, stage_two};
use crate::refusal::Refusal;
use crate::validated::{Hardware, Validated};

/// A kind of run.
pub trait Run:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    const KIND: RunKind;

    fn status(&self) -> Option<&RunStatus>;
    /// `spec.rerun`.
    fn rerun(&self) -> u32;
    /// `spec.retry`.
    fn retry(&self) -> u32;
    fn retention(&self) -> &Retention;
    fn output(&self) -> &Output;
    /// The name of the `StageOneRun` that it starts from.
    fn upstream(&self) -> Option<&str>;
    /// Resolves the spec.
    ///
    /// # Errors
    /// The run cannot start, now or ever.
    fn validate(&self, upstream: Upstream<'_>) -> Result<Validated, Refusal>;
}

impl Run for StageOneRun {
    const KIND: RunKind = RunKind::StageOneRun;

    fn status(&self) -> Option<&RunStatus> {
        self.status.as_ref()
    }

    fn rerun(&self) -> u32 {
        self.spec.rerun
    }

    fn retry(&self) -> u32 {
        self.spec.retry
    }

    fn retention(&self) -> &Retention {
        &self.spec.retention
    }

    fn output(&self) -> &Output {
        &self.spec.output
    }

    fn upstream(&self) -> Option<&str> {
        None
    }

    fn validate(&self, _: Upstream<'_>) -> Result<Validated, Refusal> {
        stage_one::validate(self, Hardware::OfPods)
    }
}

impl Run for StageTwoRun {
    const KIND: RunKind = RunKind::StageTwoRun;

    fn status(&self) -> Option<&RunStatus> {
        self.status.as_ref()
    }

    fn rerun(&self) -> u32 {
        self.spec.rerun
    }

    fn retry(&self) -> u32 {
        self.spec.retry
    }

    fn retention(&self) -> &Retention {
        &self.spec.retention
    }

    fn output(&self) -> &Output {
        &self.spec.output
    }

    fn upstream(&self) -> Option<&str> {
        self.spec.init_from.stage_one_run_ref.as_ref().map(|reference| reference.name.as_str())
    }

    fn validate(&self, upstream: Upstream<'_>) -> Result<Validated, Refusal> {
        stage_two::validate(self, upstream, Hardware::OfPods)
    }
}
