//! The API server goes away while runs are in flight. A suite of its own, since it takes it away from everybody.
//!
//! `make controller-test` runs it.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../cluster/account.rs"]
mod account;
#[path = "../pure/common.rs"]
#[expect(dead_code, reason = "the pure tests use the rest")]
mod common;
#[path = "../cluster/history.rs"]
mod history;
#[path = "../cluster/kubelet.rs"]
#[expect(dead_code, reason = "the cluster tests use the rest")]
mod kubelet;
#[path = "../cluster/operator.rs"]
#[expect(dead_code, reason = "the cluster tests use the rest")]
mod operator;
#[path = "../cluster/world.rs"]
#[expect(dead_code, reason = "the cluster tests use the rest")]
mod world;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use stic_contract::StepName;

use crate::history::History;
use crate::kubelet::Act;
use crate::operator::Operator;
use crate::world::{World, phase};

struct Flight {
    world: World,
    operator: Operator,
    history: History,
    /// Where it is when the API server goes, and whether it is held there.
    step: StepName,
    suspended: bool,
}

impl Flight {
    async fn start((step, suspended): (StepName, bool)) -> Self {
        let held = step;
        let world =
            World::new(move |step, count| if step == held && count == 1 { Act::Run } else { Act::Succeed })
                .await;
        let operator = Operator::start(&world.setup);
        let history = History::of(world.api());
        world.stage_one("").await;
        world.running(step).await;
        if suspended {
            world.patch(json!({"spec": {"suspend": true}})).await;
            world.until("held", |status| phase(status) == "Suspended").await;
        }
        Self { world, operator, history, step, suspended }
    }

    async fn ends_right(mut self) {
        let Self { world, step, suspended, .. } = &self;
        if *suspended {
            world.patch(json!({"spec": {"suspend": false}})).await;
        } else {
            world.finish_step(*step).await;
        }
        let status = world.until("done", |status| phase(status) == "Succeeded").await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
        let mut started =
            BTreeMap::from([StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1)));
        if *suspended {
            started.insert(*step, 2);
        }
        assert_eq!(world.pods_started(), started);
        assert_eq!(world.jobs().await.len(), 3);
        self.history.goes_forward();
        assert!(self.operator.ended().is_none(), "the operator ended over it");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn runs_go_on_when_the_api_server_comes_back() {
    let steps = [StepName::Prepare, StepName::Generate, StepName::Train];
    let flights = steps.map(|step| (step, false)).into_iter().chain([(StepName::Generate, true)]);
    let flights = join_all(flights.map(Flight::start)).await;
    component("kill");
    // They ask in vain for a while.
    flights[0]
        .world
        .until_true("away", async || flights[0].world.client.apiserver_version().await.is_err())
        .await;
    component("start");
    let since = Instant::now();
    while flights[0].world.client.apiserver_version().await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(120), "the API server does not come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    join_all(flights.into_iter().map(Flight::ends_right)).await;
}

fn component(what: &str) {
    let done = Command::new("component.sh").args([what, "kube-apiserver"]).status();
    assert!(done.expect("cluster.sh has it on PATH").success());
}
