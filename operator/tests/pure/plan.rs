//! What happens next, and what is reported of it.

use crate::common::{artifact, at, done, result, stage_one};
use insta::assert_yaml_snapshot;
use stic_contract::config::TrainData;
use stic_contract::{ArtifactKind, ExitCode, Progress, RunKind, StepName, Task};
use stic_crds::status::{RunStatus, StepState};
use stic_operator::controllers::stage_one as one;
use stic_operator::plan::{Observed, Plan, StepObservation, StepOutcome, merge, plan};
use stic_operator::status::{Facts, differs, status};
use stic_operator::validated::Hardware;
use stic_operator::{Reason, Refusal, Validated};

type Settled = Result<Validated, Refusal>;

fn run(extra: &str) -> Settled {
    one::validate(&stage_one(extra), Hardware::OfPods)
}

fn failed(observed: &mut Observed, step: StepName, attempts: u32, exit: ExitCode, message: &str) {
    let outcome = StepOutcome::failed(exit, message.into());
    observed.steps.insert(step, StepObservation::new(attempts, outcome));
}

#[test]
fn steps_follow_one_another_and_hand_their_results_on() {
    use StepName::{Generate, Prepare, Train};
    let run = run("  preferences: {shards: 4}\n");
    let launched = |observed: &Observed| match plan(&run, observed) {
        Plan::Start(launch) => launch,
        other => panic!("{other:?}"),
    };
    let first = launched(&Observed::default());
    assert_eq!((first.step, first.shards, first.attempt), (Prepare, 1, 1));
    let second = launched(&done(&[Prepare]));
    assert_eq!((second.step, second.shards), (Generate, 4));
    let Task::Generate(task) = &second.config.task else { panic!("it generates") };
    assert_eq!(task.items, artifact(ArtifactKind::Prepared, Prepare).reference());
    let third = launched(&done(&[Prepare, Generate]));
    let Task::Train(task) = &third.config.task else { panic!("it trains") };
    assert!(matches!(&task.data, TrainData::Shards(shards) if shards.folder == "preferences-0123"));
    let Plan::Done { artifacts } = plan(&run, &done(&[Prepare, Generate, Train])) else {
        panic!("it is done")
    };
    let kinds: Vec<_> = artifacts.iter().map(|artifact| artifact.kind).collect();
    assert_eq!(kinds, [ArtifactKind::Prepared, ArtifactKind::Preferences, ArtifactKind::Adapter]);
}

#[test]
fn what_is_on_the_volume_is_not_made_again() {
    let run = run("");
    let mut prepared = result(StepName::Prepare);
    prepared.artifacts.push(artifact(ArtifactKind::Preferences, StepName::Generate));
    let mut observed = Observed::default();
    let outcome = StepOutcome::Succeeded(Box::new(prepared));
    observed.steps.insert(StepName::Prepare, StepObservation::new(1, outcome));
    let Plan::Start(launch) = plan(&run, &observed) else { panic!("it goes on") };
    let Task::Train(task) = &launch.config.task else { panic!("it trains at once") };
    assert!(matches!(task.data, TrainData::Sealed(_)));
}

#[test]
fn a_running_step_is_waited_for_and_a_held_run_starts_nothing() {
    let mut observed = done(&[StepName::Prepare]);
    let running = StepObservation::new(1, StepOutcome::Running);
    observed.steps.insert(StepName::Generate, running);
    assert!(matches!(plan(&run(""), &observed), Plan::Wait { reason: Reason::Generating, .. }));
    let held = run("  suspend: true\n");
    assert!(matches!(plan(&held, &Observed::default()), Plan::Wait { reason: Reason::Suspended, .. }));
}

#[test]
fn failures_that_may_pass_are_tried_again_within_the_budget() {
    let run = run("  backoff: {limit: 2}\n");
    let decide = |exit: ExitCode, attempts: u32| {
        let mut observed = done(&[StepName::Prepare]);
        failed(&mut observed, StepName::Generate, attempts, exit, "said; do that");
        plan(&run, &observed)
    };
    assert!(matches!(decide(ExitCode::StorageFailed, 2), Plan::Retry(launch) if launch.attempt == 3));
    let Plan::Fail { reason, message } = decide(ExitCode::StorageFailed, 3) else {
        panic!("the budget is spent")
    };
    assert_eq!((reason, message.as_str()), (Reason::StorageFailed, "step generate failed: said; do that"));
    assert!(matches!(decide(ExitCode::DataInvalid, 1), Plan::Fail { reason: Reason::DataInvalid, .. }));
    assert!(matches!(decide(ExitCode::ConfigInvalid, 1), Plan::Fail { reason: Reason::ConfigInvalid, .. }));
}

#[test]
fn a_model_other_than_the_adapters_is_refused() {
    let mut run = run("").expect("it is valid");
    run.model.digest = Some(stic_contract::Digest::of(b"another"));
    let Plan::Fail { reason, message } = plan(&Ok(run), &done(&[StepName::Prepare])) else {
        panic!("it fails")
    };
    assert_eq!(reason, Reason::ModelChanged);
    assert!(message.ends_with("restore that model, or run stage 1 on this one"), "{message}");
}

#[test]
fn a_result_that_lacks_what_comes_next_is_no_panic() {
    let mut observed = done(&[StepName::Prepare]);
    let empty = StepOutcome::Succeeded(Box::new(stic_contract::StepResult::new(StepName::Generate)));
    observed.steps.insert(StepName::Generate, StepObservation::new(1, empty));
    assert!(matches!(plan(&run(""), &observed), Plan::Fail { reason: Reason::ResultIncomplete, .. }));
}

#[test]
fn shards_are_summed() {
    let merged = merge([result(StepName::Generate), result(StepName::Generate)]).expect("there are two");
    assert_eq!(merged.items.map(|items| (items.total, items.skipped)), Some((12_000, 4)));
    assert_eq!(merged.shards.map(|shards| shards.folder), Some("preferences-0123".into()));
    assert_eq!(merge([]), None);
}

fn report(
    previous: &RunStatus,
    run: &Settled,
    observed: &Observed,
    progress: Option<&Progress>,
    time: &str,
) -> RunStatus {
    let plan = plan(run, observed);
    status(
        previous,
        &Facts {
            kind: RunKind::StageOneRun,
            generation: 1,
            rerun: 0,
            run,
            observed,
            plan: &plan,
            progress,
            trainer_image: Some("registry/stic-trainer@sha256:00"),
            now: &at(time),
        },
    )
}

#[test]
fn a_run_reports_its_whole_life() {
    use StepName::{Generate, Prepare, Train};
    let run = run("");
    let accepted = report(&RunStatus::default(), &run, &Observed::default(), None, "2026-11-24T10:00:00Z");
    assert_yaml_snapshot!("status-accepted", accepted);
    let mut observed = done(&[Prepare, Generate]);
    observed.steps.insert(Train, StepObservation::new(1, StepOutcome::Running));
    let progress = Progress {
        step: Train,
        activity: "training".into(),
        current: 310,
        total: 750,
        unit: "steps".into(),
        rate_per_second: 0.086,
        estimated_remaining_seconds: Some(5120),
        metrics: [("loss".to_owned(), 0.61), ("rewards/margins".to_owned(), 0.08)].into(),
        skipped: 0,
        updated: 1_796_000_000,
    };
    let training = report(&accepted, &run, &observed, Some(&progress), "2026-11-24T12:00:00Z");
    assert_yaml_snapshot!("status-training", training);
    let later = Progress { updated: progress.updated + 5, ..progress.clone() };
    let again = report(&training, &run, &observed, Some(&later), "2026-11-24T12:00:05Z");
    assert!(!differs(&training, &again), "nothing but a time has changed");
    let finished = report(&training, &run, &done(&[Prepare, Generate, Train]), None, "2026-11-24T13:00:00Z");
    assert_yaml_snapshot!("status-succeeded", finished);
    let later = report(&finished, &run, &done(&[Prepare, Generate, Train]), None, "2026-11-25T00:00:00Z");
    assert_eq!(finished, later, "what is over stays as it is");
}

#[test]
fn a_failure_is_stalled_and_a_reused_step_says_so() {
    let run = run("");
    let mut observed = done(&[StepName::Prepare]);
    failed(
        &mut observed,
        StepName::Train,
        1,
        ExitCode::DataInvalid,
        "items.jsonl:3: no prompt; mend the line",
    );
    let mut reuse = result(StepName::Prepare);
    reuse.artifacts.push(artifact(ArtifactKind::Preferences, StepName::Generate));
    let outcome = StepOutcome::Succeeded(Box::new(reuse));
    observed.steps.insert(StepName::Prepare, StepObservation::new(1, outcome));
    let status = report(&RunStatus::default(), &run, &observed, None, "2026-11-24T10:00:00Z");
    assert_eq!(status.steps[1].state, StepState::Reused);
    assert_yaml_snapshot!("conditions-failed", status.conditions);
}

#[test]
fn a_spec_that_waits_or_is_wrong_is_reported_too() {
    let object = crate::common::stage_two("");
    let upstream = stic_operator::controllers::stage_two::Upstream::Missing;
    let waiting = stic_operator::controllers::stage_two::validate(&object, upstream, Hardware::OfPods);
    let status = report(&RunStatus::default(), &waiting, &Observed::default(), None, "2026-11-24T10:00:00Z");
    assert_yaml_snapshot!("conditions-waiting", status.conditions);
}
