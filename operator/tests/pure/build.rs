//! Whole objects, as they go to the API server.

use crate::common::{admitted, done, metadata, stage_one, stage_two};
use insta::assert_yaml_snapshot;
use serde_json::json;
use stic_contract::{RunConfig, StepName};
use stic_crds::StageOneRun;
use stic_operator::Validated;
use stic_operator::build::config_map::config_map;
use stic_operator::build::job::{JobSettings, job};
use stic_operator::build::run_config::{Made, run_config};
use stic_operator::build::volume_claim::volume_claim;
use stic_operator::build::{Attempt, names};
use stic_operator::controllers::{stage_one as one, stage_two as two};
use stic_operator::plan::StepOutcome;
use stic_operator::validated::Hardware;

fn settings() -> JobSettings {
    JobSettings {
        trainer_image: "registry/stic-trainer@sha256:00".into(),
        one_node: false,
        remaining_seconds: None,
    }
}

fn validated(run: &StageOneRun) -> Validated {
    one::validate(run, Hardware::OfPods).expect("it is valid")
}

const fn attempt(step: StepName) -> Attempt {
    Attempt { step, number: 1 }
}

fn config(run: &Validated, step: StepName, before: &[StepName]) -> RunConfig {
    let mut made = Made::default();
    for seen in done(before).steps.values() {
        if let StepOutcome::Succeeded(result) = &seen.outcome {
            made.add(result);
        }
    }
    run_config(run, step, &made).expect("all is there")
}

#[test]
fn the_job_of_a_plain_step() {
    assert_yaml_snapshot!(job(&validated(&stage_one("")), attempt(StepName::Prepare), &settings()));
}

#[test]
fn the_job_of_a_sharded_step_with_a_queue_and_a_gpu() {
    let mut meta = metadata();
    meta["labels"] =
        json!({"kueue.x-k8s.io/queue-name": "research", "kueue.x-k8s.io/priority-class": "high"});
    meta["annotations"] = json!({"kueue.x-k8s.io/podset-required-topology": "rack", "note": "x"});
    let spec = format!(
        "{}
  preferences: {{shards: 4}}
  backoff: {{limit: 5}}
  pod:
    resources: {{limits: {{nvidia.com/gpu: 1}}}}
    nodeSelector: {{pool: gpu}}
    tolerations: [{{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}}]
    priorityClassName: batch
    serviceAccountName: stic
    runtimeClassName: nvidia
    imagePullSecrets: [{{name: registry}}]
    securityContext: {{runAsUser: 1000, fsGroup: 2000, supplementalGroups: [3000]}}
    env: [{{name: NCCL_DEBUG, value: INFO}}]
    labels: {{team: vision, stic.dev/run: forged}}
    annotations: {{note: hello}}
    generation: {{image: \"registry/special:1\", nodeSelector: {{pool: big}}}}
",
        crate::common::STAGE_ONE
    );
    let run: StageOneRun = admitted("StageOneRun", &spec, &meta);
    let settings = JobSettings { one_node: true, remaining_seconds: Some(3600), ..settings() };
    assert_yaml_snapshot!(job(&validated(&run), attempt(StepName::Generate), &settings));
}

#[test]
fn the_job_of_several_gpus_with_a_model_from_an_image_and_a_claim_of_its_own() {
    let spec = "
  model: {image: {reference: \"registry/llava@sha256:11\", path: model}}
  images: {volume: {claimName: data.set_of.images}}
  output: {volumeClaimTemplate: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 50Gi}}}}
  retention: {whenDeleted: Delete}
  pod: {training: {resources: {limits: {nvidia.com/gpu: 2}}}}
"
    .replace("data.set_of.images", "data.set.images");
    let run = validated(&admitted("StageOneRun", &spec, &metadata()));
    assert_yaml_snapshot!("several-gpus-job", job(&run, attempt(StepName::Train), &settings()));
    assert_yaml_snapshot!("several-gpus-claim", volume_claim(&run));
}

#[test]
fn a_claim_outlives_its_run_unless_asked() {
    let spec = crate::common::STAGE_ONE.replace(
        "{volume: {claimName: stic, path: coco-6k}}",
        "{volumeClaimTemplate: {resources: {requests: {storage: 1Gi}}}}",
    );
    let run = validated(&admitted("StageOneRun", &spec, &metadata()));
    let claim = volume_claim(&run).expect("it asks for one");
    assert_eq!(claim.metadata.owner_references, None);
    assert_eq!(volume_claim(&validated(&stage_one(""))), None);
}

#[test]
fn the_config_map_of_a_step() {
    let run = validated(&stage_one(""));
    let config = config(&run, StepName::Prepare, &[]);
    let mut map = config_map(&config, attempt(StepName::Prepare)).expect("it is JSON");
    let text = map.data.as_mut().and_then(|data| data.remove("run-config.json")).expect("it is there");
    assert_eq!(RunConfig::from_json(&text).expect("the trainer reads it"), config);
    assert_yaml_snapshot!(map);
}

#[test]
fn run_configs_of_stage_one_by_the_paper() {
    use StepName::{Generate, Prepare, Train};
    let run = validated(&stage_one(""));
    assert_yaml_snapshot!("paper-prepare", config(&run, Prepare, &[]));
    assert_yaml_snapshot!("paper-generate", config(&run, Generate, &[Prepare]));
    assert_yaml_snapshot!("paper-train", config(&run, Train, &[Prepare, Generate]));
}

#[test]
fn run_configs_of_stage_one_as_released() {
    use StepName::{Generate, Prepare, Train};
    let run = validated(&stage_one("  profile: OfficialCompat\n"));
    assert_yaml_snapshot!("released-generate", config(&run, Generate, &[Prepare]));
    assert_yaml_snapshot!("released-train", config(&run, Train, &[Prepare, Generate]));
}

#[test]
fn run_configs_of_stage_two_from_an_adapter() {
    use StepName::{Describe, Prepare, Train};
    let mut object = stage_two("");
    object.spec.init_from = serde_json::from_value(json!({"adapter": {
        "volume": {"claimName": "stic", "path": "adapter-00"},
        "model": {"volume": {"claimName": "models", "path": "llava"}},
    }}))
    .expect("it is one");
    let run = two::validate(&object, two::Upstream::Missing, Hardware::OfPods).expect("it is valid");
    assert_yaml_snapshot!("stage-two-prepare", config(&run, Prepare, &[]));
    let mut run = run;
    if let Some(adapter) = &mut run.adapter {
        adapter.digest = Some(stic_contract::Digest::of(b"adapter"));
    }
    assert_yaml_snapshot!("stage-two-describe", config(&run, Describe, &[Prepare]));
    assert_yaml_snapshot!("stage-two-train", config(&run, Train, &[Prepare, Describe]));
}

#[test]
fn names_fit_and_differ() {
    let mut run = validated(&stage_one("")).run;
    run.name = "a".repeat(40);
    let name = names::attempt(&run, attempt(StepName::Generate));
    assert!(name.len() + "-255".len() <= 63, "{name}");
    assert_ne!(name, names::attempt(&run, Attempt { step: StepName::Generate, number: 2 }));
    run.rerun = 1;
    assert_ne!(name, names::attempt(&run, attempt(StepName::Generate)));
    assert!(names::pod_volume(&"a".repeat(253)).len() <= 63);
    assert!(!names::pod_volume("a.b").contains('.'));
}
