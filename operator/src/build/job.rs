//! The Job of a launch.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use stic_contract::{Digest, ExitCode, StepName};
use stic_crds::volumes::AccessMode;

use super::names::{self, LaunchId};
use super::pod::TRAINER_CONTAINER;
use super::{labels, pod};
use crate::validated::Validated;

/// The label that hands a Job to Kueue.
pub const QUEUE_NAME: &str = "kueue.x-k8s.io/queue-name";

/// Kueue's label for the priority of a Job, which may change with the queue.
pub const PRIORITY_CLASS: &str = "kueue.x-k8s.io/priority-class";
/// The labels that say where a Job waits.
pub const QUEUE_LABELS: [&str; 2] = [QUEUE_NAME, PRIORITY_CLASS];
/// The annotation that the operator sets in the same write in which it suspends a Job or deactivates a Workload: it undoes
/// only what it did itself.
pub const SUSPENDED_BY: &str = "stic.dev/suspended-by";

/// The annotation with the queue that the run named when its Job was created or moved. Kueue itself puts Jobs whose run names
/// none into the queue `default`, where that exists.
pub const QUEUE_OF_RUN: &str = "stic.dev/queue";

/// The annotation with a digest of the pod settings that a Job was created with.
pub const SETTINGS: &str = "stic.dev/pod-settings";

/// The annotation with `spec.activeDeadlineSeconds` of the run that the deadline of its Job was computed from.
pub const DEADLINE_OF_RUN: &str = "stic.dev/active-deadline-seconds";

/// Lets Kueue start fewer pods at once than a Job asks for.
const MIN_PARALLELISM: &str = "kueue.x-k8s.io/job-min-parallelism";
/// Lets Kueue reduce the number of indexes, too. The run config fixes the number of shards, so that the data of the indexes
/// that were left out would be missing.
const COMPLETIONS_EQUAL_PARALLELISM: &str = "kueue.x-k8s.io/job-completions-equal-parallelism";

/// What a Job depends on besides the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSettings {
    /// The trainer image of pods whose spec names none.
    pub trainer_image: String,
    /// Whether an existing claim of the run can be mounted on one node only.
    pub one_node: bool,
    /// The existing claims that can only be mounted read-only.
    pub read_only_claims: BTreeSet<String>,
    /// Seconds after which Kubernetes ends the Job.
    pub deadline_seconds: Option<u32>,
}

/// The Job of a launch. It is created once and never applied again.
#[must_use]
pub fn job(run: &Validated, launch: LaunchId, settings: &JobSettings) -> Job {
    let sharded = run.steps().any(|spec| spec.name == launch.step && spec.sharded);
    let shards = if sharded { run.shards } else { 1 };
    let limit = Some(i32::try_from(run.operation.backoff_limit).unwrap_or(i32::MAX));
    let shards_i32 = i32::try_from(shards).unwrap_or(i32::MAX);
    let mut labels = labels::of_launch(run, launch.step);
    labels.extend(run.operation.queue_labels.clone());
    // Kueue admits a Job that is created suspended; from then on Kueue owns the field.
    let queue = run.operation.queue_labels.get(QUEUE_NAME);
    let queued = queue.is_some();
    let mut annotations = run.operation.queue_annotations.clone();
    annotations.extend(queue.map(|queue| (QUEUE_OF_RUN.to_owned(), queue.clone())));
    annotations.remove(COMPLETIONS_EQUAL_PARALLELISM);
    // Kueue's webhook rejects it on a Job with one pod.
    if shards < 2 {
        annotations.remove(MIN_PARALLELISM);
    }
    annotations.insert(SETTINGS.into(), settings_digest(run, launch.step));
    let deadline = run.operation.active_deadline_seconds;
    annotations.extend(deadline.map(|seconds| (DEADLINE_OF_RUN.to_owned(), seconds.to_string())));
    if run.operation.suspend && !queued {
        annotations.insert(SUSPENDED_BY.into(), labels::OPERATOR.into());
    }
    Job {
        metadata: ObjectMeta {
            name: Some(names::launch(&run.run, launch)),
            namespace: Some(run.run.namespace.clone()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![labels::owner(&run.run)]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: settings.deadline_seconds.map(i64::from),
            backoff_limit: if sharded { None } else { limit },
            backoff_limit_per_index: if sharded { limit } else { None },
            completion_mode: Some(if sharded { "Indexed" } else { "NonIndexed" }.into()),
            completions: Some(shards_i32),
            parallelism: Some(shards_i32),
            pod_failure_policy: Some(pod_failure_policy()),
            // A replacement starts only after its predecessor has ended: two pods must never write one checkpoint.
            pod_replacement_policy: Some("Failed".into()),
            suspend: Some(queued || run.operation.suspend),
            template: pod::template(
                run,
                launch,
                &settings.trainer_image,
                sharded,
                shards > 1 && (settings.one_node || output_is_for_one_node(run)),
                &settings.read_only_claims,
            ),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// A digest of the pod settings, which may change in the spec and are fixed in a Job.
#[must_use]
pub fn settings_digest(run: &Validated, step: StepName) -> String {
    Digest::of_json(&json!(run.pod(step))).short(16)
}

fn output_is_for_one_node(run: &Validated) -> bool {
    run.output.claim.as_ref().is_some_and(|claim| !claim.access_modes.contains(&AccessMode::ReadWriteMany))
}

// The first rule that matches applies.
fn pod_failure_policy() -> PodFailurePolicy {
    let on_exit = |action: &str, of: fn(ExitCode) -> bool| PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            // The exit codes of injected containers mean something else.
            container_name: Some(TRAINER_CONTAINER.into()),
            operator: "In".into(),
            values: ExitCode::ALL
                .into_iter()
                .filter(|code| of(*code))
                .map(|code| i32::from(code.code()))
                .collect(),
        }),
        ..PodFailurePolicyRule::default()
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".into(),
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".into(),
                    status: Some("True".into()),
                }]),
                ..PodFailurePolicyRule::default()
            },
            on_exit("FailJob", ExitCode::fails_job),
            on_exit("Ignore", ExitCode::is_interruption),
        ],
    }
}
