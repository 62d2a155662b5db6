//! The operator killed between any two writes of runs' lives: they end as if nothing had happened.

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
use stic_operator::cluster::failpoint::Write;

use crate::kubelet::Act;
use crate::operator::{Operator, Setup};
use crate::runs::phase;
use crate::workloads::{Kueue, QUEUE, active, workloads};
use crate::world::World;

/// How many lives are lived at once.
const AT_ONCE: usize = 12;

/// A life that ends in one way only, whenever the operator dies in it.
#[derive(Clone, Copy)]
struct Life {
    name: &'static str,
    script: fn(StepName, usize) -> Act,
    live: fn(&World) -> LocalBoxFuture<'_, ()>,
}

const LIVES: [Life; 4] = [
    Life {
        name: "its own claim, kept and not kept, and children that go",
        script: |step, _| if step == StepName::Generate { Act::Run } else { Act::Succeed },
        live: |world| claiming(world).boxed_local(),
    },
    Life {
        name: "held, resumed, and run again while it runs",
        script: |step, count| match (step, count) {
            (StepName::Generate | StepName::Train, 1) => Act::Run,
            _ => Act::Succeed,
        },
        live: |world| steered(world).boxed_local(),
    },
    Life {
        name: "queued, held and resumed",
        script: |step, count| match (step, count) {
            (StepName::Generate, 1) => Act::Run,
            _ => Act::Succeed,
        },
        live: |world| queued(world).boxed_local(),
    },
    Life {
        name: "stage two on the claim of stage one",
        script: |_, _| Act::Succeed,
        live: |world| chained(world).boxed_local(),
    },
];

async fn claiming(world: &World) {
    world.one_with_claim("one", "  retention: {whenDeleted: Delete, children: Delete}\n").await;
    world.pod("one", StepName::Generate, 0).await;
    world.edit("one", json!({"spec": {"retention": {"whenDeleted": "Retain"}}})).await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    world.edit("one", json!({"spec": {"retention": {"whenDeleted": "Delete"}}})).await;
    world.until_one("one", "looked at", |status| status.observed_generation == 3).await;
    world.until_true("its children are gone", async || world.jobs().await.is_empty()).await;
}

async fn steered(world: &World) {
    world.one("one", "").await;
    world.pod("one", StepName::Generate, 0).await;
    world.hold("one").await;
    world.edit("one", json!({"spec": {"suspend": false}})).await;
    world.pod("one", StepName::Train, 0).await;
    world.edit("one", json!({"spec": {"rerun": 1}})).await;
    world.until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
}

async fn queued(world: &World) {
    let kueue = Kueue::start(world).await;
    world.one_labelled("one", &json!({QUEUE: "gpus"})).await;
    world.pod("one", StepName::Generate, 0).await;
    world.hold("one").await;
    let held = async || {
        kueue
            .workloads
            .list(&ListParams::default())
            .await
            .expect("Workloads")
            .items
            .iter()
            .any(|it| !active(it))
    };
    world.until_true("its Workload is not active", held).await;
    world.edit("one", json!({"spec": {"suspend": false}})).await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

async fn chained(world: &World) {
    world.two("two", "one").await;
    world.one_with_claim("one", "  retention: {whenDeleted: Delete}\n").await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    world.until_two("two", "done", |status| phase(status) == "Succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn runs_survive_a_crash_between_any_two_writes() {
    let mut points = Vec::new();
    let mut written = BTreeMap::new();
    let undisturbed = futures::future::join_all(LIVES.iter().map(|life| lived(life, None))).await;
    for (life, lived) in LIVES.iter().zip(undisturbed) {
        let gone = lived.jobs_gone();
        for (write, tried, done) in lived.writes {
            *written.entry(write.as_str()).or_insert(0) += done;
            // After one write is before the next: all that lies between is in the memory that is lost. Only before the
            // first there is none to die after.
            let before = (tried > 0).then_some((write, "before", 1, tried));
            let after = (1..=done).map(|nth| (write, "after", nth, done));
            points
                .extend(before.into_iter().chain(after).map(|point| (life, point, lived.end.clone(), gone)));
        }
    }
    let never: Vec<_> = Write::ALL.iter().filter(|write| written[write.as_str()] == 0).collect();
    assert!(never.is_empty(), "no life has {never:?}");
    println!("{} crashes in lives that write {written:?}", points.len());
    let since = Instant::now();
    let failed: Vec<String> = futures::stream::iter(points)
        .map(|(life, (write, when, nth, of), end, gone)| async move {
            let failpoint = format!("{when}:{write}:{nth}");
            let lived = lived(life, Some(failpoint.clone())).await;
            // How many of these there are depends on what is seen at once: the last ones may not come.
            let sure = match write {
                Write::PatchStatus | Write::CreateEvent | Write::PatchJob => 2 * nth <= of,
                // What goes is deleted once; again only while the watch has not told so.
                Write::DeleteJob | Write::DeleteConfigMap => nth <= gone,
                _ => true,
            };
            let wrong = lived.end != end || (sure && !lived.crashed);
            wrong.then(|| {
                format!(
                    "{}: {failpoint} (reached: {}): {:#?} instead of {end:#?}",
                    life.name, lived.crashed, lived.end
                )
            })
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    println!("took {:?}", since.elapsed());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

struct Lived {
    end: End,
    /// How often each write was tried, and how often it was done, by the last operator.
    writes: Vec<(Write, u64, u64)>,
    crashed: bool,
}

impl Lived {
    /// How many Jobs, each with its ConfigMap, were made and are not there any more.
    fn jobs_gone(&self) -> u64 {
        let made = self.writes.iter().find(|(write, ..)| *write == Write::CreateJob).map_or(0, |it| it.2);
        made - self.end.jobs.values().map(|left| *left as u64).sum::<u64>()
    }
}

async fn lived(life: &Life, failpoint: Option<String>) -> Lived {
    let world = World::new(life.script).await;
    let mut operator = Operator::start(&Setup { failpoint: failpoint.clone(), ..world.setup.clone() });
    let mut crashes = 0;
    let dies = failpoint.is_some();
    {
        let supervised = async {
            loop {
                if operator.ended().is_some() {
                    crashes += 1;
                    operator = Operator::start(&world.setup);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = (life.live)(&world) => {}
            () = supervised => {}
        }
    }
    // What comes last nobody waits for: an event, or the last child's deletion.
    let mut writes = writes(&operator).await;
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if operator.ended().is_some() {
            crashes += 1;
            operator = Operator::start(&world.setup);
        }
        let now = self::writes(&operator).await;
        if now != writes {
            (writes, quiet) = (now, Instant::now());
        }
    }
    assert!(
        crashes <= u32::from(dies),
        "{}: {failpoint:?}: it died {crashes} times; see {:?}",
        life.name,
        world.setup.log
    );
    Lived { end: End::of(&world).await, writes, crashed: crashes > 0 }
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

/// What a life leaves behind, its names and times left out.
#[derive(Debug, Clone, PartialEq)]
struct End {
    runs: Vec<(String, Steps)>,
    /// How many pods each step had, all in all.
    pods: BTreeMap<StepName, usize>,
    jobs: BTreeMap<String, usize>,
    config_maps: BTreeMap<String, usize>,
    /// Claims that belong to a run.
    claims: Vec<(String, Vec<String>)>,
    workloads: Vec<bool>,
}

impl End {
    async fn of(world: &World) -> Self {
        let of_runs = ListParams::default().labels("stic.dev/run");
        let ones = world.api::<StageOneRun>().list(&ListParams::default()).await.expect("runs").items;
        let twos = world.api::<StageTwoRun>().list(&ListParams::default()).await.expect("runs").items;
        let statuses = ones.into_iter().map(|run| run.status).chain(twos.into_iter().map(|run| run.status));
        let claims: Api<PersistentVolumeClaim> = world.api();
        let owners = |claim: &PersistentVolumeClaim| {
            claim.owner_references().iter().map(|owner| owner.name.clone()).collect()
        };
        let workloads = workloads(world).await.list(&ListParams::default()).await.expect("Workloads").items;
        Self {
            runs: statuses.map(|status| summary(&status.unwrap_or_default())).collect(),
            pods: world.pods_started(),
            jobs: by_step(world.jobs().await.iter().map(Job::labels)),
            config_maps: by_step(
                world
                    .api::<ConfigMap>()
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
