//! A status is enough to continue from, so that Jobs and pods of complete steps may be deleted.

use stic_contract::{ArtifactKind, StepName};
use stic_crds::status::RunStatus;
use stic_operator::controllers::status_results;
use stic_operator::decide::decide;
use stic_operator::decision::Verdict;
use stic_operator::snapshot::{Snapshot, StepOutcome, StepSnapshot, Steps};
use stic_operator::status::status;

use crate::common::{artifact, done, result, snapshot};

fn status_of(steps: Steps) -> RunStatus {
    let verdict = Verdict::running(StepName::Train);
    status(&Snapshot { steps, ..snapshot("") }, &verdict, None, None)
}

#[test]
fn the_result_of_a_step_can_be_rebuilt_from_the_status() {
    let status = status_of(done(&[StepName::Prepare, StepName::Generate]));
    for step in [StepName::Prepare, StepName::Generate] {
        assert_eq!(status_results::result(&status, step), Some(result(step)));
    }
    assert_eq!(status_results::result(&status, StepName::Train), None);
}

#[test]
fn the_decision_from_rebuilt_results_is_the_same() {
    let steps = done(&[StepName::Prepare, StepName::Generate]);
    let status = status_of(steps.clone());
    let rebuilt = [StepName::Prepare, StepName::Generate].map(|step| {
        let result = status_results::result(&status, step).expect("the status has it");
        (step, StepSnapshot::new(1, StepOutcome::Succeeded(Box::new(result))))
    });
    let decide = |steps: Steps| decide(&Snapshot { steps, ..snapshot("") });
    assert_eq!(decide(rebuilt.into()), decide(steps));
}

#[test]
fn reused_data_is_still_reused() {
    let mut prepared = result(StepName::Prepare);
    let mut preferences = artifact(ArtifactKind::Preferences, StepName::Generate);
    preferences.reused = true;
    prepared.artifacts.push(preferences);
    let outcome = StepOutcome::Succeeded(Box::new(prepared.clone()));
    let status = status_of(Steps::from([(StepName::Prepare, StepSnapshot::new(1, outcome))]));
    assert_eq!(status_results::result(&status, StepName::Prepare), Some(prepared));
}
