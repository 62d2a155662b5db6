//! A status is enough to go on from: pods and Jobs of finished steps may go.

use stic_contract::{ArtifactKind, RunKind, StepName};
use stic_crds::status::RunStatus;
use stic_operator::controllers::{recorded, stage_one};
use stic_operator::plan::{Observed, StepObservation, StepOutcome, plan};
use stic_operator::status::{Facts, status};
use stic_operator::validated::Hardware;

use crate::common::{artifact, at, done, result, stage_one as run};

fn status_of(observed: &Observed) -> RunStatus {
    let run = stage_one::validate(&run(""), Hardware::OfPods);
    let plan = plan(&run, observed);
    let facts = Facts {
        kind: RunKind::StageOneRun,
        generation: 1,
        rerun: 0,
        run: &run,
        observed,
        plan: &plan,
        progress: None,
        trainer_image: Some("registry/trainer"),
        now: &at("2026-11-24T10:00:00Z"),
    };
    status(&RunStatus::default(), &facts)
}

#[test]
fn what_a_step_reported_comes_back_from_the_status() {
    let observed = done(&[StepName::Prepare, StepName::Generate]);
    let status = status_of(&observed);
    for step in [StepName::Prepare, StepName::Generate] {
        assert_eq!(recorded::result(&status, step), Some(result(step)));
    }
    assert_eq!(recorded::result(&status, StepName::Train), None);
}

#[test]
fn so_the_plan_is_the_same_from_it() {
    let observed = done(&[StepName::Prepare, StepName::Generate]);
    let status = status_of(&observed);
    let steps = [StepName::Prepare, StepName::Generate].map(|step| {
        let result = recorded::result(&status, step).expect("it is recorded");
        (step, StepObservation::new(1, StepOutcome::Succeeded(Box::new(result))))
    });
    let again = Observed { steps: steps.into() };
    let run = stage_one::validate(&run(""), Hardware::OfPods);
    assert_eq!(plan(&run, &again), plan(&run, &observed));
}

#[test]
fn reused_data_is_still_reused() {
    let mut prepared = result(StepName::Prepare);
    let mut preferences = artifact(ArtifactKind::Preferences, StepName::Generate);
    preferences.reused = true;
    prepared.artifacts.push(preferences);
    let mut observed = Observed::default();
    let outcome = StepOutcome::Succeeded(Box::new(prepared.clone()));
    observed.steps.insert(StepName::Prepare, StepObservation::new(1, outcome));
    assert_eq!(recorded::result(&status_of(&observed), StepName::Prepare), Some(prepared));
}
