//! Many runs in one world: their pods end as a script says of each, or as a test does by hand.

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use stic_contract::StepName;
use tokio::task::JoinHandle;

use crate::kubelet::{Act, end, index, label, made, runs, said, step};
use crate::record::Recorder;
use crate::world::World;

/// A pod that runs.
#[derive(Debug)]
pub(crate) struct Played {
    pub run: String,
    pub step: StepName,
    pub index: u32,
    /// The n-th of this index, from 1.
    pub nth: usize,
}

/// Ends the pods of a world that runs them all (`Act::Run`), and holds every status to what is always true.
pub(crate) struct Director {
    play: JoinHandle<()>,
    pub recorder: Recorder,
}

impl Director {
    pub(crate) async fn start(world: &World, script: impl Fn(&Played) -> Act + Send + 'static) -> Self {
        let recorder = Recorder::start(world).await;
        let api: Api<Pod> = world.api();
        let play = tokio::spawn(async move {
            let mut seen: HashSet<String> = HashSet::new();
            let mut counts = HashMap::<(String, StepName, u32), usize>::new();
            let mut events =
                std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // A watch that breaks off is started again.
                let Ok(Event::InitApply(pod) | Event::Apply(pod)) = event else { continue };
                if !runs(&pod) || !seen.insert(pod.uid().unwrap_or_default()) {
                    continue;
                }
                let (step, index) = (step(&pod), index(&pod));
                let nth = counts.entry((label(&pod, "stic.dev/run-uid"), step, index)).or_default();
                *nth += 1;
                let played = Played { run: label(&pod, "stic.dev/run"), step, index, nth: *nth };
                match script(&played) {
                    Act::Run | Act::Pend => {}
                    Act::Succeed => end(&api, &pod, 0, &made(&pod)).await,
                    Act::Exit(code, text) => end(&api, &pod, code, &said(step, text)).await,
                }
            }
        });
        Self { play, recorder }
    }

    /// Whether every status that was ever written was right.
    pub(crate) async fn check(self) {
        self.recorder.check().await;
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        self.play.abort();
    }
}
