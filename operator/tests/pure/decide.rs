//! Every decision, as a table: whether a run has ended, deadline, pinning, reruns, retries, suspension, clean-up.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use stic_contract::{ExitCode, RunConfig, StepName, Task};
use stic_crds::lifecycle::{Children, Retention};
use stic_crds::status::{ActiveTime, RunStatus};
use stic_crds::{ConditionType, Reason};
use stic_operator::Refusal;
use stic_operator::decide::{cleanup, decide};
use stic_operator::decision::{Cleanup, Decision, JobChanges, JobDeadline, NeededFacts, Suspension, Verdict};
use stic_operator::requeue;
use stic_operator::snapshot::{Facts, JobRef, OpenJob, Snapshot, StepOutcome, StepSnapshot, Steps};

use crate::common::{NOW, at, done, failed, snapshot, training};

/// A decision without its details.
#[derive(Debug, PartialEq)]
enum Outcome {
    CleanUp,
    AwaitWatch,
    Replace(StepName),
    Need(NeededFacts),
    /// The step and the number of the launch.
    Launch(StepName, u32),
    /// The reason, and whether the run is polled.
    Wait(Reason, bool),
    Fail(Reason),
    Succeed,
}

fn outcome(snapshot: &Snapshot) -> Outcome {
    match decide(snapshot) {
        Err(needed) => Outcome::Need(needed),
        Ok(Decision::CleanUp) => Outcome::CleanUp,
        Ok(Decision::AwaitWatch) => Outcome::AwaitWatch,
        Ok(Decision::Replace(step, _)) => Outcome::Replace(step),
        Ok(Decision::Launch(launch)) => Outcome::Launch(launch.id.step, launch.id.number),
        Ok(Decision::Report { verdict, .. }) => match verdict {
            Verdict::Waiting { reason, poll, .. } => Outcome::Wait(reason, poll),
            Verdict::Failed { reason, .. } => Outcome::Fail(reason),
            Verdict::Succeeded { .. } => Outcome::Succeed,
            Verdict::Launching(step) => panic!("{step} is not decided on"),
        },
    }
}

fn condition(kind: ConditionType, status: &str) -> Condition {
    Condition {
        type_: kind.as_str().into(),
        status: status.into(),
        reason: kind.as_str().into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: at(NOW),
    }
}

fn with_condition(kind: ConditionType, status: &str) -> RunStatus {
    RunStatus { conditions: vec![condition(kind, status)], ..RunStatus::default() }
}

/// A run whose step prepare is complete and whose step generate is `step`.
fn generating(run: &str, step: StepSnapshot) -> Snapshot {
    let mut steps = done(&[StepName::Prepare]);
    steps.insert(StepName::Generate, step);
    Snapshot { steps, ..snapshot(run) }
}

#[test]
fn a_run_that_has_ended_is_only_cleaned_up() {
    for status in ["True", "False"] {
        let status = with_condition(ConditionType::Succeeded, status);
        let Snapshot { run, validated, now, .. } = snapshot("");
        let ended = Snapshot::new(run.clone(), 1, &status, now.clone(), |_| unreachable!("it has ended"));
        assert_eq!(outcome(&ended), Outcome::CleanUp);
        let mut rerun =
            Snapshot::new(stic_contract::RunIdentity { rerun: 1, ..run }, 1, &status, now, |_| {
                validated.unwrap()
            });
        let needed = NeededFacts { pods_ended: Some(StepName::Prepare), ..NeededFacts::default() };
        assert_eq!(
            outcome(&rerun),
            Outcome::Need(needed),
            "a rerun starts over once the old pods have ended"
        );
        rerun.facts.pods_ended = Some(true);
        assert_eq!(outcome(&rerun), Outcome::Launch(StepName::Prepare, 1));
        assert_eq!(rerun.previous, RunStatus::default(), "nothing is carried over");
    }
    let running = with_condition(ConditionType::Succeeded, "Unknown");
    let Snapshot { run, validated, now, .. } = snapshot("");
    assert_eq!(
        outcome(&Snapshot::new(run, 1, &running, now, |_| validated.unwrap())),
        Outcome::Launch(StepName::Prepare, 1)
    );
}

#[test]
fn a_spec_that_cannot_run_waits_or_fails() {
    let waiting = Refusal::Wait { reason: Reason::StageOneNotSucceeded, message: "not yet".into() };
    let invalid = Refusal::Invalid {
        reason: Reason::InvalidSpec,
        field: "spec.x".into(),
        message: "is wrong".into(),
        remedy: "correct it",
    };
    let refused = |refusal: Refusal| outcome(&Snapshot { validated: Some(Err(refusal)), ..snapshot("") });
    assert_eq!(refused(waiting), Outcome::Wait(Reason::StageOneNotSucceeded, false), "the watch reports it");
    assert_eq!(refused(invalid), Outcome::Fail(Reason::InvalidSpec));
}

#[test]
fn retries_are_limited_and_what_cannot_pass_is_not_retried() {
    use Outcome::{Fail, Launch};
    use StepName::Generate;
    let lost = |reason: Reason, launches: u32| StepSnapshot {
        job: Some(JobRef { name: "j".into(), uid: "u".into(), launch: launches }),
        ..StepSnapshot::new(
            launches + 4,
            StepOutcome::Failed { reason, message: String::new(), exhausted: false },
        )
    };
    let exhausted =
        StepOutcome::Failed { reason: Reason::StorageFailed, message: String::new(), exhausted: true };
    let cases = [
        (2, failed(1, ExitCode::StorageFailed, ""), Launch(Generate, 2)),
        (2, failed(2, ExitCode::Bug, ""), Launch(Generate, 3)),
        (2, failed(3, ExitCode::StorageFailed, ""), Fail(Reason::StorageFailed)),
        (0, failed(1, ExitCode::Interrupted, ""), Fail(Reason::Interrupted)),
        (2, failed(1, ExitCode::DataInvalid, ""), Fail(Reason::DataInvalid)),
        (2, failed(1, ExitCode::ConfigInvalid, ""), Fail(Reason::ConfigInvalid)),
        (2, StepSnapshot::new(1, exhausted), Fail(Reason::StorageFailed)),
        (0, lost(Reason::JobDeleted, 3), Launch(Generate, 4)),
        (0, lost(Reason::ResultLost, 4), Fail(Reason::ResultLost)),
        (5, lost(Reason::JobDeleted, 5), Launch(Generate, 6)),
    ];
    for (limit, step, expected) in cases {
        let snapshot = generating(&format!("  backoff: {{limit: {limit}}}\n"), step.clone());
        assert_eq!(outcome(&snapshot), expected, "limit {limit}: {step:?}");
    }
}

#[test]
fn a_retry_and_progress_renew_the_limit_of_retries() {
    use Outcome::{Fail, Launch};
    use StepName::Generate;
    let exhausted = |launches: u32, uncounted: u32, has_progressed: bool| StepSnapshot {
        job: Some(JobRef { name: "j".into(), uid: "u".into(), launch: launches }),
        uncounted,
        has_progressed,
        ..StepSnapshot::new(
            launches,
            StepOutcome::Failed { reason: Reason::StorageFailed, message: String::new(), exhausted: true },
        )
    };
    let after = |limit: u32, step: StepSnapshot| {
        outcome(&generating(&format!("  backoff: {{limit: {limit}}}\n"), step))
    };
    assert_eq!(after(3, exhausted(2, 1, false)), Fail(Reason::StorageFailed));
    assert_eq!(after(3, exhausted(2, 2, false)), Launch(Generate, 3), "spec.retry was raised");
    assert_eq!(after(3, exhausted(2, 0, true)), Launch(Generate, 3), "it came further");
    assert_eq!(after(0, exhausted(2, 0, true)), Fail(Reason::StorageFailed), "no retry is wanted");
    let interrupted = StepSnapshot {
        outcome: StepOutcome::Failed { reason: Reason::Interrupted, message: String::new(), exhausted: true },
        ..exhausted(1, 0, true)
    };
    assert_eq!(after(3, interrupted), Fail(Reason::Interrupted), "it came no further in between");
    let started = |step: StepSnapshot| match decide(&generating("", step)) {
        Ok(Decision::Launch(launch)) => launch.uncounted,
        other => panic!("{other:?}"),
    };
    assert_eq!(started(exhausted(2, 0, true)), 2, "the next launch starts with a whole budget");
    assert_eq!(started(exhausted(2, 2, false)), 2);
}

#[test]
fn a_job_is_replaced_once_spec_pod_has_changed_and_no_pod_runs() {
    let changed = |run: &str, idle: bool| {
        let trouble = StepOutcome::Waiting { reason: Reason::Unschedulable, message: "no GPU".into() };
        Snapshot {
            open_job: Some(OpenJob { outdated: true, idle, ..OpenJob::default() }),
            ..generating(run, StepSnapshot::new(1, trouble))
        }
    };
    assert_eq!(outcome(&changed("", true)), Outcome::Replace(StepName::Generate));
    assert_eq!(outcome(&changed("  suspend: true\n", true)), Outcome::Wait(Reason::Unschedulable, true));
    let Ok(Decision::Report { verdict: Verdict::Waiting { message, .. }, .. }) = decide(&changed("", false))
    else {
        panic!("a pod runs")
    };
    assert!(message.contains("takes effect when its pods have ended"), "{message}");
}

#[test]
fn a_changed_limit_of_retries_says_when_it_applies() {
    let running = |limit: u32, of_job: Option<u32>| {
        let snapshot = Snapshot {
            open_job: Some(OpenJob { retry_limit: of_job, ..OpenJob::default() }),
            ..generating(
                &format!("  backoff: {{limit: {limit}}}\n"),
                StepSnapshot::new(1, StepOutcome::Running),
            )
        };
        match decide(&snapshot) {
            Ok(Decision::Report { verdict: Verdict::Waiting { message, .. }, .. }) => message,
            other => panic!("{other:?}"),
        }
    };
    let says = "spec.backoff.limit 9 applies from the next Job on, this one retries 3 times";
    assert!(running(9, Some(3)).contains(says), "{}", running(9, Some(3)));
    for (limit, of_job) in [(3, Some(3)), (3, None)] {
        assert!(!running(limit, of_job).contains("backoff"), "{limit} {of_job:?}");
    }
}

#[test]
fn a_job_is_replaced_if_its_run_has_left_or_entered_a_queue() {
    let replaced = |run: &str, queue: Option<&str>, job: OpenJob| {
        let queued = StepOutcome::Waiting { reason: Reason::Queued, message: String::new() };
        let mut snapshot = generating(run, StepSnapshot::new(1, queued));
        if let (Some(Ok(run)), Some(queue)) = (&mut snapshot.validated, queue) {
            run.operation.queue_labels.insert("kueue.x-k8s.io/queue-name".into(), queue.into());
        }
        snapshot.open_job = Some(job);
        outcome(&snapshot) == Outcome::Replace(StepName::Generate)
    };
    let waits = OpenJob { suspended: true, idle: true, ..OpenJob::default() };
    let queued = OpenJob { queued: true, queued_by_run: true, ..waits.clone() };
    assert!(replaced("", None, queued.clone()), "the run has left its queue");
    assert!(!replaced("", Some("gpu"), queued.clone()));
    assert!(!replaced("", None, OpenJob { suspended: false, ..queued.clone() }), "it was admitted");
    assert!(!replaced("", None, OpenJob { idle: false, ..queued.clone() }), "a pod still saves");
    assert!(!replaced("  suspend: true\n", None, queued.clone()), "nothing is to start");
    assert!(!replaced("", None, OpenJob { queued_by_run: false, ..queued.clone() }), "Kueue chose the queue");
    let held = OpenJob { held: true, ..waits.clone() };
    assert!(replaced("", Some("gpu"), held), "Kueue would start it at once");
    assert!(!replaced("", Some("gpu"), waits), "Kueue suspended it, and moves it");
    let queue_labels = BTreeMap::from([("kueue.x-k8s.io/queue-name".to_owned(), "remote".to_owned())]);
    let delegated = OpenJob { delegated: true, queue_labels, ..queued };
    assert!(replaced("", Some("gpu"), delegated.clone()), "no pod would ever start here");
    assert!(!replaced("", Some("remote"), delegated));
}

#[test]
fn a_step_that_ran_out_of_memory_names_the_field_of_its_limit() {
    let failed = |run: &str| {
        let outcome = StepOutcome::Failed {
            reason: Reason::OutOfMemory,
            message: "it ran out of memory and was killed".into(),
            exhausted: true,
        };
        match decide(&generating(run, StepSnapshot::new(1, outcome))) {
            Ok(Decision::Report { verdict: Verdict::Failed { message, .. }, .. }) => message,
            other => panic!("{other:?}"),
        }
    };
    let message = failed("  pod: {resources: {limits: {memory: 1Gi}}}\n");
    assert!(message.contains("raise spec.pod.resources.limits.memory and spec.retry"), "{message}");
    let message = failed("  pod: {generation: {resources: {limits: {memory: 1Gi}}}}\n");
    assert!(message.contains("raise spec.pod.generation.resources.limits.memory"), "{message}");
}

#[test]
fn facts_are_fetched_only_if_a_decision_depends_on_them() {
    use StepName::{Generate, Prepare};
    let unknown = |snapshot: Snapshot| Snapshot { facts: Facts::default(), ..snapshot };
    assert_eq!(outcome(&unknown(snapshot(""))), Outcome::Launch(Prepare, 1), "the first launch needs none");
    let second = unknown(Snapshot { steps: done(&[Prepare]), ..snapshot("") });
    let pinning = NeededFacts { started_with: true, ..NeededFacts::default() };
    assert_eq!(outcome(&second), Outcome::Need(pinning));
    let retry = unknown(generating("", failed(1, ExitCode::StorageFailed, "")));
    let all = NeededFacts { started_with: true, is_newest: true, pods_ended: Some(Generate) };
    assert_eq!(outcome(&retry), Outcome::Need(all));
    let running = unknown(generating("", StepSnapshot::new(1, StepOutcome::Running)));
    assert_eq!(outcome(&running), Outcome::Wait(Reason::Generating, false));
}

#[test]
fn a_step_starts_only_when_it_is_safe() {
    let retry = |facts: Facts| Snapshot { facts, ..generating("", failed(1, ExitCode::StorageFailed, "")) };
    let stale = Facts { is_newest: Some(false), ..Facts::local() };
    assert_eq!(outcome(&retry(stale)), Outcome::AwaitWatch);
    let pods = Facts { pods_ended: Some(false), ..Facts::local() };
    assert_eq!(outcome(&retry(pods)), Outcome::Wait(Reason::Generating, true));
    assert_eq!(outcome(&retry(Facts::local())), Outcome::Launch(StepName::Generate, 2));
    let watched = Snapshot { running_pods: [StepName::Prepare].into(), ..snapshot("") };
    let watched = Snapshot { facts: Facts::default(), ..watched };
    assert_eq!(outcome(&watched), Outcome::Wait(Reason::Preparing, true), "no request is needed to know");
}

#[test]
fn the_deadline_fails_what_has_not_ended() {
    let run = "  activeDeadlineSeconds: 600\n";
    let started = |ago: &str| RunStatus { start_time: Some(at(ago)), ..RunStatus::default() };
    let at_deadline =
        |steps: Steps| Snapshot { previous: started("2026-11-24T10:00:00Z"), steps, ..snapshot(run) };
    assert_eq!(outcome(&at_deadline(Steps::new())), Outcome::Fail(Reason::DeadlineExceeded));
    let running = generating(run, StepSnapshot::new(1, StepOutcome::Running)).steps;
    assert_eq!(outcome(&at_deadline(running)), Outcome::Fail(Reason::DeadlineExceeded));
    let failed = generating(run, failed(1, ExitCode::DataInvalid, "")).steps;
    assert_eq!(outcome(&at_deadline(failed)), Outcome::Fail(Reason::DataInvalid), "it failed by itself");
    let complete = done(&[StepName::Prepare, StepName::Generate, StepName::Train]);
    assert_eq!(outcome(&at_deadline(complete)), Outcome::Succeed);
    let in_time = Snapshot { previous: started("2026-11-24T10:01:00Z"), ..snapshot(run) };
    let Ok(Decision::Launch(launch)) = decide(&in_time) else { panic!("the decision is not Launch") };
    assert_eq!(launch.deadline_seconds, Some(62));
    let paused = RunStatus {
        active_time: Some(ActiveTime { seconds: 590, since: None }),
        ..started("2026-11-24T08:00:00Z")
    };
    let paused = Snapshot { previous: paused, ..snapshot(run) };
    let Ok(Decision::Launch(launch)) = decide(&paused) else { panic!("the decision is not Launch") };
    assert_eq!(launch.deadline_seconds, Some(12), "the time in which it had to wait does not count");
    let verdict = Verdict::running(StepName::Prepare);
    let wait = requeue::interval(&in_time, &verdict, &in_time.previous, Duration::from_secs(5));
    assert_eq!(wait, Duration::from_secs(60), "it is reconciled again when the deadline has passed");
}

#[test]
fn the_deadline_of_a_job_follows_that_of_its_run() {
    let new = |run: &str, deadline_of_run: Option<u32>, started: Option<&str>| {
        let open = OpenJob { deadline_of_run, started: started.map(at), ..OpenJob::default() };
        let active = ActiveTime { seconds: 100, since: started.map(at) };
        let previous = RunStatus { active_time: Some(active), ..RunStatus::default() };
        let running = generating(run, StepSnapshot::new(1, StepOutcome::Running));
        match decide(&Snapshot { previous, open_job: Some(open), ..running }) {
            Ok(Decision::Report { changes: JobChanges { deadline, .. }, .. }) => deadline,
            other => panic!("{other:?}"),
        }
    };
    let (limit, minute_ago) = ("  activeDeadlineSeconds: 600\n", Some("2026-11-24T10:09:00Z"));
    let of_run = Some(600);
    assert_eq!(new(limit, Some(600), minute_ago), None);
    // 100 seconds were used before it started, and it counts from its start.
    assert_eq!(new(limit, Some(300), minute_ago), Some(JobDeadline { of_run, seconds: Some(502) }));
    assert_eq!(new(limit, None, minute_ago), Some(JobDeadline { of_run, seconds: Some(502) }));
    assert_eq!(new(limit, Some(8), None), Some(JobDeadline { of_run, seconds: Some(502) }), "suspended");
    assert_eq!(new("", Some(8), minute_ago), Some(JobDeadline { of_run: None, seconds: None }));
}

#[test]
fn a_job_that_ends_before_the_deadline_of_its_run_is_followed_by_another() {
    let late = |run: &str, launches: u32| {
        let (reason, message) = (Reason::DeadlineExceeded, String::new());
        let late = StepOutcome::Failed { reason, message, exhausted: false };
        let active = ActiveTime { seconds: 50, since: None };
        let previous = RunStatus { active_time: Some(active), ..RunStatus::default() };
        outcome(&Snapshot { previous, ..generating(run, StepSnapshot::new(launches, late)) })
    };
    assert_eq!(late("  activeDeadlineSeconds: 600\n", 1), Outcome::Launch(StepName::Generate, 2));
    assert_eq!(late("", 1), Outcome::Launch(StepName::Generate, 2), "the limit was removed");
    assert_eq!(late("", 4), Outcome::Fail(Reason::DeadlineExceeded), "something else limits it");
    assert_eq!(late("  activeDeadlineSeconds: 50\n", 1), Outcome::Fail(Reason::DeadlineExceeded));
}

#[test]
fn a_run_that_is_under_way_keeps_what_it_started_with() {
    let first: RunConfig = match decide(&snapshot("")) {
        Ok(Decision::Launch(launch)) => launch.config,
        other => panic!("{other:?}"),
    };
    let mut second =
        Snapshot { steps: done(&[StepName::Prepare]), ..snapshot("  profile: OfficialCompat\n") };
    let template = |snapshot: &Snapshot| match decide(snapshot) {
        Ok(Decision::Launch(launch)) => match launch.config.task {
            Task::Generate(task) => task.recipe.chat_template,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let unpinned = template(&second);
    second.facts.started_with = Some(Some(Box::new(first)));
    assert_ne!(template(&second), unpinned);
    // How often the training state is saved may change.
    let saves = |snapshot: &Snapshot| match decide(snapshot) {
        Ok(Decision::Launch(launch)) => training(&launch.run).train.save_steps,
        other => panic!("{other:?}"),
    };
    let often = Snapshot { facts: second.facts.clone(), ..snapshot("  training: {saveSteps: 7}\n") };
    assert_eq!(saves(&Snapshot { steps: done(&[StepName::Prepare]), ..often }), 7);
    assert_eq!(template(&second), stic_contract::recipe::ChatTemplate::Auto);
}

#[test]
fn a_suspended_run_starts_nothing_and_suspends_its_job() {
    use Suspension::{Resume, Suspend};
    let suspended = "  suspend: true\n";
    assert_eq!(outcome(&snapshot(suspended)), Outcome::Wait(Reason::Suspended, false));
    let queued = StepOutcome::Waiting { reason: Reason::Queued, message: String::new() };
    let waiting = generating(suspended, StepSnapshot::new(1, queued));
    assert_eq!(outcome(&waiting), Outcome::Wait(Reason::Suspended, false), "no queue may admit it");
    let held = StepOutcome::Waiting { reason: Reason::Suspended, message: String::new() };
    let resumed = generating("", StepSnapshot::new(1, held));
    assert_eq!(outcome(&resumed), Outcome::Wait(Reason::Generating, false), "spec.suspend is false");
    let job = |queued: bool, suspended: bool| OpenJob { queued, suspended, ..OpenJob::default() };
    let held = OpenJob { suspended: true, held: true, ..OpenJob::default() };
    let cases = [
        // spec.suspend, the previous condition, the Job, and what to change about it.
        (true, "False", job(false, false), Some(Suspend)),
        (true, "True", job(false, true), None),
        (true, "True", held.clone(), None),
        (false, "False", held.clone(), Some(Resume)),
        (false, "True", OpenJob { outdated: true, ..held }, None),
        // Something else suspended it.
        (false, "False", job(false, true), None),
        (false, "True", job(false, true), Some(Resume)),
        (false, "False", job(false, false), None),
        (true, "False", job(true, true), Some(Suspend)),
        (true, "True", job(true, true), None),
        (true, "True", job(true, false), Some(Suspend)),
        (false, "True", job(true, true), Some(Resume)),
        (false, "False", job(true, true), None),
    ];
    for (wanted, before, job, expected) in cases {
        let run = if wanted { suspended } else { "" };
        let snapshot = Snapshot {
            previous: with_condition(ConditionType::Suspended, before),
            open_job: Some(job.clone()),
            ..generating(run, StepSnapshot::new(1, StepOutcome::Running))
        };
        let Ok(Decision::Report { changes: JobChanges { suspension, .. }, .. }) = decide(&snapshot) else {
            panic!("the decision is not Report")
        };
        assert_eq!(suspension, expected, "{wanted} {before} {job:?}");
    }
}

/// The status did not record the suspension: it was undone before the write that says so.
#[test]
fn a_workload_that_the_operator_deactivated_is_activated_whatever_the_status_recorded() {
    let resumed = |run: &str, workload_held: bool| {
        let queued = StepOutcome::Waiting { reason: Reason::Queued, message: String::new() };
        let step = StepSnapshot { workload_held, ..StepSnapshot::new(1, queued) };
        let job = OpenJob { queued: true, suspended: true, ..OpenJob::default() };
        let snapshot = Snapshot { open_job: Some(job), ..generating(run, step) };
        match decide(&snapshot) {
            Ok(Decision::Report { changes, .. }) => changes.suspension,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(resumed("", true), Some(Suspension::Resume));
    assert_eq!(resumed("", false), None, "an administrator deactivated it, or it waits for quota");
    assert_ne!(resumed("  suspend: true\n", true), Some(Suspension::Resume));
}

#[test]
fn a_job_that_waits_moves_to_the_queue_of_its_run() {
    let queue = "kueue.x-k8s.io/queue-name";
    let labels = |queue_name: &str| BTreeMap::from([(queue.to_owned(), queue_name.to_owned())]);
    let moved = |suspended: bool, to: &str| {
        let outcome = StepOutcome::Waiting { reason: Reason::Queued, message: String::new() };
        let mut snapshot = generating("", StepSnapshot::new(1, outcome));
        if let Some(Ok(run)) = &mut snapshot.validated {
            run.operation.queue_labels = labels(to);
        }
        snapshot.open_job =
            Some(OpenJob { queued: true, suspended, queue_labels: labels("a"), ..OpenJob::default() });
        match decide(&snapshot) {
            Ok(Decision::Report { changes, .. }) => changes.queue_labels,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(moved(true, "b"), labels("b"));
    assert!(moved(true, "a").is_empty());
    assert!(moved(false, "b").is_empty(), "Kueue rejects it while the Job is admitted");
}

#[test]
fn trouble_is_polled_and_a_blocked_launch_fails_if_it_never_can_start() {
    let trouble = StepOutcome::Waiting { reason: Reason::Unschedulable, message: "no GPU".into() };
    let stuck = generating("", StepSnapshot::new(1, trouble));
    assert_eq!(outcome(&stuck), Outcome::Wait(Reason::Unschedulable, true));
    let blocked = |reason: Reason| Verdict::blocked(reason, "why".into());
    assert!(matches!(blocked(Reason::ClaimMissing), Verdict::Waiting { poll: true, .. }));
    assert!(matches!(blocked(Reason::ClaimNotShareable), Verdict::Failed { .. }));
}

#[test]
fn a_run_is_requeued_as_soon_as_something_may_have_changed() {
    let interval = |snapshot: &Snapshot, verdict: &Verdict| {
        requeue::interval(snapshot, verdict, &snapshot.previous, Duration::from_secs(5)).as_secs()
    };
    let idle = snapshot("");
    let running = Verdict::running(StepName::Generate);
    assert_eq!(interval(&idle, &running), 600);
    assert_eq!(interval(&idle, &Verdict::blocked(Reason::ClaimMissing, String::new())), 15);
    let pending = Snapshot { result_pending: true, ..snapshot("") };
    assert_eq!(interval(&pending, &running), 1);
    let open = Snapshot {
        open_job: Some(OpenJob::default()),
        ..generating("", StepSnapshot::new(1, StepOutcome::Running))
    };
    assert_eq!(interval(&open, &running), 5);
}

#[test]
fn children_are_kept_or_deleted_when_their_time_has_come() {
    let (ended, now) = (at("2026-11-24T10:00:00Z"), at(NOW));
    let retention = |children: Children, after: Option<u32>| Retention {
        children,
        after_finished_seconds: after,
        ..Retention::default()
    };
    let cases = [
        (retention(Children::Keep, None), Cleanup::Keep),
        (retention(Children::Delete, None), Cleanup::DeleteNow),
        (retention(Children::Delete, Some(600)), Cleanup::DeleteNow),
        (retention(Children::Delete, Some(660)), Cleanup::DeleteAfter(Duration::from_secs(60))),
    ];
    for (retention, expected) in cases {
        assert_eq!(cleanup(&retention, Some(&ended), &now), expected, "{retention:?}");
    }
}
