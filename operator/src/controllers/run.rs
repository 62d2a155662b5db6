//! What the reconciliation needs to know about a kind of run.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde::de::DeserializeOwned;
use stic_contract::RunKind;
use stic_crds::lifecycle::Retention;
use stic_crds::volumes::Output;
use stic_crds::{EvaluationRun, RunStatus, StageOneRun, StageTwoRun};

use super::upstream::{Upstream, Upstreams};
use super::{evaluation, stage_one, stage_two};
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
    /// The kinds and names of the runs that it starts from.
    fn upstreams(&self) -> Vec<(RunKind, &str)>;
    /// Resolves the spec.
    ///
    /// # Errors
    /// The run cannot start, now or ever.
    fn validate(&self, upstreams: Upstreams<'_>) -> Result<Validated, Refusal>;
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

    fn upstreams(&self) -> Vec<(RunKind, &str)> {
        Vec::new()
    }

    fn validate(&self, _: Upstreams<'_>) -> Result<Validated, Refusal> {
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

    fn upstreams(&self) -> Vec<(RunKind, &str)> {
        let reference = self.spec.init_from.stage_one_run_ref.iter();
        reference.map(|reference| (RunKind::StageOneRun, reference.name.as_str())).collect()
    }

    fn validate(&self, upstreams: Upstreams<'_>) -> Result<Validated, Refusal> {
        let reference = self.spec.init_from.stage_one_run_ref.as_ref();
        let upstream = reference.map_or(Upstream::Missing, |run| (upstreams.stage_one)(&run.name));
        stage_two::validate(self, upstream, Hardware::OfPods)
    }
}

impl Run for EvaluationRun {
    const KIND: RunKind = RunKind::EvaluationRun;

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

    fn upstreams(&self) -> Vec<(RunKind, &str)> {
        let subjects = self.spec.subjects.iter();
        let ones = subjects.clone().filter_map(|subject| subject.stage_one_run_ref.as_ref());
        let twos = subjects.filter_map(|subject| subject.stage_two_run_ref.as_ref());
        let ones = ones.map(|run| (RunKind::StageOneRun, run.name.as_str()));
        ones.chain(twos.map(|run| (RunKind::StageTwoRun, run.name.as_str()))).collect()
    }

    fn validate(&self, upstreams: Upstreams<'_>) -> Result<Validated, Refusal> {
        evaluation::validate(self, upstreams, Hardware::OfPods)
    }
}
