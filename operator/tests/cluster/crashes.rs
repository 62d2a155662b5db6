//! The operator killed before and after every write of a run's life.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use stic_operator::cluster::failpoint::Write;

use crate::kubelet::Act;
use crate::world::{World, phase};

/// The writes of a run that nothing happens to: three steps, and how often each is written.
const WRITES: [(Write, u32); 4] =
    [(Write::CreateConfigMap, 3), (Write::CreateJob, 3), (Write::PatchStatus, 5), (Write::CreateEvent, 4)];

#[tokio::test]
#[ignore = "needs a cluster"]
async fn a_run_survives_a_crash_at_every_write() {
    for (write, times) in WRITES {
        for nth in 1..=times {
            for when in ["before", "after"] {
                survive(&format!("{when}:{write}:{nth}")).await;
            }
        }
    }
}

async fn survive(failpoint: &str) {
    let mut world = World::new(|_, _| Act::Succeed).await;
    world.start_with(Some(failpoint));
    world.stage_one("").await;
    let mut tries = 0;
    while !world.has_ended() {
        tries += 1;
        assert!(tries < 600, "{failpoint} was never reached");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.start();
    let status = world.until(&format!("done after {failpoint}"), |status| phase(status) == "Succeeded").await;
    assert_eq!(world.jobs().await.len(), 3, "{failpoint}: no step is lost or doubled");
    let maps = world.api::<ConfigMap>().list(&ListParams::default().labels("stic.dev/run=one")).await;
    assert_eq!(maps.expect("ConfigMaps").items.len(), 3, "{failpoint}");
    assert!(status.steps.iter().all(|step| step.attempts == 1), "{failpoint}: {:?}", status.steps);
}
