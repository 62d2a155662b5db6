//! Two replicas: one leads, and never both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use stic_contract::StepName;
use tokio::sync::{Mutex, MutexGuard};

use crate::account;
use crate::kubelet::Act;
use crate::operator::Operator;
use crate::proxy::{Proxy, Seen};
use crate::runs::phase;
use crate::world::{PATIENCE, World};

/// The chart grants one lease: one test at a time has it.
static LEASE: Mutex<()> = Mutex::const_new(());

/// As in `cluster::lease`: how long a leader that is gone is waited for, the time between two tries, and what a busy
/// machine may add.
const DURATION: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(10);

async fn lease(world: &World) -> (Api<Lease>, MutexGuard<'static, ()>) {
    let guard = LEASE.lock().await;
    let api: Api<Lease> = Api::namespaced(world.client.clone(), account::NAMESPACE);
    // The last test's leader was killed.
    let _ = api.delete(account::NAME, &DeleteParams::default()).await;
    (api, guard)
}

fn replica(world: &World, name: &str, port: u16) -> Operator {
    let mut setup = world.setup.clone();
    setup.candidate = Some(name.into());
    setup.listen.set_port(port);
    setup.log.set_extension(format!("{name}.log"));
    Operator::start(&setup)
}

async fn leads(operator: &Operator) -> bool {
    operator.metric("stic_leader", &[]).await == Some(1)
}

async fn held_in_generate() -> World {
    let world = World::new(|step, count| match (step, count) {
        (StepName::Generate, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.one("one", "").await;
    world
}

async fn ends_well(world: &World) {
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
    assert_eq!(world.pods_started(), BTreeMap::from(once));
    assert_eq!(world.jobs().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_killed_leader_is_followed_within_the_lease_and_its_successor_waits() {
    let world = held_in_generate().await;
    let (_, _guard) = lease(&world).await;
    let first = replica(&world, "first", 8081);
    world.until_true("the first leads", async || leads(&first).await).await;
    let second = replica(&world, "second", 8082);
    world.pod("one", StepName::Generate, 0).await;
    assert!(!leads(&second).await);
    drop(first);
    let killed = Instant::now();
    world.until_true("the second leads", async || leads(&second).await).await;
    let took = killed.elapsed();
    assert!(took < DURATION + RETRY + SLACK, "the leadership stood empty for {took:?}");
    // As the kubelet starts a container again: under the same name.
    let successor = replica(&world, "first", 8081);
    world
        .until_true("the successor serves", async || successor.metric("stic_leader", &[]).await.is_some())
        .await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    ends_well(&world).await;
    assert!(leads(&second).await);
    assert!(!leads(&successor).await);
    assert_eq!(successor.metric("stic_api_writes_total", &[]).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_leader_that_is_asked_to_end_hands_over_at_once() {
    let world = held_in_generate().await;
    let (leases, _guard) = lease(&world).await;
    let mut first = replica(&world, "first", 8081);
    world.until_true("the first leads", async || leads(&first).await).await;
    let second = replica(&world, "second", 8082);
    world.pod("one", StepName::Generate, 0).await;
    world.until_true("the second waits", async || second.metric("stic_leader", &[]).await == Some(0)).await;
    first.terminate();
    let asked = Instant::now();
    assert!(first.end(PATIENCE).await.success());
    world.until_true("the second leads", async || leads(&second).await).await;
    assert!(asked.elapsed() < RETRY + SLACK, "{:?}", asked.elapsed());
    let lease = leases.get(account::NAME).await.expect("it is kept").spec.expect("a spec");
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("second"), Some(1)));
    world.finish("one", StepName::Generate, 0, 0, "").await;
    ends_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_leader_whose_lease_another_took_writes_no_more() {
    let mut world = World::new(|_, _| Act::Run).await;
    let proxy = Proxy::before(&mut world).await;
    let (leases, _guard) = lease(&world).await;
    let mut leader = replica(&world, "first", 8081);
    world.one("one", "").await;
    world.pod("one", StepName::Prepare, 0).await;
    // It has something to write all the time.
    let busy = async {
        for n in 0_u32.. {
            world.edit("one", json!({"spec": {"suspend": n % 2 == 0}})).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let loses = async {
        let of_runs = |seen: &Seen| seen.is_write() && !seen.path.contains("/leases/");
        world
            .until_true("it writes", async || proxy.seen().iter().filter(|seen| of_runs(seen)).count() > 5)
            .await;
        let taken = json!({"spec": {"holderIdentity": "another"}});
        leases
            .patch(account::NAME, &PatchParams::default(), &Patch::Merge(taken))
            .await
            .expect("it is taken");
        let before = proxy.seen().len();
        (before, leader.end(RETRY + SLACK).await)
    };
    let (before, status) = tokio::select! {
        lost = loses => lost,
        () = busy => unreachable!("it is busy for ever"),
    };
    assert_eq!(status.code(), Some(1), "it ends, and is started again as a candidate");
    let seen = proxy.seen();
    let looked = seen.iter().rposition(|seen| seen.path.contains("/leases/")).expect("it looked");
    assert!(looked >= before, "it saw who leads");
    // Between the answer and its being read a write may yet begin. In the time until its next look there would be dozens.
    let after: Vec<_> = seen.iter().filter(|seen| seen.is_write() && seen.after > looked).collect();
    assert!(after.len() < 4, "{after:?}");
    let holder =
        leases.get(account::NAME).await.expect("it is kept").spec.and_then(|spec| spec.holder_identity);
    assert_eq!(holder.as_deref(), Some("another"), "it does not take it back");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_leader_that_is_cut_off_ends_before_another_leads() {
    let mut world = held_in_generate().await;
    let direct = world.setup.kubeconfig.clone();
    let proxy = Proxy::before(&mut world).await;
    let (_, _guard) = lease(&world).await;
    let mut first = replica(&world, "first", 8081);
    world.pod("one", StepName::Generate, 0).await;
    world.setup.kubeconfig = direct;
    let second = replica(&world, "second", 8082);
    world.until_true("the second waits", async || second.metric("stic_leader", &[]).await == Some(0)).await;
    proxy.cut(true);
    let cut = Instant::now();
    let ended = first.end(PATIENCE).await;
    assert_eq!(ended.code(), Some(1));
    assert!(!leads(&second).await, "two led at once for {:?}", cut.elapsed());
    world.until_true("the second leads", async || leads(&second).await).await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    ends_well(&world).await;
}
