//! Two replicas, of which at most one is the leader.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use stic_contract::StepName;
use tokio::sync::{Mutex, MutexGuard};

use crate::kubelet::{PodAction, holding};
use crate::operator::Operator;
use crate::proxy::{ProxiedRequest, Proxy};
use crate::runs::phase;
use crate::service_account;
use crate::test_env::{PATIENCE, TestEnv};

/// The chart grants access to one lease, so that only one test at a time can use it.
static LEASE: Mutex<()> = Mutex::const_new(());

/// As in `cluster::lease`: the duration of the lease, the time between two attempts, and what a busy machine may add.
const DURATION: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(60);

async fn lease(env: &TestEnv) -> (Api<Lease>, MutexGuard<'static, ()>) {
    let guard = LEASE.lock().await;
    let api: Api<Lease> = Api::namespaced(env.client.clone(), service_account::NAMESPACE);
    // The leader of the previous test was killed.
    let _ = api.delete(service_account::NAME, &DeleteParams::default()).await;
    (api, guard)
}

fn replica(env: &TestEnv, name: &str, port: u16) -> Operator {
    let mut setup = env.setup.clone();
    setup.candidate = Some(name.into());
    setup.listen.set_port(port);
    setup.log.set_extension(format!("{name}.log"));
    Operator::start(&setup)
}

async fn is_leader(operator: &Operator) -> bool {
    operator.metric("stic_leader", &[]).await == Some(1)
}

async fn running_generate() -> TestEnv {
    let env = TestEnv::new(holding([(StepName::Generate, 1)])).await;
    env.one("one", "").await;
    env
}

async fn expect_success(env: &TestEnv) {
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    let once = [StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1));
    assert_eq!(env.pods_started(), BTreeMap::from(once));
    assert_eq!(env.jobs().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_killed_leader_is_replaced_only_after_its_lease_has_expired() {
    let env = running_generate().await;
    let (_, _guard) = lease(&env).await;
    let first = replica(&env, "first", 8081);
    env.until_true("the first is the leader", async || is_leader(&first).await).await;
    let second = replica(&env, "second", 8082);
    env.pod("one", StepName::Generate, 0).await;
    assert!(!is_leader(&second).await);
    drop(first);
    let killed = Instant::now();
    env.until_true("the second is the leader", async || is_leader(&second).await).await;
    let took = killed.elapsed();
    assert!(took < DURATION + RETRY + SLACK, "there was no leader for {took:?}");
    // With the same name, as when the kubelet restarts a container.
    let successor = replica(&env, "first", 8081);
    env.until_true("the successor serves", async || successor.metric("stic_leader", &[]).await.is_some())
        .await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    expect_success(&env).await;
    assert!(is_leader(&second).await);
    assert!(!is_leader(&successor).await);
    assert_eq!(successor.metric("stic_api_writes_total", &[]).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_leader_that_shuts_down_hands_over_at_once() {
    let env = running_generate().await;
    let (leases, _guard) = lease(&env).await;
    let mut first = replica(&env, "first", 8081);
    env.until_true("the first is the leader", async || is_leader(&first).await).await;
    let second = replica(&env, "second", 8082);
    env.pod("one", StepName::Generate, 0).await;
    env.until_true("the second waits", async || second.metric("stic_leader", &[]).await == Some(0)).await;
    first.terminate();
    assert!(first.wait_for_exit(PATIENCE).await.success());
    // Otherwise the second would wait until it expires.
    let released = leases.get(service_account::NAME).await.expect("it is kept").spec.expect("a spec");
    assert_ne!(released.holder_identity.as_deref(), Some("first"), "it released the lease");
    env.until_true("the second is the leader", async || is_leader(&second).await).await;
    let lease = leases.get(service_account::NAME).await.expect("it is kept").spec.expect("a spec");
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("second"), Some(1)));
    env.finish("one", StepName::Generate, 0, 0, "").await;
    expect_success(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_leader_that_lost_its_lease_writes_nothing_more() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let proxy = Proxy::before(&mut env).await;
    let (leases, _guard) = lease(&env).await;
    let mut leader = replica(&env, "first", 8081);
    env.one("one", "").await;
    env.pod("one", StepName::Prepare, 0).await;
    // The leader always has something to write.
    let busy = async {
        for n in 0_u32.. {
            env.edit("one", json!({"spec": {"suspend": n % 2 == 0}})).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let loses = async {
        let of_runs = |request: &ProxiedRequest| request.is_write() && !request.path.contains("/leases/");
        env.until_true("it writes", async || {
            proxy.requests().iter().filter(|request| of_runs(request)).count() > 5
        })
        .await;
        let taken = json!({"spec": {"holderIdentity": "another"}});
        leases
            .patch(service_account::NAME, &PatchParams::default(), &Patch::Merge(taken))
            .await
            .expect("it is taken");
        let before = proxy.requests().len();
        (before, leader.wait_for_exit(PATIENCE).await)
    };
    let (before, status) = tokio::select! {
        lost = loses => lost,
        () = busy => unreachable!("the loop never ends"),
    };
    assert_eq!(status.code(), Some(1), "it ends, and is started again as a candidate");
    let requests = proxy.requests();
    let last_attempt =
        requests.iter().rposition(|request| request.path.contains("/leases/")).expect("an attempt");
    assert!(last_attempt >= before, "it read the new holder");
    // One write may begin before the leader has read the response. Until its next attempt there would be dozens.
    let after: Vec<_> =
        requests.iter().filter(|request| request.is_write() && request.after > last_attempt).collect();
    assert!(after.len() < 4, "{after:?}");
    let holder = leases
        .get(service_account::NAME)
        .await
        .expect("it is kept")
        .spec
        .and_then(|spec| spec.holder_identity);
    assert_eq!(holder.as_deref(), Some("another"), "it does not take it back");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_leader_that_is_cut_off_exits_before_another_takes_over() {
    let mut env = running_generate().await;
    let direct = env.setup.kubeconfig.clone();
    let proxy = Proxy::before(&mut env).await;
    let (_, _guard) = lease(&env).await;
    let mut first = replica(&env, "first", 8081);
    env.pod("one", StepName::Generate, 0).await;
    env.setup.kubeconfig = direct;
    let second = replica(&env, "second", 8082);
    env.until_true("the second waits", async || second.metric("stic_leader", &[]).await == Some(0)).await;
    proxy.cut(true);
    let cut = Instant::now();
    let ended = first.wait_for_exit(PATIENCE).await;
    assert_eq!(ended.code(), Some(1));
    assert!(!is_leader(&second).await, "there were two leaders for {:?}", cut.elapsed());
    env.until_true("the second is the leader", async || is_leader(&second).await).await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    expect_success(&env).await;
}
