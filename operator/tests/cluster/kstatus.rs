//! What Flux, Argo CD's fallback and `helm --wait` make of a run, in every phase of its life.

pub(crate) mod rules;

use serde_json::{Value, json};
use stic_contract::StepName;

use crate::director::Director;
use crate::kubelet::Act;
use crate::record::condition;
use crate::runs::phase;
use crate::world::World;
use rules::Kstatus::{Current, Failed, InProgress};
use rules::{Kstatus, compute};

/// What a person expects of a run whose Succeeded has a reason, in the order in which these lives go through them. Of
/// each version, edits that nobody has looked at yet left out.
const TABLE: [(&str, Kstatus); 9] = [
    ("Preparing", Current),
    ("Generating", Current),
    ("Describing", Current),
    ("Training", Current),
    ("Suspended", Current),
    ("StageOneNotSucceeded", Current),
    ("ClaimMissing", InProgress),
    ("Succeeded", Current),
    ("DataInvalid", Failed),
];

#[tokio::test]
#[ignore = "needs a cluster"]
async fn every_phase_is_what_kstatus_makes_of_it() {
    let mut world = World::new(|_, _| Act::Run).await;
    let director = Director::start(&world, |played| match (played.run.as_str(), played.step, played.nth) {
        ("fails", StepName::Train, 1) => Act::Exit(65, "list.txt:3: no such image; mend the line"),
        ("held", StepName::Generate, _) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    // Nobody looks at them yet.
    world.one("fails", "").await;
    world.one("held", "").await;
    world.two("after", "fails").await;
    let lacks = crate::common::STAGE_ONE.replace("claimName: coco,", "claimName: absent,");
    world.one_of("lacks", &lacks).await;
    world.start();
    world.until_one("held", "generates", |status| phase(status) == "Generating").await;
    world.hold("held").await;
    world.until_one("lacks", "waits", |status| phase(status) == "ClaimMissing").await;
    world
        .until_two("after", "waits", |status| crate::runs::text(status, "Succeeded").contains("failed"))
        .await;
    world.edit("held", json!({"spec": {"suspend": false}})).await;
    world.edit("fails", json!({"spec": {"rerun": 1}})).await;
    world.claim("absent").await;
    world.finish("held", StepName::Generate, 0, 0, "").await;
    for run in ["fails", "held", "lacks"] {
        world.until_one(run, "is done", |status| phase(status) == "Succeeded").await;
    }
    world.until_two("after", "is done", |status| phase(status) == "Succeeded").await;
    world.edit("held", json!({"spec": {"backoff": {"limit": 9}}})).await;
    world.until_one("held", "is seen", |status| status.observed_generation == 4).await;

    let mut met: Vec<(String, Kstatus)> = Vec::new();
    for run in ["fails", "held", "lacks", "after"] {
        let versions = director.recorder.of(run).await;
        assert_eq!(compute(&versions[0]), InProgress, "{run}: nobody has looked at it yet");
        for run in &versions {
            let got = compute(run);
            let edited = run["metadata"]["generation"] != run["status"]["observedGeneration"];
            let reason = condition(run, "Succeeded")["reason"].as_str().unwrap_or_default().to_owned();
            let sets_up = condition(run, "Reconciling")["status"] == "True";
            let wanted = TABLE.iter().find(|(phase, _)| *phase == reason).map(|(_, wanted)| *wanted);
            match wanted {
                _ if edited => assert_eq!(got, InProgress, "an edit that nobody has looked at: {run:#?}"),
                // Only until its first child exists: a step that runs is Current, or Flux would wait for days.
                Some(Current) if sets_up => {
                    assert!(first_child_is_missing(run), "{run:#?}");
                    assert_eq!(got, InProgress, "{run:#?}");
                }
                Some(wanted) => assert_eq!(got, wanted, "{run:#?}"),
                // No node takes a pod before the test runs it: a moment, or none.
                None if ["Unschedulable", "ClaimUnbound"].contains(&reason.as_str()) => {
                    assert_eq!(got, Current)
                }
                None => panic!("{reason} is not in the table: {run:#?}"),
            }
            if !edited && !sets_up {
                met.push((reason, got));
            }
        }
    }
    for (phase, wanted) in TABLE.iter().filter(|(_, wanted)| *wanted != InProgress) {
        assert!(met.contains(&((*phase).to_owned(), *wanted)), "{phase} was never seen, of {met:?}");
    }
    let last = director.recorder.of("held").await.pop().expect("versions");
    assert_eq!(
        (compute(&last), &last["status"]["observedGeneration"]),
        (Current, &json!(4)),
        "finished and edited"
    );
    director.check().await;
}

fn first_child_is_missing(run: &Value) -> bool {
    let steps = run["status"]["steps"].as_array();
    steps.into_iter().flatten().all(|step| step["jobUID"].is_null())
}
