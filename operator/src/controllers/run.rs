//! What the controllers need of a kind.

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
    /// Which.
    const KIND: RunKind;

    /// Its status.
    fn status(&self) -> Option<&RunStatus>;
    /// The rerun it asks for.
    fn rerun(&self) -> u32;
    /// What stays when it is over.
    fn retention(&self) -> &Retention;
    /// Where its artifacts go.
    fn output(&self) -> &Output;
    /// The `StageOneRun` it starts from.
    fn upstream(&self) -> Option<&str>;
    /// Settles everything about it.
    ///
    /// # Errors
    /// What keeps it from running, now or ever.
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
