//! The Job of an attempt at a step.

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_contract::{ExitCode, pipeline};
use stic_crds::volumes::AccessMode;

use super::{Attempt, labels, names, pod};
use crate::validated::Validated;

/// The label that hands a Job to Kueue.
pub const QUEUE_NAME: &str = "kueue.x-k8s.io/queue-name";

/// What a Job depends on beside the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSettings {
    /// The trainer's image, for pods that name none.
    pub trainer_image: String,
    /// Whether the volumes can be mounted on one node only, as observed of claims that exist.
    pub one_node: bool,
    /// Seconds left until the run's deadline.
    pub remaining_seconds: Option<u32>,
}

/// The Job of an attempt. It is created once and never applied again.
#[must_use]
pub fn job(run: &Validated, attempt: Attempt, settings: &JobSettings) -> Job {
    let sharded = pipeline::steps(run.run.kind).iter().any(|spec| spec.name == attempt.step && spec.sharded);
    let shards = if sharded { run.shards } else { 1 };
    let limit = Some(i32::try_from(run.operation.backoff_limit).unwrap_or(i32::MAX));
    let shards_i32 = i32::try_from(shards).unwrap_or(i32::MAX);
    let mut labels = labels::of_step(&run.run, attempt.step);
    labels.extend(run.operation.queue_labels.clone());
    let annotations = run.operation.queue_annotations.clone();
    // Kueue admits a Job that is created suspended, and from then on the field is Kueue's.
    let queued = run.operation.queue_labels.contains_key(QUEUE_NAME);
    Job {
        metadata: ObjectMeta {
            name: Some(names::attempt(&run.run, attempt)),
            namespace: Some(run.run.namespace.clone()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![labels::owner(&run.run)]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: settings.remaining_seconds.map(i64::from),
            backoff_limit: if sharded { None } else { limit },
            backoff_limit_per_index: if sharded { limit } else { None },
            completion_mode: Some(if sharded { "Indexed" } else { "NonIndexed" }.into()),
            completions: Some(shards_i32),
            parallelism: Some(shards_i32),
            pod_failure_policy: Some(pod_failure_policy()),
            // Two pods never share a checkpoint.
            pod_replacement_policy: Some("Failed".into()),
            suspend: Some(queued || run.operation.suspend),
            template: pod::template(
                run,
                attempt,
                &settings.trainer_image,
                sharded,
                shards > 1 && (settings.one_node || made_for_one_node(run)),
            ),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn made_for_one_node(run: &Validated) -> bool {
    run.output.claim.as_ref().is_some_and(|claim| !claim.access_modes.contains(&AccessMode::ReadWriteMany))
}

// The first rule that matches decides.
fn pod_failure_policy() -> PodFailurePolicy {
    let on_exit = |action: &str, codes: &[ExitCode]| PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            operator: "In".into(),
            values: codes.iter().map(|code| i32::from(code.code())).collect(),
            ..PodFailurePolicyOnExitCodesRequirement::default()
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
            on_exit("FailJob", &[ExitCode::ConfigInvalid, ExitCode::DataInvalid]),
            on_exit("Ignore", &[ExitCode::Interrupted]),
        ],
    }
}
