//! Which step comes next, and with what.

use stic_contract::config::TrainData;
use stic_contract::{ArtifactKind, ExitCode, StepName, Task};
use stic_crds::Reason;
use stic_operator::decide::decide;
use stic_operator::decision::{Decision, Launch, Verdict};
use stic_operator::snapshot::{Snapshot, StepOutcome, StepSnapshot, Steps, merge};

use crate::common::{artifact, done, failed, result, snapshot, training_mut};

fn decided(run: &str, steps: Steps) -> Decision {
    decide(&Snapshot { steps, ..snapshot(run) }).expect("every fact is known")
}

fn launched(run: &str, steps: Steps) -> Launch {
    match decided(run, steps) {
        Decision::Launch(launch) => *launch,
        other => panic!("{other:?}"),
    }
}

fn verdict(run: &str, steps: Steps) -> Verdict {
    match decided(run, steps) {
        Decision::Report { verdict, .. } => verdict,
        other => panic!("{other:?}"),
    }
}

#[test]
fn steps_follow_one_another_and_use_the_results_of_earlier_ones() {
    use StepName::{Generate, Prepare, Train};
    let run = "  preferences: {shards: 4}\n";
    let first = launched(run, Steps::new());
    assert_eq!((first.id.step, first.shards, first.id.number), (Prepare, 1, 1));
    let second = launched(run, done(&[Prepare]));
    assert_eq!((second.id.step, second.shards), (Generate, 4));
    let Task::Generate(task) = &second.config.task else { panic!("the task is not Generate") };
    assert_eq!(task.items, artifact(ArtifactKind::Prepared, Prepare).reference());
    let third = launched(run, done(&[Prepare, Generate]));
    let Task::Train(task) = &third.config.task else { panic!("the task is not Train") };
    assert!(matches!(&task.data, TrainData::Shards(shards) if shards.folder == "preferences-0123"));
    let Verdict::Succeeded { artifacts } = verdict(run, done(&[Prepare, Generate, Train])) else {
        panic!("the run has not succeeded")
    };
    let kinds: Vec<_> = artifacts.iter().map(|artifact| artifact.kind).collect();
    assert_eq!(kinds, [ArtifactKind::Prepared, ArtifactKind::Preferences, ArtifactKind::Adapter]);
}

#[test]
fn an_artifact_that_exists_is_not_created_again() {
    let mut prepared = result(StepName::Prepare);
    prepared.artifacts.push(artifact(ArtifactKind::Preferences, StepName::Generate));
    let outcome = StepOutcome::Succeeded(Box::new(prepared));
    let launch = launched("", Steps::from([(StepName::Prepare, StepSnapshot::new(1, outcome))]));
    let Task::Train(task) = &launch.config.task else { panic!("the task is not Train") };
    assert!(matches!(task.data, TrainData::Sealed(_)));
}

#[test]
fn a_run_waits_while_a_step_is_running() {
    let mut steps = done(&[StepName::Prepare]);
    steps.insert(StepName::Generate, StepSnapshot::new(1, StepOutcome::Running));
    assert_eq!(verdict("", steps), Verdict::running(StepName::Generate));
}

#[test]
fn a_model_other_than_that_of_the_adapter_is_rejected() {
    let mut snapshot = Snapshot { steps: done(&[StepName::Prepare]), ..snapshot("") };
    let run = snapshot.validated.as_mut().unwrap().as_mut().expect("it is valid");
    training_mut(run).model.digest = Some(stic_contract::Digest::of(b"another"));
    let Ok(Decision::Report { verdict: Verdict::Failed { reason, message }, .. }) = decide(&snapshot) else {
        panic!("the run has not failed")
    };
    assert_eq!(reason, Reason::ModelChanged);
    assert!(message.ends_with("restore that model, or run stage 1 on this one"), "{message}");
}

#[test]
fn an_incomplete_result_fails_the_run() {
    let mut steps = done(&[StepName::Prepare]);
    let empty = StepOutcome::Succeeded(Box::new(stic_contract::StepResult::new(StepName::Generate)));
    steps.insert(StepName::Generate, StepSnapshot::new(1, empty));
    assert!(matches!(verdict("", steps), Verdict::Failed { reason: Reason::ResultIncomplete, .. }));
}

#[test]
fn a_failure_is_reported_with_its_step() {
    let mut steps = done(&[StepName::Prepare]);
    steps.insert(
        StepName::Generate,
        failed(1, ExitCode::DataInvalid, "list.txt:3: no such image; fix the line"),
    );
    let message = "step generate failed: list.txt:3: no such image; fix the line".to_owned();
    assert_eq!(verdict("", steps), Verdict::Failed { reason: Reason::DataInvalid, message });
}

#[test]
fn results_of_shards_are_summed() {
    let merged = merge([result(StepName::Generate), result(StepName::Generate)]).expect("there are two");
    assert_eq!(merged.items.map(|items| (items.total, items.skipped)), Some((12_000, 4)));
    assert_eq!(merged.shards.map(|shards| shards.folder), Some("preferences-0123".into()));
    assert_eq!(merge([]), None);
}
