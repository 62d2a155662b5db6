//! Runs that are deleted, and created again under their name.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;
use stic_crds::status::StepState;
use stic_crds::{StageOneRun, StageTwoRun};

use crate::kubelet::{PodAction, step};
use crate::node::Node;
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::{TestEnv, until};

const PHASES: [&str; 5] = ["Preparing", "Generating", "Training", "Suspended", "Succeeded"];
const POLICIES: [&str; 2] = ["Retain", "Delete"];

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_that_is_deleted_in_any_phase_deletes_what_its_retention_says() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script =
        ScriptedPods::start(&env, |scripted| match (scripted.run.split('-').next(), scripted.step) {
            (Some("preparing"), StepName::Prepare)
            | (Some("generating" | "suspended"), StepName::Generate)
            | (Some("training"), StepName::Train) => PodAction::Run,
            _ => PodAction::Succeed,
        })
        .await;
    env.start();
    let name = |phase: &str, policy: &str| format!("{phase}-{policy}").to_lowercase();
    let all = || PHASES.iter().flat_map(|phase| POLICIES.iter().map(move |policy| (*phase, *policy)));
    for (phase, policy) in all() {
        env.one_with_claim(&name(phase, policy), &format!("  retention: {{whenDeleted: {policy}}}\n")).await;
    }
    for policy in POLICIES {
        let run = name("Suspended", policy);
        env.until_one(&run, "generates", |status| phase(status) == "Generating").await;
        env.edit(&run, json!({"spec": {"suspend": true}})).await;
    }
    let runs = env.api::<StageOneRun>();
    let mut versions = Vec::new();
    for (wanted, policy) in all() {
        let run = name(wanted, policy);
        env.until_one(&run, wanted, |status| phase(status) == wanted).await;
        // As kubectl does with --cascade=foreground and without.
        let how = match policy {
            "Retain" => PropagationPolicy::Foreground,
            _ => PropagationPolicy::Background,
        };
        let how = DeleteParams { propagation_policy: Some(how), ..DeleteParams::default() };
        runs.delete(&run, &how).await.expect("it is deleted");
        versions.push(run);
    }
    for run in &versions {
        let of_run = ListParams::default().labels(&format!("stic.dev/run={run}"));
        until(&format!("all of {run} gone"), async || {
            let maps = env.api::<ConfigMap>().list(&of_run).await.expect("ConfigMaps").items;
            let gone = maps.is_empty()
                && env.jobs_of(run).await.is_empty()
                && env.pods_of(run).await.is_empty()
                && runs.get_opt(run).await.expect("an answer").is_none();
            gone.then_some(())
        })
        .await;
    }
    let claims = env.api::<PersistentVolumeClaim>();
    for (wanted, policy) in all() {
        let claim = format!("{}-output", name(wanted, policy));
        if policy == "Delete" {
            until(&format!("{claim} gone"), async || {
                claims.get_opt(&claim).await.expect("an answer").is_none().then_some(())
            })
            .await;
        } else {
            let claim = claims.get(&claim).await.expect("it stays");
            assert!(claim.metadata.deletion_timestamp.is_none(), "{claim:?}");
        }
    }
    // A run that was created after the deletions and has succeeded proves that nothing was created again.
    env.one("later", "").await;
    env.until_one("later", "is done", |status| phase(status) == "Succeeded").await;
    for run in &versions {
        assert!(env.jobs_of(run).await.is_empty(), "{run} was started after it was deleted");
    }
    pods_script.check().await;
}

/// Whether a claim is deleted may be decided until the run is deleted, even while its last step is running.
#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_claim_is_deleted_or_retained_as_the_last_spec_says() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Train => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one_with_claim("stays", "  retention: {whenDeleted: Delete}\n").await;
    env.one_with_claim("goes", "  retention: {whenDeleted: Retain}\n").await;
    let claims = env.api::<PersistentVolumeClaim>();
    for (run, policy) in [("stays", "Retain"), ("goes", "Delete")] {
        env.pod(run, StepName::Train, 0).await;
        env.edit(run, json!({"spec": {"retention": {"whenDeleted": policy}}})).await;
        env.until_one(run, "reconciled", |status| status.observed_generation == 2).await;
        let claim = claims.get(&format!("{run}-output")).await.expect("it was created");
        assert_eq!(claim.owner_references().is_empty(), run == "stays", "{claim:?}");
        env.finish(run, StepName::Train, 0, 0, "").await;
        env.until_one(run, "done", |status| phase(status) == "Succeeded").await;
        env.delete_one(run).await;
    }
    // The pods that use it are deleted with the run.
    until("gone", async || claims.get_opt("goes-output").await.expect("an answer").is_none().then_some(()))
        .await;
    let claim = claims.get("stays-output").await.expect("it stays");
    assert!(claim.metadata.deletion_timestamp.is_none(), "{claim:?}");
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_claim_that_stage_two_reads_from_is_kept_until_both_are_deleted() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match scripted.step {
        StepName::Describe => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    let claims = env.api::<PersistentVolumeClaim>();
    let ones = env.api::<StageOneRun>();
    let twos = env.api::<StageTwoRun>();
    env.start();
    // `spared` is reported to retain its claim when another run already reads from it.
    for one in ["one", "spared"] {
        env.one_with_claim(one, "  retention: {whenDeleted: Delete}\n").await;
        env.two(&format!("{one}-two"), one).await;
    }
    for one in ["one", "spared"] {
        env.until_two(&format!("{one}-two"), "describes", |status| phase(status) == "Describing").await;
        let claim = claims.get(&format!("{one}-output")).await.expect("it was created");
        let mut kinds: Vec<_> = claim.owner_references().iter().map(|owner| owner.kind.as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["StageOneRun", "StageTwoRun"]);
    }
    env.edit("spared", json!({"spec": {"retention": {"whenDeleted": "Retain"}}})).await;
    env.until_one("spared", "reconciled", |status| status.observed_generation == 2).await;
    ones.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    twos.delete("spared-two", &DeleteParams::default()).await.expect("it is deleted");
    // The garbage collector has finished once it has removed the reference to the deleted run.
    until("the claim is the second one's alone", async || {
        let owners = claims.get("one-output").await.expect("it stays").owner_references().len();
        (owners == 1).then_some(())
    })
    .await;
    env.finish("one-two", StepName::Describe, 0, 0, "").await;
    env.until_two("one-two", "is done", |status| phase(status) == "Succeeded").await;
    twos.delete("one-two", &DeleteParams::default()).await.expect("it is deleted");
    until("gone with the last that read from it", async || {
        claims.get_opt("one-output").await.expect("an answer").is_none().then_some(())
    })
    .await;
    until("the second run's children gone", async || {
        env.jobs_of("spared-two").await.is_empty().then_some(())
    })
    .await;
    let spared = claims.get("spared-output").await.expect("it is retained");
    assert!(spared.metadata.deletion_timestamp.is_none(), "{spared:?}");
    assert!(
        spared.owner_references().is_empty(),
        "no owner is left to delete it with: {:?}",
        spared.owner_references()
    );
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_that_is_created_again_never_uses_what_is_left_of_the_first() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |scripted| match (scripted.step, scripted.run.as_str()) {
        (StepName::Generate, "one" | "claimed") => PodAction::Run,
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "").await;
    env.one_with_claim("claimed", "  retention: {whenDeleted: Delete}\n").await;
    let node = Node::new(&env).await;
    let mut held = Vec::new();
    for run in ["one", "claimed"] {
        let pod = env.pod(run, StepName::Generate, 0).await;
        // The kubelet gives the trainer time to save its state.
        node.bind_pod(&pod).await;
        env.delete_one(run).await;
        until("its pod is reported to end", async || {
            let pods = env.pods_of(run).await;
            pods.iter()
                .any(|pod| step(pod) == StepName::Generate && pod.metadata.deletion_timestamp.is_some())
                .then_some(())
        })
        .await;
        held.push(pod);
    }
    env.one("one", "").await;
    // The claim with that name exists until the pod that writes to it has ended.
    env.one_with_claim("claimed", "").await;
    let status = env.until_one("claimed", "waits", |status| phase(status) == "ClaimTerminating").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("claimed-output") && message.contains("starts on its own"), "{message}");
    let old = held[0].owner_references()[0].uid.clone();
    let new = env.pod("one", StepName::Generate, 0).await;
    let uid = |pod: &Pod| pod.labels().get("stic.dev/run-uid").cloned();
    assert_ne!(uid(&new), uid(&held[0]), "their folders are named by the UID and must differ");
    let status = env.status_of("one").await;
    assert_ne!(status.steps[1].job_uid.as_ref(), Some(&old), "the old Job is not adopted");
    env.confirm_deletion(&held[0]).await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert!(env.jobs_of("claimed").await.is_empty());
    env.confirm_deletion(&held[1]).await;
    env.finish("claimed", StepName::Generate, 0, 0, "").await;
    let status = env.until_one("claimed", "is done", |status| phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.state == StepState::Succeeded && step.attempts == 1));
    node.remove().await;
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn an_object_of_somebody_else_is_never_taken_over() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script = ScriptedPods::start(&env, |_| PodAction::Succeed).await;
    env.start();
    env.one("one", "  suspend: true\n").await;
    env.until_one("one", "held", |status| phase(status) == "Suspended").await;
    let run = env.api::<StageOneRun>().get("one").await.expect("it exists");
    let identity = stic_contract::RunIdentity {
        kind: stic_contract::RunKind::StageOneRun,
        namespace: env.namespace.clone(),
        name: "one".into(),
        uid: run.uid().expect("a UID"),
        rerun: 0,
    };
    let launch = stic_operator::build::names::LaunchId { step: StepName::Prepare, number: 1 };
    let name = stic_operator::build::names::launch(&identity, launch);
    let theirs = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {
            "app.kubernetes.io/managed-by": "stic-operator", "stic.dev/run": "one", "stic.dev/run-kind": "StageOneRun",
            "stic.dev/run-uid": identity.uid}},
        "spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "a", "image": "a"}]}}}});
    let jobs = env.api::<Job>();
    let parameters = PatchParams::apply("somebody");
    jobs.patch(&name, &parameters, &Patch::Apply(&theirs)).await.expect("a Job");
    env.resume("one").await;
    let status = env.until_one("one", "reported", |status| phase(status) == "NameTaken").await;
    assert!(
        text(&status, ConditionType::Succeeded).contains("Delete or rename it"),
        "{}",
        text(&status, ConditionType::Succeeded)
    );
    let theirs = jobs.get(&name).await.expect("it stays");
    assert_eq!(theirs.spec.and_then(|spec| spec.suspend), Some(true), "and is not touched");
    jobs.delete(&name, &DeleteParams::background()).await.expect("it is deleted");
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    pods_script.check().await;
}
