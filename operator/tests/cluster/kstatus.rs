//! How Flux, the fallback of Argo CD and `helm --wait` judge a run, in every phase.

pub(crate) mod rules;

use serde_json::{Value, json};
use stic_contract::StepName;
use stic_crds::ConditionType;

use crate::invariants::condition;
use crate::kubelet::PodAction;
use crate::runs::phase;
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;
use rules::Kstatus::{Current, Failed, InProgress};
use rules::{Kstatus, compute};

/// The expected result for each phase, in the order in which these runs enter them. Versions whose edits are not reconciled
/// yet are left out.
const TABLE: [(&str, Kstatus); 10] = [
    ("Preparing", Current),
    ("Generating", Current),
    ("Describing", Current),
    ("Training", Current),
    ("Suspended", Current),
    ("StageOneNotSucceeded", Current),
    ("StageOneFailed", InProgress),
    ("ClaimMissing", InProgress),
    ("Succeeded", Current),
    ("DataInvalid", Failed),
];

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn every_phase_maps_to_the_expected_kstatus_result() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script =
        ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step, scripted.nth) {
            ("fails", StepName::Train, 1) => PodAction::Exit(65, "list.txt:3: no such image; fix the line"),
            ("held", StepName::Generate, _) => PodAction::Run,
            _ => PodAction::Succeed,
        })
        .await;
    // They are not reconciled yet.
    env.one("fails", "").await;
    env.one("held", "").await;
    env.two("after", "fails").await;
    let lacks = crate::common::STAGE_ONE.replace("claimName: coco,", "claimName: absent,");
    env.one_of("lacks", &lacks).await;
    env.start();
    env.until_one("held", "generates", |status| phase(status) == "Generating").await;
    env.suspend("held").await;
    env.until_one("lacks", "waits", |status| phase(status) == "ClaimMissing").await;
    env.until_two("after", "waits", |status| {
        crate::runs::text(status, ConditionType::Succeeded).contains("failed")
    })
    .await;
    env.resume("held").await;
    env.edit("fails", json!({"spec": {"rerun": 1}})).await;
    env.claim("absent").await;
    env.finish("held", StepName::Generate, 0, 0, "").await;
    for run in ["fails", "held", "lacks"] {
        env.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
    }
    env.until_two("after", "is done", |status| phase(status) == "Succeeded").await;
    env.edit("held", json!({"spec": {"backoff": {"limit": 9}}})).await;
    env.until_one("held", "reconciled", |status| status.observed_generation == 4).await;

    let mut observed: Vec<(String, Kstatus)> = Vec::new();
    for run in ["fails", "held", "lacks", "after"] {
        let versions = pods_script.recorder.of(run).await;
        assert_eq!(compute(&versions[0]), InProgress, "{run}: it is not reconciled yet");
        for run in &versions {
            let got = compute(run);
            let edited = run["metadata"]["generation"] != run["status"]["observedGeneration"];
            let reason = condition(run, "Succeeded")["reason"].as_str().unwrap_or_default().to_owned();
            let sets_up = condition(run, "Reconciling")["status"] == "True";
            let wanted = TABLE.iter().find(|(phase, _)| *phase == reason).map(|(_, wanted)| *wanted);
            match wanted {
                _ if edited => assert_eq!(got, InProgress, "an edit that is not reconciled yet: {run:#?}"),
                // Only until the first child exists: a running step is Current, or Flux would wait for days.
                Some(Current) if sets_up => {
                    assert!(first_child_is_missing(run), "{run:#?}");
                    assert_eq!(got, InProgress, "{run:#?}");
                }
                Some(wanted) => assert_eq!(got, wanted, "{run:#?}"),
                // No node runs a pod before the test binds it, which may take a moment.
                None if ["Unschedulable", "ClaimUnbound"].contains(&reason.as_str()) => {
                    assert_eq!(got, InProgress)
                }
                None => panic!("{reason} is not in the table: {run:#?}"),
            }
            if !edited && !sets_up {
                observed.push((reason, got));
            }
        }
    }
    for (phase, wanted) in TABLE.iter().filter(|(_, wanted)| *wanted != InProgress) {
        assert!(observed.contains(&((*phase).to_owned(), *wanted)), "{phase} did not occur: {observed:?}");
    }
    let last = pods_script.recorder.of("held").await.pop().expect("versions");
    assert_eq!(
        (compute(&last), &last["status"]["observedGeneration"]),
        (Current, &json!(4)),
        "finished and edited"
    );
    pods_script.check().await;
}

fn first_child_is_missing(run: &Value) -> bool {
    let steps = run["status"]["steps"].as_array();
    steps.into_iter().flatten().all(|step| step["jobUID"].is_null())
}
