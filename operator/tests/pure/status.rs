//! What the status of a run reports.

use insta::assert_yaml_snapshot;
use stic_contract::{ArtifactKind, ExitCode, Progress, StepName};
use stic_crds::Reason;
use stic_crds::status::{ActiveTime, RunStatus, StepState};
use stic_operator::decide::decide;
use stic_operator::decision::{Decision, Verdict};
use stic_operator::snapshot::{Facts, Snapshot, StepOutcome, StepSnapshot, Steps};
use stic_operator::status::{differs, status};
use stic_operator::trainer_images::TrainerImages;
use stic_operator::validated::Hardware;

use crate::common::{artifact, at, done, failed, result, snapshot, stage_two};

fn images() -> TrainerImages {
    TrainerImages {
        cpu: "registry/stic-trainer@sha256:00".into(),
        gpu: "registry/stic-trainer-cuda@sha256:00".into(),
    }
}

fn verdict(snapshot: &Snapshot) -> Verdict {
    match decide(snapshot).expect("every fact is known") {
        Decision::Launch(launch) => Verdict::Launching(launch.id.step),
        Decision::Report { verdict, .. } => verdict,
        other => panic!("{other:?}"),
    }
}

/// The status that follows `previous`.
fn report(previous: &RunStatus, steps: Steps, progress: Option<&Progress>, time: &str) -> RunStatus {
    let snapshot = Snapshot { previous: previous.clone(), steps, now: at(time), ..snapshot("") };
    status(&snapshot, &verdict(&snapshot), progress, Some(&images()))
}

#[test]
fn a_run_reports_its_progress_from_start_to_end() {
    use StepName::{Generate, Prepare, Train};
    let accepted = report(&RunStatus::default(), Steps::new(), None, "2026-11-24T10:00:00Z");
    assert_yaml_snapshot!("status-accepted", accepted);
    let mut steps = done(&[Prepare, Generate]);
    steps.insert(Train, StepSnapshot::new(1, StepOutcome::Running));
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
    let training = report(&accepted, steps.clone(), Some(&progress), "2026-11-24T12:00:00Z");
    assert_yaml_snapshot!("status-training", training);
    let later = Progress { updated: progress.updated + 5, ..progress.clone() };
    let again = report(&training, steps, Some(&later), "2026-11-24T12:00:05Z");
    assert!(!differs(&training, &again), "nothing but a time has changed");
    let complete = done(&[Prepare, Generate, Train]);
    let ended = report(&training, complete.clone(), None, "2026-11-24T13:00:00Z");
    assert_yaml_snapshot!("status-succeeded", ended);
    let later = report(&ended, complete, None, "2026-11-25T00:00:00Z");
    assert_eq!(ended, later, "a run that has ended stays as it is");
}

#[test]
fn a_run_that_succeeded_reports_the_metrics_of_its_adapter() {
    use StepName::{Generate, Prepare, Train};
    let mut steps = done(&[Prepare, Generate, Train]);
    let mut last = result(Train);
    last.metrics = [("step", "750"), ("epoch", "1.0"), ("loss", "0.4123456789"), ("rewards/margins", "1e-7")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    steps.insert(Train, StepSnapshot::new(1, StepOutcome::Succeeded(Box::new(last.clone()))));
    // The adapter was trained by another run, so that nothing was polled; or what was polled is older.
    let mut polled = report(&RunStatus::default(), done(&[Prepare]), None, "2026-11-24T10:00:00Z");
    let without = report(&polled, steps.clone(), None, "2026-11-24T13:00:00Z");
    polled.progress = without.progress.clone().map(|progress| stic_crds::status::Progress {
        current_step: 700,
        metrics: [("loss".to_owned(), "0.5".to_owned())].into(),
        ..progress
    });
    let with = report(&polled, steps, None, "2026-11-24T13:00:00Z");
    assert_eq!(with.progress, without.progress);
    assert_eq!(with.progress.expect("progress").metrics, last.metrics, "as in metrics.jsonl");
    let display = with.display.expect("columns");
    assert_eq!(
        (display.items.as_deref(), display.loss.as_deref(), display.margin.as_deref()),
        (Some("5998/5998"), Some("0.412"), Some("1.00e-7"))
    );
}

#[test]
fn a_limit_that_is_larger_than_the_data_is_reported() {
    let message_with = |extra: &str, total: u64| {
        let mut prepared = result(StepName::Prepare);
        prepared.items = prepared.items.map(|items| stic_contract::result::ItemCounts { total, ..items });
        prepared.message = Some("5998 images can be used".into());
        let outcome = StepOutcome::Succeeded(Box::new(prepared));
        let steps = Steps::from([(StepName::Prepare, StepSnapshot::new(1, outcome))]);
        let snapshot = Snapshot { steps, ..snapshot(extra) };
        status(&snapshot, &verdict(&snapshot), None, Some(&images())).steps[0].message.clone()
    };
    let message = |total: u64| message_with("", total);
    assert_eq!(message(6000).as_deref(), Some("5998 images can be used"), "the limit is 6000");
    assert_eq!(
        message(5999).as_deref(),
        Some("5998 images can be used; spec.images.limit is 6000, but there are only 5999")
    );
    let of_instructions = "  preferences: {source: Instructions, instructions: {volume: {claimName: a, path: b}, file: c.json}}\n";
    assert_eq!(
        message_with(of_instructions, 5999),
        message(5999),
        "stage 1 has one limit, whatever the source"
    );
}

#[test]
fn the_deadline_is_paused_while_a_run_has_to_wait() {
    let queued = || {
        let outcome = StepOutcome::Waiting { reason: Reason::Queued, message: "queued".into() };
        Steps::from([(StepName::Prepare, StepSnapshot::new(1, outcome))])
    };
    let running = || Steps::from([(StepName::Prepare, StepSnapshot::new(1, StepOutcome::Running))]);
    let first = report(&RunStatus::default(), running(), None, "2026-11-24T10:00:00Z");
    let second = report(&first, queued(), None, "2026-11-24T10:00:30Z");
    let third = report(&second, queued(), None, "2026-11-24T12:00:00Z");
    let fourth = report(&third, running(), None, "2026-11-24T12:10:00Z");
    let times = [&first, &second, &third, &fourth].map(|status| status.active_time.clone().expect("a time"));
    let spent = |seconds: u64, since: Option<&str>| ActiveTime { seconds, since: since.map(at) };
    assert_eq!(
        times,
        [
            spent(0, Some("2026-11-24T10:00:00Z")),
            spent(30, None),
            spent(30, None),
            spent(30, Some("2026-11-24T12:10:00Z"))
        ]
    );
}

#[test]
fn progress_is_only_shown_of_the_step_that_runs() {
    let progress = Progress {
        step: StepName::Prepare,
        activity: "reading".into(),
        current: 3,
        total: 10,
        unit: "images".into(),
        rate_per_second: 1.0,
        estimated_remaining_seconds: Some(7),
        metrics: std::collections::BTreeMap::new(),
        skipped: 0,
        updated: 1_796_000_000,
    };
    let with = |outcome: StepOutcome| Steps::from([(StepName::Prepare, StepSnapshot::new(1, outcome))]);
    let time = "2026-11-24T10:00:00Z";
    let running = report(&RunStatus::default(), with(StepOutcome::Running), Some(&progress), time);
    let again = report(&running, with(StepOutcome::Running), None, time);
    assert_eq!(again.progress, running.progress, "a pod that does not answer has not lost its progress");
    let queued = StepOutcome::Waiting { reason: Reason::Queued, message: "queued".into() };
    let queued = report(&running, with(queued), None, time);
    assert_eq!((queued.progress, queued.display.and_then(|display| display.progress)), (None, None));
    let next = report(&running, done(&[StepName::Prepare]), None, time);
    assert_eq!(next.progress, None, "generate is starting");
}

#[test]
fn a_failed_run_is_stalled_and_a_step_whose_artifact_existed_is_reused() {
    let mut reuse = result(StepName::Prepare);
    reuse.artifacts.push(artifact(ArtifactKind::Preferences, StepName::Generate));
    let outcome = StepOutcome::Succeeded(Box::new(reuse));
    let steps = Steps::from([
        (StepName::Prepare, StepSnapshot::new(1, outcome)),
        (StepName::Train, failed(1, ExitCode::DataInvalid, "items.jsonl:3: no prompt; fix the line")),
    ]);
    let status = report(&RunStatus::default(), steps, None, "2026-11-24T10:00:00Z");
    assert_eq!(status.steps[1].state, StepState::Reused);
    assert_yaml_snapshot!("conditions-failed", status.conditions);
}

#[test]
fn a_run_that_waits_for_its_upstream_reports_that() {
    let upstream = stic_operator::controllers::upstream::Upstream::Missing;
    let validated =
        stic_operator::controllers::stage_two::validate(&stage_two(""), upstream, Hardware::OfPods);
    let run = stic_contract::RunIdentity { kind: stic_contract::RunKind::StageTwoRun, ..snapshot("").run };
    let waiting = Snapshot::new(run, 1, &RunStatus::default(), at("2026-11-24T10:00:00Z"), |_| validated);
    let waiting = Snapshot { facts: Facts::local(), ..waiting };
    let status = status(&waiting, &verdict(&waiting), None, Some(&images()));
    assert_eq!(status.active_time, Some(ActiveTime::default()), "its deadline is paused");
    assert_yaml_snapshot!("conditions-waiting", status.conditions);
}
