//! Another version of the operator takes over while runs are under way.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use stic_contract::StepName;

use crate::kubelet::holding;
use crate::operator::{Operator, Setup};
use crate::runs::phase;
use crate::test_env::{PATIENCE, TRAINER_IMAGE, TestEnv};

const NEXT_IMAGE: &str = "registry/trainer@sha256:11";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make controller-test"]
async fn a_run_under_way_keeps_what_it_started_with_and_a_new_one_does_not() {
    let env = TestEnv::new(holding([(StepName::Generate, 1)])).await;
    let mut old = Operator::start(&env.setup);
    env.one("one", "").await;
    env.pod("one", StepName::Generate, 0).await;
    old.terminate();
    assert!(old.wait_for_exit(PATIENCE).await.success());
    let seed = other_defaults(&env).await;

    let _new = Operator::start(&Setup { trainer_image: NEXT_IMAGE.into(), ..env.setup.clone() });
    env.two("two", "one").await;
    env.finish("one", StepName::Generate, 0, 0, "").await;
    let one = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    env.until_two("two", "done", |status| phase(status) == "Succeeded").await;
    let image = |run: &str, jobs: &[Job]| -> Vec<String> {
        let of_run = jobs.iter().filter(|job| job.labels()["stic.dev/run"] == run);
        of_run
            .filter_map(|job| job.spec.as_ref()?.template.spec.as_ref()?.containers[0].image.clone())
            .collect()
    };
    let jobs = env.jobs().await;
    assert_eq!(image("one", &jobs), [TRAINER_IMAGE; 3]);
    assert_eq!(image("two", &jobs), [NEXT_IMAGE; 3]);
    assert_eq!(one.resolved.and_then(|resolved| resolved.trainer_image).as_deref(), Some(TRAINER_IMAGE));
    assert_eq!(run_config(&map(&env, StepName::Train).await)["seed"], seed, "its defaults are the old ones");

    env.edit("one", json!({"spec": {"rerun": 1}})).await;
    let again =
        env.until_one("one", "done again", |status| status.rerun == 1 && phase(status) == "Succeeded").await;
    let pinned = again.resolved.and_then(|resolved| resolved.trainer_image);
    assert_eq!(pinned.as_deref(), Some(NEXT_IMAGE), "a rerun starts from scratch");
}

/// Changes the run config of the first step, as if another version of the operator had resolved the run differently.
async fn other_defaults(env: &TestEnv) -> Value {
    let maps = env.api::<ConfigMap>();
    let mut map = map(env, StepName::Prepare).await;
    let mut config = run_config(&map);
    let seed = json!(4242);
    assert_ne!(config["seed"], seed);
    config["seed"] = seed.clone();
    map.data.as_mut().expect("it has data").insert("run-config.json".into(), config.to_string());
    maps.delete(&map.name_any(), &DeleteParams::default()).await.expect("it is deleted");
    map.metadata.resource_version = None;
    map.metadata.uid = None;
    maps.create(&PostParams::default(), &map).await.expect("it is created again");
    seed
}

async fn map(env: &TestEnv, step: StepName) -> ConfigMap {
    let of_step = ListParams::default().labels(&format!("stic.dev/run=one,stic.dev/step={step}"));
    env.api::<ConfigMap>().list(&of_step).await.expect("ConfigMaps").items.remove(0)
}

fn run_config(map: &ConfigMap) -> Value {
    let text = &map.data.as_ref().expect("it has data")["run-config.json"];
    serde_json::from_str(text).expect("JSON")
}
