//! An outage of the API server while runs are under way.

use std::collections::BTreeMap;
use std::process::Command;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use stic_contract::StepName;
use stic_crds::StageOneRun;

use crate::invariants::StatusRecorder;
use crate::kubelet::PodAction;
use crate::operator::Operator;
use crate::runs::phase;
use crate::test_env::TestEnv;

struct RunInOutage {
    env: TestEnv,
    operator: Operator,
    recorder: StatusRecorder,
    /// The step that is running when the outage begins.
    step: StepName,
    /// Whether the run is suspended during the outage.
    suspended: bool,
}

impl RunInOutage {
    async fn start((step, suspended): (StepName, bool)) -> Self {
        let kept = step;
        let env = TestEnv::new(
            move |step, count| if step == kept && count == 1 { PodAction::Run } else { PodAction::Succeed },
        )
        .await;
        let operator = Operator::start(&env.setup);
        let recorder = StatusRecorder::start(&env).await;
        env.one("one", "").await;
        env.pod("one", step, 0).await;
        if suspended {
            env.suspend("one").await;
        }
        Self { env, operator, recorder, step, suspended }
    }

    async fn expect_success(mut self) {
        let Self { env, step, suspended, .. } = &self;
        if *suspended {
            env.resume("one").await;
        } else {
            env.finish("one", *step, 0, 0, "").await;
        }
        let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
        assert!(status.steps.iter().all(|step| step.attempts == 1), "{:?}", status.steps);
        let mut started =
            BTreeMap::from([StepName::Prepare, StepName::Generate, StepName::Train].map(|step| (step, 1)));
        if *suspended {
            started.insert(*step, 2);
        }
        assert_eq!(env.pods_started(), started);
        assert_eq!(env.jobs().await.len(), 3);
        self.recorder.check().await;
        assert!(self.operator.ended().is_none(), "the operator exited");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn runs_continue_after_an_outage_of_the_api_server() {
    let steps = [StepName::Prepare, StepName::Generate, StepName::Train];
    let flights = steps.map(|step| (step, false)).into_iter().chain([(StepName::Generate, true)]);
    let flights = join_all(flights.map(RunInOutage::start)).await;
    component("kill");
    // Their requests fail for a while.
    let env = &flights[0].env;
    let answers = async || env.client.apiserver_version().await.is_ok();
    env.until_true("away", async || !answers().await).await;
    component("start");
    // It answers before it knows the CRDs.
    let all = ListParams::default();
    let serves = async || {
        env.api::<StageOneRun>().list(&all).await.is_ok() && env.api::<Pod>().list(&all).await.is_ok()
    };
    env.until_true("back", serves).await;
    join_all(flights.into_iter().map(RunInOutage::expect_success)).await;
}

fn component(what: &str) {
    let done = Command::new("component.sh").args([what, "kube-apiserver"]).status();
    assert!(done.expect("cluster.sh has it on PATH").success());
}
