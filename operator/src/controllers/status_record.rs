//! The status of a run on its way to the API server.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stic_contract::RunIdentity;
use stic_crds::status::{StepState, StepStatus};
use stic_crds::{ConditionType, RunStatus};

use super::run::Run;
use crate::context::Context;
use crate::run_key::RunKey;
use crate::status::differs;

/// The last status that was written, and what is needed to write the next one.
pub(super) struct StatusRecord<'a, K> {
    pub object: &'a K,
    pub key: RunKey,
    pub run: RunIdentity,
    pub status: RunStatus,
    /// The resource version that has [`Self::status`].
    pub version: Option<String>,
}

impl<K: Run> StatusRecord<'_, K> {
    /// Writes `next` if it says anything new, and publishes an event if the run has entered another phase.
    pub(super) async fn write(&mut self, context: &Context, next: RunStatus) -> kube::Result<()> {
        if !differs(&self.status, &next) {
            return Ok(());
        }
        let version = context.writer.patch_status::<K>(&self.run, self.version.as_deref(), &next).await?;
        context.statuses.insert(&self.key, &self.run.uid, version.clone(), &next);
        self.record_durations(context, &next);
        let reason = next.reason();
        if let (Some(condition), Some(reason)) = (next.condition(ConditionType::Succeeded), reason)
            && (self.status.phase() != next.phase() || self.status.rerun != next.rerun)
        {
            tracing::info!(reason = reason.as_str(), detail = condition.message, "entered a phase");
            context.metrics.phase_entered(self.run.kind, reason);
            context.writer.publish(&self.run, reason, &condition.message).await;
        }
        self.version = version;
        self.status = next;
        Ok(())
    }

    /// Records how long the run and its steps took that have ended between the last status and `next`.
    fn record_durations(&self, context: &Context, next: &RunStatus) {
        let kind = self.run.kind;
        let seconds = |start: &Option<Time>, end: &Option<Time>| {
            Duration::try_from(end.as_ref()?.0.duration_since(start.as_ref()?.0)).ok()
        };
        let same_rerun = self.status.rerun == next.rerun;
        for step in &next.steps {
            let before = self.status.step(step.name).filter(|_| same_rerun);
            let StepStatus { start_time, completion_time, state, .. } = step;
            let state = match state {
                StepState::Succeeded => "Succeeded",
                StepState::Failed => "Failed",
                StepState::Pending | StepState::Running | StepState::Suspended | StepState::Reused => {
                    continue;
                }
            };
            if before.is_none_or(|before| before.completion_time.is_none())
                && let Some(duration) = seconds(start_time, completion_time)
            {
                context.metrics.step_ended(kind, step.name, state, duration);
            }
        }
        if next.completion_time.is_some()
            && !(same_rerun && self.status.completion_time.is_some())
            && let Some(reason) = next.reason()
            && let Some(duration) = seconds(&next.start_time, &next.completion_time)
        {
            context.metrics.run_ended(kind, reason, duration);
        }
    }
}
