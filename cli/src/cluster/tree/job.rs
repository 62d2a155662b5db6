//! A Job with its pods.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::ResourceExt;

use super::node::TreeNode;
use crate::cluster::owned_jobs;
use crate::format::align;

/// `is_earlier` marks a Job that the status of its step no longer refers to.
pub(super) fn node(job: &Job, pods: &[Pod], is_earlier: bool) -> TreeNode {
    let mut parts = vec![format!("job/{}", job.name_any()), job_state(job)];
    let shards = owned_jobs::shards(job);
    if shards > 1 {
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or_default();
        parts.push(format!("{succeeded}/{shards} shards done"));
    }
    if is_earlier {
        parts.push("earlier".into());
    }
    let rows: Vec<_> = pods.iter().map(|pod| pod_row(pod, shards > 1)).collect();
    TreeNode { text: parts.join("  "), children: align(&rows).into_iter().map(TreeNode::leaf).collect() }
}

fn job_state(job: &Job) -> String {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let terminal = conditions.into_iter().flatten().find(|condition| {
        condition.status == "True" && ["Complete", "Failed"].contains(&condition.type_.as_str())
    });
    let is_suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    match terminal {
        Some(condition) => match condition.reason.as_deref() {
            Some(reason) if condition.type_ == "Failed" => format!("Failed ({reason})"),
            _ => condition.type_.clone(),
        },
        None if job.metadata.deletion_timestamp.is_some() => "being deleted".into(),
        None if is_suspended => "Suspended".into(),
        None => "Active".into(),
    }
}

fn pod_row(pod: &Pod, sharded: bool) -> Vec<String> {
    let mut row = vec![format!("pod/{}", pod.name_any())];
    if sharded {
        row.push(owned_jobs::shard(pod).map(|shard| format!("shard {shard}")).unwrap_or_default());
    }
    let is_terminating = pod.metadata.deletion_timestamp.is_some() && !owned_jobs::has_ended(pod);
    row.push(if is_terminating { "Terminating".into() } else { owned_jobs::phase(pod).to_owned() });
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    row.push(node.unwrap_or_else(|| "no node".into()));
    let restarts = owned_jobs::trainer(pod).map_or(0, |trainer| trainer.restart_count);
    row.push(if restarts == 1 { "1 restart".into() } else { format!("{restarts} restarts") });
    row.push(trainer_state(pod));
    row
}

/// How the trainer ended, or what it waits for.
fn trainer_state(pod: &Pod) -> String {
    match owned_jobs::trainer(pod).and_then(|trainer| trainer.state.as_ref()) {
        Some(ContainerState { terminated: Some(terminated), .. }) => {
            let reason =
                terminated.reason.as_deref().filter(|reason| !["Completed", "Error"].contains(reason));
            match reason {
                Some(reason) => format!("exit {} ({reason})", terminated.exit_code),
                None => format!("exit {}", terminated.exit_code),
            }
        }
        Some(ContainerState { waiting: Some(waiting), .. }) => waiting.reason.clone().unwrap_or_default(),
        Some(_) => String::new(),
        // The pod was evicted or is not scheduled, for example.
        None => {
            let status = pod.status.clone().unwrap_or_default();
            let unscheduled = status
                .conditions
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
            status.reason.or_else(|| unscheduled.and_then(|condition| condition.reason)).unwrap_or_default()
        }
    }
}
