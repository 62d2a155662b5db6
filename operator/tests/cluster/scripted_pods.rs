//! Pods of many runs, which end as a script says of each, or as a test decides.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use stic_contract::StepName;
use tokio::task::JoinHandle;

use crate::invariants::StatusRecorder;
use crate::kubelet::{PodAction, end_pod, failure_message, index, is_running, label, step, success_message};
use crate::test_env::TestEnv;

/// A running pod.
#[derive(Debug)]
pub(crate) struct ScriptedPod {
    pub run: String,
    pub step: StepName,
    pub index: u32,
    /// Which pod of this index it is, from 1.
    pub nth: usize,
}

/// Ends the pods of a test environment whose kubelet keeps them running (`PodAction::Run`), and records every status.
pub(crate) struct ScriptedPods {
    play: JoinHandle<()>,
    pub recorder: StatusRecorder,
}

impl ScriptedPods {
    pub(crate) async fn start(
        env: &TestEnv,
        script: impl Fn(&ScriptedPod) -> PodAction + Send + 'static,
    ) -> Self {
        let recorder = StatusRecorder::start(env).await;
        let api: Api<Pod> = env.api();
        let play = tokio::spawn(async move {
            let mut known: HashSet<String> = HashSet::new();
            let mut counts = HashMap::<(String, StepName, u32), usize>::new();
            let mut events =
                std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // The watcher restarts a watch that failed.
                let Ok(Event::InitApply(pod) | Event::Apply(pod)) = event else { continue };
                if !is_running(&pod) || !known.insert(pod.uid().unwrap_or_default()) {
                    continue;
                }
                let (step, index) = (step(&pod), index(&pod));
                let nth = counts.entry((label(&pod, "stic.dev/run-uid"), step, index)).or_default();
                *nth += 1;
                let scripted = ScriptedPod { run: label(&pod, "stic.dev/run"), step, index, nth: *nth };
                match script(&scripted) {
                    PodAction::Run | PodAction::Pend => {}
                    PodAction::Succeed => drop(end_pod(&api, &pod, 0, &success_message(&pod)).await),
                    PodAction::Exit(code, text) => {
                        end_pod(&api, &pod, code, &failure_message(step, text)).await;
                    }
                }
            }
        });
        Self { play, recorder }
    }

    /// Checks every status that was written.
    pub(crate) async fn check(self) {
        self.recorder.check().await;
    }
}

impl Drop for ScriptedPods {
    fn drop(&mut self) {
        self.play.abort();
    }
}
