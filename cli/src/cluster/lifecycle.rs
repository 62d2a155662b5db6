//! `suspend`, `resume`, `rerun` and `retry`.

use serde_json::{Value, json};

use super::client::Cluster;
use super::run::Run;
use crate::args::{RerunArgs, RetryArgs, SuspendArgs};
use crate::error::{Failure, Result};
use crate::run_name::RunName;
use crate::stdio;

/// How often a change is decided on. The operator writes the status of a run every few seconds, and each write may come between
/// reading the run and changing it.
const ATTEMPTS: u32 = 20;

pub(super) async fn set_suspended(args: &SuspendArgs, suspended: bool) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    change(&cluster, &args.run, |run| Ok(decide_suspension(run, suspended))).await
}

pub(super) async fn rerun(args: &RerunArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    change(&cluster, &args.run, |run| decide_rerun(run, args.force)).await
}

pub(super) async fn retry(args: &RetryArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    change(&cluster, &args.run, decide_retry).await
}

/// A change to a run, and the message about it.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    /// A merge patch; `None` if the run needs no change.
    patch: Option<Value>,
    /// Printed after the name of the run.
    message: String,
}

/// Changes a run as it is decided of its newest version.
async fn change(cluster: &Cluster, name: &RunName, decide: impl Fn(&Run) -> Result<Change>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let run = cluster.get_run(name).await?;
        let Change { patch, message } = decide(&run)?;
        let applied = match &patch {
            Some(patch) => cluster.patch_run(&run.name, patch).await?,
            None => true,
        };
        if applied {
            return stdio::print(format_args!("{} {message}", run.name));
        }
    }
    Err(Failure::unavailable(format!(
        "{name} was changed by something else at each of {ATTEMPTS} attempts. Run the same command again."
    )))
}

fn decide_suspension(run: &Run, suspended: bool) -> Change {
    let patch = |message: &str| Change {
        patch: Some(json!({"spec": {"suspend": suspended}})),
        message: message.into(),
    };
    let no_change = |message: String| Change { patch: None, message };
    match (suspended, run.is_suspended()) {
        // Suspending a finished run would only surprise the user at its next rerun.
        (true, false) if run.is_finished() => no_change(format!(
            "has finished ({}), so it cannot be suspended",
            run.phase().unwrap_or_default()
        )),
        (true, false) => {
            patch("suspended: its pods save their state and stop, and no step starts until it is resumed")
        }
        (true, true) => no_change("is already suspended".into()),
        (false, true) if run.is_finished() => patch("resumed: it has finished, so only a rerun will run"),
        (false, true) => patch("resumed: it continues from its saved state"),
        (false, false) => no_change("is not suspended".into()),
    }
}

fn decide_rerun(run: &Run, force: bool) -> Result<Change> {
    let (requested, observed) = (run.rerun(), run.status.seen_rerun());
    if requested > observed || run.phase().is_none() {
        return Ok(Change {
            patch: None,
            message: format!("already waits for the operator to start it (rerun {requested})"),
        });
    }
    if !run.is_finished() && !force {
        return Err(Failure::config(format!(
            "{} has not finished ({}). Wait for it, or add --force to discard its unfinished work.",
            run.name,
            run.phase().unwrap_or_default()
        )));
    }
    let next = requested.saturating_add(1);
    let suspended = if run.is_suspended() { "; it is suspended and starts when it is resumed" } else { "" };
    // The resource version makes the request fail if someone else raised `rerun` in between.
    let patch = json!({
        "metadata": {"resourceVersion": run.object.metadata.resource_version},
        "spec": {"rerun": next},
    });
    Ok(Change { patch: Some(patch), message: format!("runs again (rerun {next}){suspended}") })
}

fn decide_retry(run: &Run) -> Result<Change> {
    let name = &run.name;
    if run.is_requested() {
        return Ok(Change { patch: None, message: "already waits for the operator to start it".into() });
    }
    match run.status.succeeded() {
        Some(false) => {}
        Some(true) => {
            return Err(Failure::config(format!(
                "{name} has succeeded. To run it again from scratch, use kubectl stic rerun {name}."
            )));
        }
        None => {
            let phase = run.shown_phase().unwrap_or_else(|| "Pending".into());
            return Err(Failure::config(format!(
                "{name} has not failed ({phase}), and continues on its own. See kubectl stic get {name}."
            )));
        }
    }
    let next = run.retry().max(run.status.retry).saturating_add(1);
    let suspended = if run.is_suspended() { "; it is suspended and starts when it is resumed" } else { "" };
    let patch = json!({
        "metadata": {"resourceVersion": run.object.metadata.resource_version},
        "spec": {"retry": next},
    });
    Ok(Change {
        patch: Some(patch),
        message: format!("continues with what is on disk (retry {next}){suspended}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stic_contract::RunKind;

    fn run(spec: Value, rerun: u32, succeeded: Option<&str>) -> Run {
        let mut object = json!({
            "apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
            "metadata": {"name": "scenes", "uid": "u", "resourceVersion": "7"},
        });
        object["spec"] = spec;
        if let Some(succeeded) = succeeded {
            let reason = if succeeded == "Unknown" { "Training" } else { "Succeeded" };
            object["status"] = json!({"rerun": rerun, "conditions": [{
                "type": "Succeeded", "status": succeeded, "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]});
        }
        Run::parse(RunKind::StageOneRun, serde_json::from_value(object).expect("an object")).expect("a run")
    }

    #[test]
    fn a_run_is_suspended_once_and_resumed_once() {
        let running = run(json!({}), 0, Some("Unknown"));
        assert_eq!(decide_suspension(&running, true).patch, Some(json!({"spec": {"suspend": true}})));
        let change = Change { patch: None, message: "is not suspended".into() };
        assert_eq!(decide_suspension(&running, false), change);
        let suspended = run(json!({"suspend": true}), 0, Some("Unknown"));
        let change = Change { patch: None, message: "is already suspended".into() };
        assert_eq!(decide_suspension(&suspended, true), change);
        assert_eq!(decide_suspension(&suspended, false).patch, Some(json!({"spec": {"suspend": false}})));
        let finished = run(json!({}), 0, Some("True"));
        let message = "has finished (Succeeded), so it cannot be suspended".into();
        assert_eq!(decide_suspension(&finished, true), Change { patch: None, message });
    }

    #[test]
    fn a_finished_run_is_rerun_once() {
        let finished = decide_rerun(&run(json!({"rerun": 2}), 2, Some("True")), false).expect("it may");
        let patch = json!({"metadata": {"resourceVersion": "7"}, "spec": {"rerun": 3}});
        assert_eq!(finished, Change { patch: Some(patch), message: "runs again (rerun 3)".into() });
        let requested = decide_rerun(&run(json!({"rerun": 3}), 2, Some("True")), true).expect("it may");
        assert_eq!(requested.patch, None, "a second rerun before the first has started would skip it");
        assert_eq!(decide_rerun(&run(json!({}), 0, None), true).expect("it may").patch, None);
    }

    #[test]
    fn a_failed_run_is_continued_once() {
        let failed = decide_retry(&run(json!({}), 0, Some("False"))).expect("it may");
        let patch = json!({"metadata": {"resourceVersion": "7"}, "spec": {"retry": 1}});
        assert_eq!(failed.patch, Some(patch));
        let requested = decide_retry(&run(json!({"retry": 1}), 0, Some("False"))).expect("it may");
        assert_eq!(requested.patch, None, "the operator has not seen the first one yet");
        for other in ["True", "Unknown"] {
            let message = decide_retry(&run(json!({}), 0, Some(other))).expect_err("it did not fail").message;
            assert!(message.is_some_and(|text| text.contains("kubectl stic")), "{other}");
        }
    }

    #[test]
    fn unfinished_work_is_only_discarded_with_force() {
        let running = run(json!({}), 0, Some("Unknown"));
        let message = decide_rerun(&running, false).expect_err("it runs").message.expect("a message");
        assert_eq!(
            message,
            "stageonerun/scenes has not finished (Training). Wait for it, or add --force to discard its unfinished work."
        );
        assert!(decide_rerun(&running, true).expect("it may").patch.is_some());
        let suspended = decide_rerun(&run(json!({"suspend": true}), 0, Some("True")), false).expect("it may");
        assert_eq!(suspended.message, "runs again (rerun 1); it is suspended and starts when it is resumed");
    }
}
