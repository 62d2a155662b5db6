//! Another version of the operator takes over with runs in flight.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use stic_contract::StepName;

use crate::kubelet::Act;
use crate::operator::{Operator, Setup};
use crate::runs::phase;
use crate::world::{PATIENCE, TRAINER_IMAGE, World};

const NEXT_IMAGE: &str = "registry/trainer@sha256:11";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_run_under_way_keeps_what_it_began_with_and_a_new_one_gets_the_new() {
    let world = World::new(|step, count| match (step, count) {
        (StepName::Generate, 1) => Act::Run,
        _ => Act::Succeed,
    })
    .await;
    let mut old = Operator::start(&world.setup);
    world.one("one", "").await;
    world.pod("one", StepName::Generate, 0).await;
    old.terminate();
    assert!(old.end(PATIENCE).await.success());
    let seed = other_defaults(&world).await;

    let _new = Operator::start(&Setup { trainer_image: NEXT_IMAGE.into(), ..world.setup.clone() });
    world.two("two", "one").await;
    world.finish("one", StepName::Generate, 0, 0, "").await;
    let one = world.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    world.until_two("two", "done", |status| phase(status) == "Succeeded").await;
    let image = |run: &str, jobs: &[Job]| -> Vec<String> {
        let of_run = jobs.iter().filter(|job| job.labels()["stic.dev/run"] == run);
        of_run
            .filter_map(|job| job.spec.as_ref()?.template.spec.as_ref()?.containers[0].image.clone())
            .collect()
    };
    let jobs = world.jobs().await;
    assert_eq!(image("one", &jobs), [TRAINER_IMAGE; 3]);
    assert_eq!(image("two", &jobs), [NEXT_IMAGE; 3]);
    assert_eq!(one.resolved.and_then(|resolved| resolved.trainer_image).as_deref(), Some(TRAINER_IMAGE));
    assert_eq!(
        run_config(&map(&world, StepName::Train).await)["seed"],
        seed,
        "its defaults are the old ones"
    );

    world.edit("one", json!({"spec": {"rerun": 1}})).await;
    let again = world
        .until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded")
        .await;
    let pinned = again.resolved.and_then(|resolved| resolved.trainer_image);
    assert_eq!(pinned.as_deref(), Some(NEXT_IMAGE), "a rerun begins anew");
}

/// As if the operator that began the run had resolved it otherwise than the one that ends it.
async fn other_defaults(world: &World) -> Value {
    let maps = world.api::<ConfigMap>();
    let mut map = map(world, StepName::Prepare).await;
    let mut config = run_config(&map);
    let seed = json!(4242);
    assert_ne!(config["seed"], seed);
    config["seed"] = seed.clone();
    map.data.as_mut().expect("it has data").insert("run-config.json".into(), config.to_string());
    maps.delete(&map.name_any(), &DeleteParams::default()).await.expect("it is deleted");
    map.metadata.resource_version = None;
    map.metadata.uid = None;
    maps.create(&PostParams::default(), &map).await.expect("it is made anew");
    seed
}

async fn map(world: &World, step: StepName) -> ConfigMap {
    let of_step = ListParams::default().labels(&format!("stic.dev/run=one,stic.dev/step={step}"));
    world.api::<ConfigMap>().list(&of_step).await.expect("ConfigMaps").items.remove(0)
}

fn run_config(map: &ConfigMap) -> Value {
    let text = &map.data.as_ref().expect("it has data")["run-config.json"];
    serde_json::from_str(text).expect("JSON")
}
