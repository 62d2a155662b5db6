//! `suspend`, `resume` and `rerun`: the fields of a spec that steer a run.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Cluster, Run, refused};
use crate::args::{RerunArgs, SteerArgs};
use crate::error::{Failure, Result};
use crate::say;

pub(super) async fn suspend(args: &SteerArgs, held: bool) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    let run = cluster.run(args.run.0, &args.run.1).await?;
    carry_out(&cluster, &run, hold(&run, held)).await
}

pub(super) async fn rerun(args: &RerunArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    let run = cluster.run(args.run.0, &args.run.1).await?;
    let decision = again(&run, args.force)?;
    carry_out(&cluster, &run, decision).await
}

/// What to do about a run, and what to say about it.
#[derive(Debug, Clone, PartialEq)]
struct Decision {
    /// A merge patch; none where the run is as wanted.
    patch: Option<Value>,
    said: String,
}

async fn carry_out(cluster: &Cluster, run: &Run, decision: Decision) -> Result<()> {
    if let Some(patch) = &decision.patch {
        let parameters = PatchParams { field_manager: Some("kubectl-stic".into()), ..PatchParams::default() };
        cluster.runs(run.kind).patch(&run.name, &parameters, &Patch::Merge(patch)).await.map_err(refused)?;
    }
    say::print(format_args!("{} {}", run.title(), decision.said))
}

fn hold(run: &Run, held: bool) -> Decision {
    let done = |said: &str| Decision { patch: Some(json!({"spec": {"suspend": held}})), said: said.into() };
    let nothing = |said: String| Decision { patch: None, said };
    match (held, run.suspended()) {
        // On a run that is over it would only be a surprise at its next rerun.
        (true, false) if run.is_over() => {
            nothing(format!("is over ({}): there is nothing to hold", run.phase().unwrap_or_default()))
        }
        (true, false) => done("suspended: its pods save and end, and no step starts until it is resumed"),
        (true, true) => nothing("is suspended already".into()),
        (false, true) if run.is_over() => done("resumed; it is over, so that its next rerun is not held"),
        (false, true) => done("resumed: it goes on from where it was"),
        (false, false) => nothing("is not suspended".into()),
    }
}

fn again(run: &Run, force: bool) -> Result<Decision> {
    let (asked, seen) = (run.rerun(), run.status.rerun);
    let fresh = run.phase().is_none();
    if asked > seen || fresh {
        return Ok(Decision {
            patch: None,
            said: format!("is asked to start already (rerun {asked}), and the operator has not begun yet"),
        });
    }
    if !run.is_over() && !force {
        return Err(Failure::config(format!(
            "{} is not over ({}); wait for it, or add --force to give up what it has not finished",
            run.title(),
            run.phase().unwrap_or_default()
        )));
    }
    let next = asked.saturating_add(1);
    let held = if run.suspended() { "; it is suspended, and starts when it is resumed" } else { "" };
    // With the version: whoever raised it in between is not overtaken.
    let patch = json!({
        "metadata": {"resourceVersion": run.object.metadata.resource_version},
        "spec": {"rerun": next},
    });
    Ok(Decision { patch: Some(patch), said: format!("runs again (rerun {next}){held}") })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Run::read("StageOneRun", serde_json::from_value(object).expect("an object")).expect("a run")
    }

    #[test]
    fn a_run_is_held_once_and_let_go_once() {
        let running = run(json!({}), 0, Some("Unknown"));
        assert_eq!(hold(&running, true).patch, Some(json!({"spec": {"suspend": true}})));
        assert_eq!(hold(&running, false), Decision { patch: None, said: "is not suspended".into() });
        let held = run(json!({"suspend": true}), 0, Some("Unknown"));
        assert_eq!(hold(&held, true), Decision { patch: None, said: "is suspended already".into() });
        assert_eq!(hold(&held, false).patch, Some(json!({"spec": {"suspend": false}})));
        let over = hold(&run(json!({}), 0, Some("True")), true);
        assert_eq!(
            over,
            Decision { patch: None, said: "is over (Succeeded): there is nothing to hold".into() }
        );
    }

    #[test]
    fn what_is_over_runs_again_once() {
        let over = again(&run(json!({"rerun": 2}), 2, Some("True")), false).expect("it may");
        let patch = json!({"metadata": {"resourceVersion": "7"}, "spec": {"rerun": 3}});
        assert_eq!(over, Decision { patch: Some(patch), said: "runs again (rerun 3)".into() });
        let asked = again(&run(json!({"rerun": 3}), 2, Some("True")), true).expect("it may");
        assert_eq!(asked.patch, None, "nothing has begun: a second one would only be lost");
        assert_eq!(again(&run(json!({}), 0, None), true).expect("it may").patch, None);
    }

    #[test]
    fn what_runs_is_given_up_only_by_force() {
        let running = run(json!({}), 0, Some("Unknown"));
        let refused = again(&running, false).expect_err("it runs").message.expect("it says why");
        assert_eq!(
            refused,
            "stageonerun/scenes is not over (Training); wait for it, or add --force to give up what it has not finished"
        );
        assert!(again(&running, true).expect("it may").patch.is_some());
        let held = again(&run(json!({"suspend": true}), 0, Some("True")), false).expect("it may");
        assert_eq!(held.said, "runs again (rerun 1); it is suspended, and starts when it is resumed");
    }
}
