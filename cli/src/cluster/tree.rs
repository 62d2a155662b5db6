//! A run as a tree: conditions, steps, their Jobs and pods, artifacts. Pure.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use stic_contract::{RunKind, pipeline};
use stic_crds::status::{
    ArtifactState, ArtifactStatus, Progress, RunStatus, SUCCEEDED, StepState, StepStatus,
};

use super::Run;
use super::children::{self, Children};
use super::get::elapsed;
use crate::table;

/// A line and what hangs on it.
struct Node {
    text: String,
    below: Vec<Self>,
}

impl Node {
    fn leaf(text: String) -> Self {
        Self { text, below: Vec::new() }
    }

    fn draw_below(&self, indent: &str, lines: &mut Vec<String>) {
        for (i, node) in self.below.iter().enumerate() {
            let last = i + 1 == self.below.len();
            let (branch, rest) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            lines.push(format!("{indent}{branch}{}", node.text).trim_end().to_owned());
            node.draw_below(&format!("{indent}{rest}"), lines);
        }
    }
}

/// Draws a run, line by line.
pub(super) fn draw(run: &Run, children: &Children, now: &Time) -> Vec<String> {
    let status = &run.status;
    let mut lines = vec![headline(run, now)];
    if status.conditions.is_empty() {
        lines.push("nobody has looked at it yet; if that stays so, see whether the operator runs and looks after this namespace".into());
    } else {
        let conditions =
            status.conditions.iter().map(|condition| format!("{}={}", condition.type_, condition.status));
        lines.push(conditions.collect::<Vec<_>>().join("  "));
    }
    let said = status.condition(SUCCEEDED).map(|condition| condition.message.as_str()).unwrap_or_default();
    if !said.is_empty() {
        lines.push(said.to_owned());
    }
    let mut root = Node { text: String::new(), below: steps(run, children, now) };
    if !status.artifacts.is_empty() {
        let rows: Vec<_> = status.artifacts.iter().map(artifact).collect();
        root.below.push(Node {
            text: "artifacts".into(),
            below: aligned(&rows).into_iter().map(Node::leaf).collect(),
        });
    }
    root.draw_below("", &mut lines);
    lines
}

fn headline(run: &Run, now: &Time) -> String {
    let status = &run.status;
    let mut parts = vec![run.title(), run.phase().unwrap_or("Pending").to_owned()];
    if run.rerun() != status.rerun {
        parts.push(format!("rerun {} is asked for", run.rerun()));
    } else if status.rerun > 0 {
        parts.push(format!("rerun {}", status.rerun));
    }
    let shown = status.display.clone().unwrap_or_default();
    parts.extend(
        [
            shown.progress,
            shown.loss.map(|loss| format!("loss {loss}")),
            shown.margin.map(|margin| format!("margin {margin}")),
            shown.eta.map(|eta| format!("ETA {eta}")),
            status
                .start_time
                .as_ref()
                .map(|start| {
                    format!("took {}", elapsed(start, status.completion_time.as_ref().unwrap_or(now)))
                })
                .filter(|_| status.completion_time.is_some()),
        ]
        .into_iter()
        .flatten(),
    );
    parts.join("  ")
}

fn steps(run: &Run, children: &Children, now: &Time) -> Vec<Node> {
    let kind = if run.kind == "StageOneRun" { RunKind::StageOneRun } else { RunKind::StageTwoRun };
    let mut rows = Vec::new();
    let mut below = Vec::new();
    for spec in pipeline::steps(kind) {
        let recorded = run.status.step(spec.name);
        let jobs: Vec<Node> = children
            .of_step(spec.name)
            .map(|(job, pods)| {
                let earlier = recorded
                    .and_then(|step| step.job_name.as_ref())
                    .is_some_and(|name| *name != job.name_any());
                job_node(job, pods, earlier)
            })
            .collect();
        let Some(step) = recorded else {
            rows.push(vec![
                spec.name.to_string(),
                if jobs.is_empty() { "Pending".into() } else { String::new() },
            ]);
            below.push(jobs);
            continue;
        };
        rows.push(row(step, &run.status, now));
        let mut below_step = jobs;
        // The message of the step that the run's own message is about stands above already.
        if let Some(message) = step.message.as_ref().filter(|message| !run_says(&run.status, message)) {
            below_step.insert(0, Node::leaf(message.clone()));
        }
        below.push(below_step);
    }
    aligned(&rows).into_iter().zip(below).map(|(text, below)| Node { text, below }).collect()
}

fn run_says(status: &RunStatus, message: &str) -> bool {
    status.condition(SUCCEEDED).is_some_and(|condition| condition.message.contains(message))
}

fn row(step: &StepStatus, status: &RunStatus, now: &Time) -> Vec<String> {
    let mut row = vec![step.name.to_string(), format!("{:?}", step.state)];
    row.push(match step.attempts {
        0 => String::new(),
        1 => "1 attempt".into(),
        more => format!("{more} attempts"),
    });
    let progress = status.progress.as_ref().filter(|progress| progress.step == step.name);
    row.push(match (&step.items, progress) {
        (_, Some(progress)) if matches!(step.state, StepState::Running | StepState::Suspended) => {
            going(progress)
        }
        (Some(items), _) if items.skipped > 0 => {
            format!("{}/{} items, {} skipped", items.done, items.total, items.skipped)
        }
        (Some(items), _) => format!("{}/{} items", items.done, items.total),
        (None, _) => String::new(),
    });
    row.push(match (&step.start_time, &step.completion_time) {
        (Some(start), Some(end)) => elapsed(start, end),
        (Some(start), None) if step.state == StepState::Running => elapsed(start, now),
        _ => String::new(),
    });
    row
}

fn going(progress: &Progress) -> String {
    let Progress { current_step, total_steps, unit, percent, .. } = progress;
    format!("{current_step}/{total_steps} {unit}, {percent}%")
}

fn job_node(job: &Job, pods: &[Pod], earlier: bool) -> Node {
    let status = job.status.clone().unwrap_or_default();
    let ended = status.conditions.iter().flatten().find(|condition| {
        condition.status == "True" && ["Complete", "Failed"].contains(&condition.type_.as_str())
    });
    let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    let state = match ended {
        Some(condition) => match condition.reason.as_deref() {
            Some(reason) if condition.type_ == "Failed" => format!("Failed ({reason})"),
            _ => condition.type_.clone(),
        },
        None if job.metadata.deletion_timestamp.is_some() => "being deleted".into(),
        None if suspended => "Suspended".into(),
        None => "Active".into(),
    };
    let mut parts = vec![format!("job/{}", job.name_any()), state];
    let shards = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1);
    if shards > 1 {
        parts.push(format!("{}/{shards} shards done", status.succeeded.unwrap_or_default()));
    }
    if earlier {
        parts.push("earlier".into());
    }
    let rows: Vec<_> = pods.iter().map(|pod| pod_row(pod, shards > 1)).collect();
    Node { text: parts.join("  "), below: aligned(&rows).into_iter().map(Node::leaf).collect() }
}

fn pod_row(pod: &Pod, shared: bool) -> Vec<String> {
    let mut row = vec![format!("pod/{}", pod.name_any())];
    if shared {
        row.push(children::shard(pod).map(|shard| format!("shard {shard}")).unwrap_or_default());
    }
    let going = pod.metadata.deletion_timestamp.is_some() && !children::has_ended(pod);
    row.push(if going { "Terminating".into() } else { children::phase(pod).to_owned() });
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    row.push(node.unwrap_or_else(|| "no node".into()));
    let trainer = children::trainer(pod);
    let restarts = trainer.map_or(0, |trainer| trainer.restart_count);
    row.push(if restarts == 1 { "1 restart".into() } else { format!("{restarts} restarts") });
    row.push(how(pod));
    row
}

/// How the trainer ended, or what it waits for.
fn how(pod: &Pod) -> String {
    match children::trainer(pod).and_then(|trainer| trainer.state.as_ref()) {
        Some(ContainerState { terminated: Some(ended), .. }) => {
            let reason = ended.reason.as_deref().filter(|reason| !["Completed", "Error"].contains(reason));
            match reason {
                Some(reason) => format!("exit {} ({reason})", ended.exit_code),
                None => format!("exit {}", ended.exit_code),
            }
        }
        Some(ContainerState { waiting: Some(waiting), .. }) => waiting.reason.clone().unwrap_or_default(),
        Some(_) => String::new(),
        // Evicted, for example, or not scheduled: what the pod itself says.
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

fn artifact(artifact: &ArtifactStatus) -> Vec<String> {
    let ArtifactStatus { kind, volume, digest, size_bytes, step: _, state } = artifact;
    let hex: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
    vec![
        kind.folder_prefix().to_owned(),
        format!("{}:{}", volume.claim_name, volume.path),
        hex,
        table::size(*size_bytes),
        match state {
            ArtifactState::Created => "made".into(),
            ArtifactState::Reused => "reused".into(),
        },
    ]
}

/// Rows as lines, with columns of one width.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
            let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
            line.join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T03:00:00Z";

    /// Draws a fixture: a run, its Jobs and its pods as the API server gave them.
    fn drawn(fixture: &str) -> String {
        let mut value: serde_json::Value = serde_json::from_str(fixture).expect("JSON");
        let object = serde_json::from_value(value["run"].take()).expect("an object");
        let jobs = serde_json::from_value(value["jobs"].take()).expect("Jobs");
        let pods = serde_json::from_value(value["pods"].take()).expect("pods");
        let run = Run::read("StageOneRun", object).expect("a run");
        let children = Children::of(&run.uid, jobs, pods);
        draw(&run, &children, &Time(NOW.parse().expect("a time"))).join("\n")
    }

    #[test]
    fn a_run_that_generates_with_shards_that_failed_and_wait() {
        insta::assert_snapshot!(drawn(include_str!("tree/generating.json")));
    }

    #[test]
    fn a_run_that_is_done() {
        insta::assert_snapshot!(drawn(include_str!("tree/done.json")));
    }

    #[test]
    fn a_run_that_nobody_has_looked_at() {
        insta::assert_snapshot!(drawn(include_str!("tree/new.json")));
    }
}
