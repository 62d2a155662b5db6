//! A run as a tree: its conditions, steps with their Jobs and pods, and artifacts. Pure.

mod job;
mod node;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use stic_contract::pipeline;
use stic_crds::status::{ArtifactStatus, Progress, RunStatus, StepState, StepStatus};

use self::node::TreeNode;
use super::owned_jobs::OwnedJobs;
use super::run::{NOT_RECONCILED, Run};
use crate::format::{align, artifact_state, elapsed, short_digest, size};
use crate::results;

/// The lines of the tree.
pub(super) fn lines(run: &Run, jobs: &OwnedJobs, now: &Time) -> Vec<String> {
    let status = &run.status;
    let mut lines = vec![headline(run)];
    if status.conditions.is_empty() {
        lines.push(NOT_RECONCILED.into());
    } else {
        let conditions =
            status.conditions.iter().map(|condition| format!("{}={}", condition.type_, condition.status));
        lines.push(conditions.collect::<Vec<_>>().join("  "));
    }
    lines.extend(run.message().filter(|message| !message.is_empty()).map(ToOwned::to_owned));
    let mut root = TreeNode { text: String::new(), children: step_nodes(run, jobs, now) };
    if !status.artifacts.is_empty() {
        let rows: Vec<_> = status.artifacts.iter().map(artifact_row).collect();
        let children = align(&rows).into_iter().map(TreeNode::leaf).collect();
        root.children.push(TreeNode { text: "artifacts".into(), children });
    }
    if !status.results.is_empty() {
        let children = results::lines(&status.results).into_iter().map(TreeNode::leaf).collect();
        root.children.push(TreeNode { text: "scores".into(), children });
    }
    root.append_children("", &mut lines);
    lines
}

fn headline(run: &Run) -> String {
    let status = &run.status;
    let mut parts = vec![run.name.to_string(), run.shown_phase().unwrap_or_else(|| "Pending".into())];
    if run.rerun() > run.status.seen_rerun() {
        parts.push(format!("rerun {} requested", run.rerun()));
    } else if status.rerun > 0 {
        parts.push(format!("rerun {}", status.rerun));
    }
    let display = status.display.clone().unwrap_or_default();
    let duration = match (&status.start_time, &status.completion_time) {
        (Some(start), Some(end)) => Some(format!("took {}", elapsed(start, end))),
        _ => None,
    };
    let details = [
        display.progress,
        display.loss.map(|loss| format!("loss {loss}")),
        display.margin.map(|margin| format!("margin {margin}")),
        display.eta.map(|eta| format!("ETA {eta}")),
        duration,
    ];
    parts.extend(details.into_iter().flatten());
    parts.join("  ")
}

fn step_nodes(run: &Run, jobs: &OwnedJobs, now: &Time) -> Vec<TreeNode> {
    let mut rows = Vec::new();
    let mut children = Vec::new();
    for spec in pipeline::steps(run.name.kind) {
        let status = run.status.step(spec.name);
        let current_job = status.and_then(|step| step.job_name.as_ref());
        let mut below: Vec<TreeNode> = jobs
            .of_step(spec.name)
            .map(|(job, pods)| job::node(job, pods, current_job.is_some_and(|name| *name != job.name_any())))
            .collect();
        match status {
            Some(step) => {
                rows.push(step_row(step, &run.status, now));
                // A message that is part of the run's own message is printed above already.
                let is_repeated = |message: &&String| run.message().is_some_and(|all| all.contains(*message));
                if let Some(workload) = &step.workload {
                    below.insert(0, TreeNode::leaf(format!("workload/{workload}")));
                }
                if let Some(message) = step.message.as_ref().filter(|message| !is_repeated(message)) {
                    below.insert(0, TreeNode::leaf(message.clone()));
                }
            }
            // A step that the run leaves out, such as judge.
            None if below.is_empty() && !run.status.steps.is_empty() => continue,
            None => {
                let state = if below.is_empty() { "Pending" } else { "" };
                rows.push(vec![spec.name.to_string(), state.into()]);
            }
        }
        children.push(below);
    }
    align(&rows).into_iter().zip(children).map(|(text, children)| TreeNode { text, children }).collect()
}

fn step_row(step: &StepStatus, status: &RunStatus, now: &Time) -> Vec<String> {
    let attempts = match step.attempts {
        0 => String::new(),
        1 => "1 attempt".into(),
        more => format!("{more} attempts"),
    };
    let progress = status.progress.as_ref().filter(|progress| progress.step == step.name);
    let items = match (&step.items, progress) {
        (_, Some(progress)) if matches!(step.state, StepState::Running | StepState::Suspended) => {
            let Progress { current_step, total_steps, unit, percent, .. } = progress;
            format!("{current_step}/{total_steps} {unit}, {percent}%")
        }
        (Some(items), _) if items.skipped > 0 => {
            format!("{}/{} items, {} skipped", items.done, items.total, items.skipped)
        }
        (Some(items), _) => format!("{}/{} items", items.done, items.total),
        (None, _) => String::new(),
    };
    let duration = match (&step.start_time, &step.completion_time) {
        (Some(start), Some(end)) => elapsed(start, end),
        (Some(start), None) if step.state == StepState::Running => elapsed(start, now),
        _ => String::new(),
    };
    vec![step.name.to_string(), format!("{:?}", step.state), attempts, items, duration]
}

fn artifact_row(artifact: &ArtifactStatus) -> Vec<String> {
    let ArtifactStatus { kind, volume, digest, size_bytes, step: _, state } = artifact;
    vec![
        kind.folder_prefix().to_owned(),
        format!("{}:{}", volume.claim_name, volume.path),
        short_digest(digest),
        size(*size_bytes),
        artifact_state(*state).to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use stic_contract::RunKind;

    const NOW: &str = "2026-01-01T03:00:00Z";

    /// The tree of a fixture: a run, its Jobs and its pods, as the API server returned them.
    fn tree(fixture: &str) -> String {
        let mut value: serde_json::Value = serde_json::from_str(fixture).expect("JSON");
        let object = serde_json::from_value(value["run"].take()).expect("an object");
        let jobs = serde_json::from_value(value["jobs"].take()).expect("Jobs");
        let pods = serde_json::from_value(value["pods"].take()).expect("pods");
        let run = Run::parse(RunKind::StageOneRun, object).expect("a run");
        let jobs = OwnedJobs::new(&run.uid, jobs, pods);
        lines(&run, &jobs, &Time(NOW.parse().expect("a time"))).join("\n")
    }

    #[test]
    fn a_generating_run_with_a_failed_and_a_pending_shard() {
        insta::assert_snapshot!(tree(include_str!("tree/generating.json")));
    }

    #[test]
    fn a_finished_run() {
        insta::assert_snapshot!(tree(include_str!("tree/done.json")));
    }

    #[test]
    fn a_run_that_was_not_reconciled_yet() {
        insta::assert_snapshot!(tree(include_str!("tree/new.json")));
    }
}
