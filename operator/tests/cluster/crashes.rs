//! The operator is killed between any two writes of a scenario, which must end as if nothing had happened.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::status::{RunStatus, StepState};
use stic_crds::{StageOneRun, StageTwoRun};
use stic_operator::failpoint::Write;

use crate::kubelet::PodAction;
use crate::operator::{Operator, Setup};
use crate::runs::phase;
use crate::test_env::TestEnv;
use crate::workloads::{Kueue, active, workloads};

/// How many scenarios run concurrently.
const CONCURRENCY: usize = 12;

/// A scenario with one possible end, whenever the operator dies.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    script: fn(StepName, usize) -> PodAction,
    run: fn(&TestEnv) -> LocalBoxFuture<'_, ()>,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "an output claim whose retention changes, and children that are deleted",
        script: |step, _| if step == StepName::Generate { PodAction::Run } else { PodAction::Succeed },
        run: |env| claiming(env).boxed_local(),
    },
    Scenario {
        name: "suspended, resumed, and run again while it is running",
        script: |step, count| match (step, count) {
            (StepName::Generate | StepName::Train, 1) => PodAction::Run,
            _ => PodAction::Succeed,
        },
        run: |env| suspended_and_rerun(env).boxed_local(),
    },
    Scenario {
        name: "queued, suspended and resumed",
        script: |step, count| match (step, count) {
            (StepName::Generate, 1) => PodAction::Run,
            _ => PodAction::Succeed,
        },
        run: |env| queued(env).boxed_local(),
    },
    Scenario {
        name: "stage two on the claim of stage one",
        script: |_, _| PodAction::Succeed,
        run: |env| chained(env).boxed_local(),
    },
];

async fn claiming(env: &TestEnv) {
    env.one_with_claim("one", "  retention: {whenDeleted: Delete, children: Delete}\n").await;
    env.pod("one", StepName::Generate, 0).await;
    env.edit("one", json!({"spec": {"retention": {"whenDeleted": "Retain"}}})).await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    env.edit("one", json!({"spec": {"retention": {"whenDeleted": "Delete"}}})).await;
    env.until_one("one", "reconciled", |status| status.observed_generation == 3).await;
    env.until_true("its children are gone", async || env.jobs().await.is_empty()).await;
}

async fn suspended_and_rerun(env: &TestEnv) {
    env.one("one", "").await;
    env.pod("one", StepName::Generate, 0).await;
    env.suspend("one").await;
    env.resume("one").await;
    env.pod("one", StepName::Train, 0).await;
    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    env.until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
}

async fn queued(env: &TestEnv) {
    let kueue = Kueue::start(env).await;
    env.one_in("gpus", "one").await;
    env.pod("one", StepName::Generate, 0).await;
    env.suspend("one").await;
    let inactive = async || {
        kueue
            .workloads
            .list(&ListParams::default())
            .await
            .expect("Workloads")
            .items
            .iter()
            .any(|it| !active(it))
    };
    env.until_true("its Workload is not active", inactive).await;
    env.resume("one").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

async fn chained(env: &TestEnv) {
    env.two("two", "one").await;
    env.one_with_claim("one", "  retention: {whenDeleted: Delete}\n").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    env.until_two("two", "done", |status| phase(status) == "Succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn runs_survive_a_crash_between_any_two_writes() {
    let mut points = Vec::new();
    let mut writes_done = BTreeMap::new();
    let undisturbed =
        futures::future::join_all(SCENARIOS.iter().map(|scenario| finish(scenario, None))).await;
    for (scenario, finished) in SCENARIOS.iter().zip(undisturbed) {
        let gone = finished.jobs_deleted();
        for (write, tried, done) in finished.writes {
            *writes_done.entry(write.as_str()).or_insert(0) += done;
            // After one write is before the next: anything between the two is lost with the process. Only before the
            // first there is none to die after.
            let before = (tried > 0).then_some((write, "before", 1, tried));
            let after = (1..=done).map(|nth| (write, "after", nth, done));
            points.extend(
                before.into_iter().chain(after).map(|point| (scenario, point, finished.end.clone(), gone)),
            );
        }
    }
    let never: Vec<_> = Write::ALL.iter().filter(|write| writes_done[write.as_str()] == 0).collect();
    assert!(never.is_empty(), "no scenario has {never:?}");
    println!("{} crashes in scenarios with the writes {writes_done:?}", points.len());
    let since = Instant::now();
    let failed: Vec<String> = futures::stream::iter(points)
        .map(|(scenario, (write, when, nth, of), end, gone)| async move {
            let failpoint = format!("{when}:{write}:{nth}");
            let finished = finish(scenario, Some(failpoint.clone())).await;
            // The number of these writes depends on which changes are coalesced, so that the last ones may not happen.
            let sure = match write {
                Write::PatchStatus | Write::CreateEvent | Write::PatchJob => 2 * nth <= of,
                // Each object is deleted once, and again only while the watch is behind.
                Write::DeleteJob | Write::DeleteConfigMap => nth <= gone,
                _ => true,
            };
            let wrong = finished.end != end || (sure && !finished.crashed);
            wrong.then(|| {
                format!(
                    "{}: {failpoint} (reached: {}): {:#?} instead of {end:#?}",
                    scenario.name, finished.crashed, finished.end
                )
            })
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    println!("took {:?}", since.elapsed());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

struct Finished {
    end: End,
    /// How often the last operator attempted each write, and how often it succeeded.
    writes: Vec<(Write, u64, u64)>,
    crashed: bool,
}

impl Finished {
    /// How many Jobs, each with its ConfigMap, were created and then deleted.
    fn jobs_deleted(&self) -> u64 {
        let created = self.writes.iter().find(|(write, ..)| *write == Write::CreateJob).map_or(0, |it| it.2);
        created - self.end.jobs.values().map(|left| *left as u64).sum::<u64>()
    }
}

async fn finish(scenario: &Scenario, failpoint: Option<String>) -> Finished {
    let env = TestEnv::new(scenario.script).await;
    let mut operator = Operator::start(&Setup { failpoint: failpoint.clone(), ..env.setup.clone() });
    let mut crashes = 0;
    let dies = failpoint.is_some();
    {
        let supervised = async {
            loop {
                if operator.ended().is_some() {
                    crashes += 1;
                    operator = Operator::start(&env.setup);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = (scenario.run)(&env) => {}
            () = supervised => {}
        }
    }
    // Nothing above waits for the last writes: an event, or the deletion of the last child.
    let mut writes = writes(&operator).await;
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if operator.ended().is_some() {
            crashes += 1;
            operator = Operator::start(&env.setup);
        }
        let now = self::writes(&operator).await;
        if now != writes {
            (writes, quiet) = (now, Instant::now());
        }
    }
    assert!(
        crashes <= u32::from(dies),
        "{}: {failpoint:?}: it died {crashes} times; see {:?}",
        scenario.name,
        env.setup.log
    );
    Finished { end: End::of(&env).await, writes, crashed: crashes > 0 }
}

async fn writes(operator: &Operator) -> Vec<(Write, u64, u64)> {
    let mut writes = Vec::new();
    for write in Write::ALL {
        let of = format!("write=\"{write}\"");
        let tried = operator.metric("stic_api_writes_total", &[&of]).await.unwrap_or_default();
        let done =
            operator.metric("stic_api_writes_total", &[&of, "result=\"ok\""]).await.unwrap_or_default();
        writes.push((write, tried, done));
    }
    writes
}

/// State and attempts of each step.
type Steps = Vec<(StepName, StepState, u32)>;

/// What a scenario leaves behind, without names and times.
#[derive(Debug, Clone, PartialEq)]
struct End {
    runs: Vec<(String, Steps)>,
    /// How many pods each step had in total.
    pods: BTreeMap<StepName, usize>,
    jobs: BTreeMap<String, usize>,
    config_maps: BTreeMap<String, usize>,
    /// Claims that belong to a run.
    claims: Vec<(String, Vec<String>)>,
    workloads: Vec<bool>,
}

impl End {
    async fn of(env: &TestEnv) -> Self {
        let of_runs = ListParams::default().labels("stic.dev/run");
        let ones = env.api::<StageOneRun>().list(&ListParams::default()).await.expect("runs").items;
        let twos = env.api::<StageTwoRun>().list(&ListParams::default()).await.expect("runs").items;
        let statuses = ones.into_iter().map(|run| run.status).chain(twos.into_iter().map(|run| run.status));
        let claims: Api<PersistentVolumeClaim> = env.api();
        let owners = |claim: &PersistentVolumeClaim| {
            claim.owner_references().iter().map(|owner| owner.name.clone()).collect()
        };
        let workloads = workloads(env).await.list(&ListParams::default()).await.expect("Workloads").items;
        Self {
            runs: statuses.map(|status| summary(&status.unwrap_or_default())).collect(),
            pods: env.pods_started(),
            jobs: by_step(env.jobs().await.iter().map(Job::labels)),
            config_maps: by_step(
                env.api::<ConfigMap>()
                    .list(&of_runs)
                    .await
                    .expect("ConfigMaps")
                    .items
                    .iter()
                    .map(ConfigMap::labels),
            ),
            claims: claims
                .list(&ListParams::default())
                .await
                .expect("claims")
                .items
                .iter()
                .map(|claim| (claim.name_any(), owners(claim)))
                .collect(),
            workloads: workloads.iter().map(active).collect(),
        }
    }
}

fn summary(status: &RunStatus) -> (String, Steps) {
    let steps = status.steps.iter().map(|step| (step.name, step.state, step.attempts)).collect();
    (format!("{} of rerun {}", phase(status), status.rerun), steps)
}

fn by_step<'a>(labels: impl Iterator<Item = &'a BTreeMap<String, String>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for labels in labels {
        *counts.entry(labels["stic.dev/step"].clone()).or_default() += 1;
    }
    counts
}
