//! The API server goes away while runs are in flight.

use std::collections::BTreeMap;
use std::process::Command;

use futures::future::join_all;
use serde_json::json;
use stic_contract::StepName;

use crate::kubelet::Act;
use crate::operator::Operator;
use crate::record::Recorder;
use crate::runs::phase;
use crate::world::World;

struct Flight {
    world: World,
    operator: Operator,
    recorder: Recorder,
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
        let recorder = Recorder::start(&world).await;
        world.one("one", "").await;
        world.pod("one", step, 0).await;
        if suspended {
            world.hold("one").await;
        }
        Self { world, operator, recorder, step, suspended }
    }

    async fn ends_right(mut self) {
        let Self { world, step, suspended, .. } = &self;
        if *suspended {
            world.edit("one", json!({"spec": {"suspend": false}})).await;
        } else {
            world.finish("one", *step, 0, 0, "").await;
        }
        let status = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
        let mut started =
            BTreeMap::from([StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1)));
        if *suspended {
            started.insert(*step, 2);
        }
        assert_eq!(world.pods_started(), started);
        assert_eq!(world.jobs().await.len(), 3);
        self.recorder.check().await;
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
    let world = &flights[0].world;
    let answers = async || world.client.apiserver_version().await.is_ok();
    world.until_true("away", async || !answers().await).await;
    component("start");
    world.until_true("back", answers).await;
    join_all(flights.into_iter().map(Flight::ends_right)).await;
}

fn component(what: &str) {
    let done = Command::new("component.sh").args([what, "kube-apiserver"]).status();
    assert!(done.expect("cluster.sh has it on PATH").success());
}
