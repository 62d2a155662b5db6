//! Many runs in one world: their pods end as a script says of each, or as a test does by hand.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::Value;
use stic_contract::{StepName, StepResult};
use stic_crds::status::RunStatus;
use stic_crds::{StageOneRun, StageTwoRun};
use tokio::task::JoinHandle;

use crate::kubelet::{Act, end, step};
use crate::record::Recorder;
use crate::world::{World, apply, with_claim};

/// Longer than any wait of Kubernetes' own that a test meets.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

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
            loop {
                // A cluster that ends under a test fails the test elsewhere.
                let pods = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
                for pod in pods.iter().filter(|pod| runs(pod)) {
                    if !seen.insert(pod.uid().unwrap_or_default()) {
                        continue;
                    }
                    let (step, index) = (step(pod), index(pod));
                    let nth = counts.entry((label(pod, "stic.dev/run-uid"), step, index)).or_default();
                    *nth += 1;
                    let played = Played { run: label(pod, "stic.dev/run"), step, index, nth: *nth };
                    match script(&played) {
                        Act::Run | Act::Pend => {}
                        Act::Succeed => end(&api, pod, 0, &made(pod)).await,
                        Act::Exit(code, text) => end(&api, pod, code, &said(step, text)).await,
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
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

/// What a trainer that is done leaves: on the claim of its run, where it has one of its own.
fn made(pod: &Pod) -> String {
    let mut result = crate::common::result(step(pod));
    let own = format!("{}-output", label(pod, "stic.dev/run"));
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    if volumes
        .any(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == own))
    {
        for artifact in &mut result.artifacts {
            artifact.location.volume.clone_from(&own);
        }
    }
    result.to_termination_message()
}

/// What a trainer that fails leaves.
pub(crate) fn said(step: StepName, text: &str) -> String {
    StepResult { message: Some(text.into()), ..StepResult::new(step) }.to_termination_message()
}

fn label(pod: &Pod, key: &str) -> String {
    pod.labels().get(key).cloned().unwrap_or_default()
}

fn index(pod: &Pod) -> u32 {
    label(pod, "batch.kubernetes.io/job-completion-index").parse().unwrap_or_default()
}

fn runs(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Waits until `look` finds something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "not {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl World {
    /// Applies a StageOneRun with further lines of its spec.
    pub(crate) async fn one(&self, name: &str, extra: &str) {
        let api: Api<StageOneRun> = self.api();
        apply(&api, "StageOneRun", name, &format!("{}{extra}", crate::common::STAGE_ONE)).await;
    }

    /// Applies a StageOneRun whose claim is made for it.
    pub(crate) async fn one_with_claim(&self, name: &str, extra: &str) {
        let spec = with_claim(crate::common::STAGE_ONE);
        let api: Api<StageOneRun> = self.api();
        apply(&api, "StageOneRun", name, &format!("{spec}{extra}")).await;
    }

    /// Applies a StageTwoRun that starts from `from`.
    pub(crate) async fn two(&self, name: &str, from: &str) {
        let api: Api<StageTwoRun> = self.api();
        let spec = crate::common::STAGE_TWO.replace("{name: coco-6k}", &format!("{{name: {from}}}"));
        apply(&api, "StageTwoRun", name, &spec).await;
    }

    pub(crate) async fn until_one(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus {
        let what = format!("{name} {what}");
        self.until_of::<StageOneRun>(name, |run| run.status.clone(), &what, wanted).await
    }

    pub(crate) async fn until_two_of(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> RunStatus {
        let what = format!("{name} {what}");
        self.until_of::<StageTwoRun>(name, |run| run.status.clone(), &what, wanted).await
    }

    pub(crate) async fn edit(&self, name: &str, patch: Value) {
        let api: Api<StageOneRun> = self.api();
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it may change");
    }

    pub(crate) async fn delete_one(&self, name: &str) {
        let api: Api<StageOneRun> = self.api();
        api.delete(name, &DeleteParams::default()).await.expect("it is deleted");
    }

    pub(crate) async fn jobs_of(&self, name: &str) -> Vec<Job> {
        let of_run = ListParams::default().labels(&format!("stic.dev/run={name}"));
        self.api::<Job>().list(&of_run).await.expect("Jobs").items
    }

    pub(crate) async fn pods_of(&self, name: &str) -> Vec<Pod> {
        let of_run = ListParams::default().labels(&format!("stic.dev/run={name}"));
        self.api::<Pod>().list(&of_run).await.expect("pods").items
    }

    /// The pod that runs an index of a step, once it does.
    pub(crate) async fn pod(&self, name: &str, wanted: StepName, index_of: u32) -> Pod {
        until(&format!("running {wanted} {index_of} of {name}"), async || {
            let pods = self.pods_of(name).await;
            pods.into_iter().find(|pod| runs(pod) && step(pod) == wanted && index(pod) == index_of)
        })
        .await
    }

    /// Ends the pod that runs an index of a step.
    pub(crate) async fn finish(&self, name: &str, wanted: StepName, index: u32, code: i32, text: &str) {
        let pod = self.pod(name, wanted, index).await;
        let text = if code == 0 { made(&pod) } else { said(wanted, text) };
        end(&self.api(), &pod, code, &text).await;
    }

    /// The kubelet of its node says that a pod has ended and is gone.
    pub(crate) async fn let_go(&self, pod: &Pod) {
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.api::<Pod>().delete(&pod.name_any(), &at_once).await.expect("it is there");
    }
}

/// The message of a condition.
pub(crate) fn text<'a>(status: &'a RunStatus, condition: &str) -> &'a str {
    status.condition(condition).map_or("", |condition| condition.message.as_str())
}
