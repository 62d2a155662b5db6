//! `logs`: the logs of a step's pods, and with `-f` those of the following steps.

mod selection;
mod stream;

use std::collections::BTreeSet;

use kube::ResourceExt;
use stic_contract::{ExitCode, StepName};
use stic_crds::ConditionType;
use stic_crds::status::StepState;
use tokio::task::JoinSet;

use self::selection::{LogSource, Selection};
use self::stream::LogStream;
use super::client::Cluster;
use super::owned_jobs::{self, OwnedJobs};
use super::retry::{POLL_INTERVAL, retry};
use super::run::{NOT_RECONCILED, Run};
use crate::args::LogsArgs;
use crate::error::{Failure, Result};
use crate::stdio::print_stderr;

pub(super) async fn logs(args: &LogsArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    let run = cluster.get_run(&args.run).await?;
    let selection = Selection { step: args.step, shard: args.shard };
    if args.follow {
        return follow(&cluster, run, selection).await;
    }
    let jobs = cluster.list_jobs(&run).await?;
    let sources = selection::latest(&jobs, selection, args.previous);
    if sources.is_empty() {
        return Err(Failure::config(no_log_message(&run, &jobs, args)));
    }
    let several = sources.len() > 1;
    for LogSource { pod, label, .. } in sources {
        LogStream::new(&cluster, &pod, several.then_some(label)).print_all().await?;
    }
    Ok(())
}

fn no_log_message(run: &Run, jobs: &OwnedJobs, args: &LogsArgs) -> String {
    let mut which = args.step.map(|step| format!(" of step {step}")).unwrap_or_default();
    if let Some(shard) = args.shard {
        which.push_str(&format!(" for shard {shard}"));
    }
    let name = &run.name;
    if args.previous {
        return format!("{name} has no earlier pod{which}. Leave out --previous.");
    }
    if selection::current_step(jobs).is_none() && !run.is_finished() {
        let state = run.message().unwrap_or(NOT_RECONCILED);
        return format!("{name}: no pod has started yet: {state} Wait for one with -f.");
    }
    format!("{name} has no pod{which}, or no longer has one. List its pods with kubectl stic get {name}.")
}

async fn follow(cluster: &Cluster, mut run: Run, selection: Selection) -> Result<()> {
    // The UIDs of pods whose logs were printed or are being followed.
    let mut known: Option<BTreeSet<String>> = None;
    let mut streams = JoinSet::new();
    let mut printed_phase = None;
    loop {
        // Read before the pods: if the run has finished, its last pod is in the list.
        let finished = is_finished(&run, selection.step);
        let jobs = retry(|| cluster.list_jobs(&run)).await?;
        let known = known
            .get_or_insert_with(|| selection::history(&jobs, &selection::latest(&jobs, selection, false)));
        let started = new_sources(&jobs, selection, known);
        if finished && started.is_empty() && streams.is_empty() {
            return outcome(&run, selection.step);
        }
        for (pod, label) in started {
            streams.spawn(LogStream::new(cluster, &pod, label).follow());
        }
        let phase = run.phase().map(ToOwned::to_owned);
        if streams.is_empty() && phase != printed_phase {
            print_wait_reason(&run);
            printed_phase = phase;
        }
        let pause = tokio::time::sleep(POLL_INTERVAL);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                Some(ended) = streams.join_next() => ended.map_err(Failure::bug)??,
                () = &mut pause => break,
            }
        }
        run = retry(|| cluster.get_run(&run.name)).await?;
    }
}

/// The outcome of the run, or of the selected step, whose logs were followed to the end.
fn outcome(run: &Run, step: Option<StepName>) -> Result<()> {
    let step_failed =
        |name: StepName| run.status.step(name).map(|step| step.state) == Some(StepState::Failed);
    let failed = run.status.succeeded() == Some(false);
    if !failed || step.is_some_and(|step| !step_failed(step)) {
        return Ok(());
    }
    let exit = run.status.reason().map_or(ExitCode::Bug, |reason| reason.classification().exit_code);
    Err(Failure::new(exit, format!("{}: {}", run.name, run.message().unwrap_or_default())))
}

/// The selected pods that started since the last call, each with the label of its lines. Adds them to `known`.
fn new_sources(
    jobs: &OwnedJobs,
    selection: Selection,
    known: &mut BTreeSet<String>,
) -> Vec<(String, Option<String>)> {
    let mut sources = Vec::new();
    for (job, pods) in &jobs.jobs {
        let Some(step) = owned_jobs::step_of(&job.metadata) else { continue };
        if selection.step.is_some_and(|selected| selected != step) {
            continue;
        }
        let is_sharded = owned_jobs::shards(job) > 1;
        for pod in pods.iter().filter(|pod| owned_jobs::has_started(pod) && selection.includes_shard(pod)) {
            if known.insert(pod.uid().unwrap_or_default()) {
                let LogSource { pod, label, .. } = LogSource::new(pod, step, is_sharded);
                // With one pod at a time of one step, labels would be noise.
                let needs_label = selection.step.is_none() || (is_sharded && selection.shard.is_none());
                sources.push((pod, needs_label.then_some(label)));
            }
        }
    }
    sources
}

/// While no pod is running, tells the user why.
fn print_wait_reason(run: &Run) {
    let condition =
        run.status.condition(ConditionType::Succeeded).filter(|condition| condition.status == "Unknown");
    if let Some(condition) = condition {
        print_stderr(format_args!("{}: {} ({})", run.name, condition.message, condition.reason));
    }
}

/// Whether the run, or the selected step of it, has finished.
fn is_finished(run: &Run, step: Option<StepName>) -> bool {
    let step_state = step.and_then(|step| run.status.step(step)).map(|step| step.state);
    run.is_finished()
        || (!run.is_requested()
            && matches!(step_state, Some(StepState::Succeeded | StepState::Reused | StepState::Failed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stic_contract::RunKind;

    #[test]
    fn following_a_failed_run_ends_with_the_code_of_its_failure() {
        let run = |succeeded: &str, reason: &str| {
            let object = json!({
                "apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun", "spec": {},
                "metadata": {"name": "scenes", "uid": "u"},
                "status": {
                    "conditions": [{"type": "Succeeded", "status": succeeded, "reason": reason, "message": "line 3",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                    "steps": [{"name": "prepare", "state": "Succeeded"}, {"name": "train", "state": "Failed"}],
                },
            });
            Run::parse(RunKind::StageOneRun, serde_json::from_value(object).expect("an object"))
                .expect("a run")
        };
        let failed = run("False", "DataInvalid");
        let failure = outcome(&failed, None).expect_err("it failed");
        assert_eq!((failure.code, failure.message.as_deref()), (65, Some("stageonerun/scenes: line 3")));
        assert!(outcome(&failed, Some(StepName::Train)).is_err());
        assert!(outcome(&failed, Some(StepName::Prepare)).is_ok(), "that step succeeded");
        assert!(outcome(&run("True", "Succeeded"), None).is_ok());
    }
}
