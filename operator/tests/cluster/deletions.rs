//! Runs that are deleted, and made again under their name.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::status::StepState;
use stic_crds::{StageOneRun, StageTwoRun};

use crate::director::Director;
use crate::kubelet::{Act, step};
use crate::node::Node;
use crate::runs::{phase, text};
use crate::world::{World, until};

const PHASES: [&str; 5] = ["Preparing", "Generating", "Training", "Suspended", "Succeeded"];
const POLICIES: [&str; 2] = ["Retain", "Delete"];

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_run_deleted_in_any_phase_takes_along_what_it_was_told_to() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.split('-').next(), played.step) {
        (Some("preparing"), StepName::Prepare)
        | (Some("generating" | "suspended"), StepName::Generate)
        | (Some("training"), StepName::Train) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    let name = |phase: &str, policy: &str| format!("{phase}-{policy}").to_lowercase();
    let all = || PHASES.iter().flat_map(|phase| POLICIES.iter().map(move |policy| (*phase, *policy)));
    for (phase, policy) in all() {
        world
            .one_with_claim(&name(phase, policy), &format!("  retention: {{whenDeleted: {policy}}}\n"))
            .await;
    }
    for policy in POLICIES {
        let run = name("Suspended", policy);
        world.until_one(&run, "generates", |status| phase(status) == "Generating").await;
        world.edit(&run, json!({"spec": {"suspend": true}})).await;
    }
    let runs = world.api::<StageOneRun>();
    let mut versions = Vec::new();
    for (wanted, policy) in all() {
        let run = name(wanted, policy);
        world.until_one(&run, wanted, |status| phase(status) == wanted).await;
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
            let maps = world.api::<ConfigMap>().list(&of_run).await.expect("ConfigMaps").items;
            let gone = maps.is_empty()
                && world.jobs_of(run).await.is_empty()
                && world.pods_of(run).await.is_empty()
                && runs.get_opt(run).await.expect("an answer").is_none();
            gone.then_some(())
        })
        .await;
    }
    let claims = world.api::<PersistentVolumeClaim>();
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
    // What a later run has done whole, the operator has looked at after the deletions; then nothing came back.
    world.one("later", "").await;
    world.until_one("later", "is done", |status| phase(status) == "Succeeded").await;
    for run in &versions {
        assert!(world.jobs_of(run).await.is_empty(), "{run} was started after it was deleted");
    }
    director.check().await;
}

/// Whether a claim goes may be decided until the run is deleted, also while its last step is at work.
#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_claim_goes_or_stays_as_the_spec_says_last() {
    let mut world = World::new(|step, _| match step {
        StepName::Train => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one_with_claim("stays", "  retention: {whenDeleted: Delete}\n").await;
    world.one_with_claim("goes", "  retention: {whenDeleted: Retain}\n").await;
    let claims = world.api::<PersistentVolumeClaim>();
    for (run, policy) in [("stays", "Retain"), ("goes", "Delete")] {
        world.pod(run, StepName::Train, 0).await;
        world.edit(run, json!({"spec": {"retention": {"whenDeleted": policy}}})).await;
        world.until_one(run, "seen", |status| status.observed_generation == 2).await;
        let claim = claims.get(&format!("{run}-output")).await.expect("it was made");
        assert_eq!(claim.owner_references().is_empty(), run == "stays", "{claim:?}");
        world.finish(run, StepName::Train, 0, 0, "").await;
        world.until_one(run, "done", |status| phase(status) == "Succeeded").await;
        world.delete_one(run).await;
    }
    // The pods that name it go with the run.
    until("gone", async || claims.get_opt("goes-output").await.expect("an answer").is_none().then_some(()))
        .await;
    let claim = claims.get("stays-output").await.expect("it stays");
    assert!(claim.metadata.deletion_timestamp.is_none(), "{claim:?}");
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_claim_that_stage_two_reads_from_stays_until_both_are_gone() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match played.step {
        StepName::Describe => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let claims = world.api::<PersistentVolumeClaim>();
    let ones = world.api::<StageOneRun>();
    let twos = world.api::<StageTwoRun>();
    world.start();
    // `spared` is told to keep its claim when somebody reads from it already.
    for one in ["one", "spared"] {
        world.one_with_claim(one, "  retention: {whenDeleted: Delete}\n").await;
        world.two(&format!("{one}-two"), one).await;
    }
    for one in ["one", "spared"] {
        world.until_two(&format!("{one}-two"), "describes", |status| phase(status) == "Describing").await;
        let claim = claims.get(&format!("{one}-output")).await.expect("it was made");
        let mut kinds: Vec<_> = claim.owner_references().iter().map(|owner| owner.kind.as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["StageOneRun", "StageTwoRun"]);
    }
    world.edit("spared", json!({"spec": {"retention": {"whenDeleted": "Retain"}}})).await;
    world.until_one("spared", "is seen", |status| status.observed_generation == 2).await;
    ones.delete("one", &DeleteParams::default()).await.expect("it is deleted");
    twos.delete("spared-two", &DeleteParams::default()).await.expect("it is deleted");
    // The collector has come by when it took the reference of the run that went off the claim.
    until("the claim is the second one's alone", async || {
        let owners = claims.get("one-output").await.expect("it stays").owner_references().len();
        (owners == 1).then_some(())
    })
    .await;
    world.finish("one-two", StepName::Describe, 0, 0, "").await;
    world.until_two("one-two", "is done", |status| phase(status) == "Succeeded").await;
    twos.delete("one-two", &DeleteParams::default()).await.expect("it is deleted");
    until("gone with the last that read from it", async || {
        claims.get_opt("one-output").await.expect("an answer").is_none().then_some(())
    })
    .await;
    until("the second run's children gone", async || {
        world.jobs_of("spared-two").await.is_empty().then_some(())
    })
    .await;
    let spared = claims.get("spared-output").await.expect("it is retained");
    assert!(spared.metadata.deletion_timestamp.is_none(), "{spared:?}");
    assert!(spared.owner_references().is_empty(), "nothing takes it along: {:?}", spared.owner_references());
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_run_made_again_under_its_name_never_meets_what_is_left_of_the_first() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.step, played.run.as_str()) {
        (StepName::Generate, "one" | "claimed") => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    world.start();
    world.one("one", "").await;
    world.one_with_claim("claimed", "  retention: {whenDeleted: Delete}\n").await;
    let node = Node::new(&world).await;
    let mut held = Vec::new();
    for run in ["one", "claimed"] {
        let pod = world.pod(run, StepName::Generate, 0).await;
        // The kubelet gives the trainer time to save.
        node.take(&pod).await;
        world.delete_one(run).await;
        until("its pod is told to end", async || {
            let pods = world.pods_of(run).await;
            pods.iter()
                .any(|pod| step(pod) == StepName::Generate && pod.metadata.deletion_timestamp.is_some())
                .then_some(())
        })
        .await;
        held.push(pod);
    }
    world.one("one", "").await;
    // The claim of its name still ends with the pod that writes to it.
    world.one_with_claim("claimed", "").await;
    let status = world.until_one("claimed", "waits", |status| phase(status) == "ClaimTerminating").await;
    let said = text(&status, "Succeeded");
    assert!(said.contains("claimed-output") && said.contains("starts by itself"), "{said}");
    let old = held[0].owner_references()[0].uid.clone();
    let new = world.pod("one", StepName::Generate, 0).await;
    let uid = |pod: &Pod| pod.labels().get("stic.dev/run-uid").cloned();
    assert_ne!(uid(&new), uid(&held[0]), "a folder named by the UID is each one's own");
    let status = world.status_of("one").await;
    assert_ne!(status.steps[1].job_uid.as_ref(), Some(&old), "the old Job is not adopted");
    world.let_go(&held[0]).await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert!(world.jobs_of("claimed").await.is_empty());
    world.let_go(&held[1]).await;
    world.finish("claimed", StepName::Generate, 0, 0, "").await;
    let status = world.until_one("claimed", "is done", |status| phase(status) == "Succeeded").await;
    assert!(status.steps.iter().all(|step| step.state == StepState::Succeeded && step.attempts == 1));
    node.remove().await;
    director.check().await;
}

#[tokio::test]
#[ignore = "needs a cluster"]
async fn what_somebody_else_made_under_our_name_is_never_taken_over() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |_| Act::Succeed).await;
    world.start();
    world.one("one", "  suspend: true\n").await;
    world.until_one("one", "held", |status| phase(status) == "Suspended").await;
    let run = world.api::<StageOneRun>().get("one").await.expect("it exists");
    let identity = stic_contract::RunIdentity {
        kind: stic_contract::RunKind::StageOneRun,
        namespace: world.namespace.clone(),
        name: "one".into(),
        uid: run.uid().expect("a UID"),
        rerun: 0,
    };
    let attempt = stic_operator::build::Attempt { step: StepName::Prepare, number: 1 };
    let name = stic_operator::build::names::attempt(&identity, attempt);
    let theirs = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {
            "app.kubernetes.io/managed-by": "stic-operator", "stic.dev/run": "one", "stic.dev/run-kind": "StageOneRun",
            "stic.dev/run-uid": identity.uid}},
        "spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "a", "image": "a"}]}}}});
    let jobs = world.api::<Job>();
    let parameters = PatchParams::apply("somebody");
    jobs.patch(&name, &parameters, &Patch::Apply(&theirs)).await.expect("a Job");
    world.edit("one", json!({"spec": {"suspend": false}})).await;
    let status = world.until_one("one", "told", |status| phase(status) == "NameTaken").await;
    assert!(text(&status, "Succeeded").contains("delete or rename it"), "{}", text(&status, "Succeeded"));
    let theirs = jobs.get(&name).await.expect("it stays");
    assert_eq!(theirs.spec.and_then(|spec| spec.suspend), Some(true), "and is not touched");
    jobs.delete(&name, &DeleteParams::background()).await.expect("it is deleted");
    world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    director.check().await;
}
