//! Whole objects, as they go to the API server.

use crate::common::{admitted, done, metadata, stage_one, stage_two, training_mut};
use insta::assert_yaml_snapshot;
use serde_json::json;
use stic_contract::{RunConfig, StepName};
use stic_crds::StageOneRun;
use stic_operator::Validated;
use stic_operator::build::config_map::config_map;
use stic_operator::build::job::{JobSettings, job};
use stic_operator::build::names::{self, LaunchId};
use stic_operator::build::pod_check::check_pods;
use stic_operator::build::run_config::{PreviousResults, run_config};
use stic_operator::build::volume_claim::volume_claim;
use stic_operator::controllers::{stage_one as one, stage_two as two};
use stic_operator::snapshot::StepOutcome;
use stic_operator::validated::Hardware;

fn settings() -> JobSettings {
    JobSettings {
        trainer_image: "registry/stic-trainer@sha256:00".into(),
        one_node: false,
        read_only_claims: std::collections::BTreeSet::new(),
        deadline_seconds: None,
    }
}

fn validated(run: &StageOneRun) -> Validated {
    one::validate(run, Hardware::OfPods).expect("it is valid")
}

const fn first(step: StepName) -> LaunchId {
    LaunchId { step, number: 1 }
}

fn config(run: &Validated, step: StepName, before: &[StepName]) -> RunConfig {
    let mut previous = PreviousResults::default();
    for complete in done(before).values() {
        if let StepOutcome::Succeeded(result) = &complete.outcome {
            previous.add(result);
        }
    }
    run_config(run, step, &previous).expect("nothing is missing")
}

#[test]
fn the_job_of_a_plain_step() {
    assert_yaml_snapshot!(job(&validated(&stage_one("")), first(StepName::Prepare), &settings()));
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
    let settings = JobSettings { one_node: true, deadline_seconds: Some(3600), ..settings() };
    assert_yaml_snapshot!(job(&validated(&run), first(StepName::Generate), &settings));
}

#[test]
fn kueue_may_start_fewer_pods_but_not_leave_out_shards() {
    let mut meta = metadata();
    meta["labels"] = json!({"kueue.x-k8s.io/queue-name": "research"});
    meta["annotations"] = json!({"kueue.x-k8s.io/job-min-parallelism": "1",
        "kueue.x-k8s.io/job-completions-equal-parallelism": "true", "kueue.x-k8s.io/podset-required-topology": "rack"});
    let annotations = |shards: u32, step: StepName| {
        let spec = format!("{}  preferences: {{shards: {shards}}}\n", crate::common::STAGE_ONE);
        let run: StageOneRun = admitted("StageOneRun", &spec, &meta);
        let job = job(&validated(&run), first(step), &settings());
        let annotations = job.metadata.annotations.unwrap_or_default();
        let of_kueue =
            annotations.into_keys().filter_map(|key| Some(key.strip_prefix("kueue.x-k8s.io/")?.to_owned()));
        of_kueue.collect::<Vec<_>>()
    };
    assert_eq!(annotations(2, StepName::Generate), ["job-min-parallelism", "podset-required-topology"]);
    assert_eq!(annotations(1, StepName::Generate), ["podset-required-topology"]);
    assert_eq!(annotations(2, StepName::Train), ["podset-required-topology"]);
}

#[test]
fn the_job_of_several_gpus_with_a_model_from_an_image_and_a_claim_of_its_own() {
    let spec = "
  model: {image: {reference: \"registry/llava@sha256:11\", path: model}}
  images: {volume: {claimName: data.set_of.images}}
  output: {volumeClaimTemplate: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 50Gi}}}}
  retention: {whenDeleted: Delete}
  pod: {generation: {resources: {limits: {nvidia.com/gpu: 2}}}}
"
    .replace("data.set_of.images", "data.set.images");
    let run = validated(&admitted("StageOneRun", &spec, &metadata()));
    assert_yaml_snapshot!("several-gpus-job", job(&run, first(StepName::Generate), &settings()));
    assert_yaml_snapshot!("several-gpus-claim", volume_claim(&run));
}

#[test]
fn a_claim_outlives_its_run_unless_its_deletion_is_requested() {
    let spec = crate::common::STAGE_ONE.replace(
        "{volume: {claimName: stic, path: coco-6k}}",
        "{volumeClaimTemplate: {resources: {requests: {storage: 1Gi}}}}",
    );
    let run = validated(&admitted("StageOneRun", &spec, &metadata()));
    let claim = volume_claim(&run).expect("a claim");
    assert_eq!(claim.metadata.owner_references, None);
    // Argo CD would take it for an object of its Application of that name, and prune it.
    assert!(!claim.metadata.labels.expect("labels").contains_key("app.kubernetes.io/instance"));
    assert_eq!(volume_claim(&validated(&stage_one(""))), None);
}

#[test]
fn settings_of_pods_are_taken_over() {
    let run = validated(&stage_one(
        "  pod:
    imagePullPolicy: Always
    schedulerName: volcano
    affinity:
      nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
        {matchExpressions: [{key: gpu, operator: Exists}]}]}}
      podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: rack}]}
    topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
    resourceClaims: [{name: gpu, resourceClaimTemplateName: one-gpu}]
    resources: {claims: [{name: gpu}]}
    envFrom: [{secretRef: {name: proxy}}]
    volumes: [{name: ca, configMap: {name: ca}}, {name: own-shm, emptyDir: {medium: Memory, sizeLimit: 8Gi}}]
    volumeMounts: [{name: ca, mountPath: /etc/ssl/certs, readOnly: true}, {name: own-shm, mountPath: /dev/shm}]
    securityContext: {}
  preferences: {shards: 2}
",
    ));
    check_pods(&run).expect("nothing is wrong with them");
    assert_eq!(run.precision, stic_contract::recipe::Precision::Bf16, "the claim stands for a GPU");
    let read_only_claims = ["coco".to_owned(), "stic".to_owned()].into();
    let settings = JobSettings { one_node: true, read_only_claims, ..settings() };
    assert_yaml_snapshot!(job(&run, first(StepName::Generate), &settings));
}

#[test]
fn labels_of_pods_reach_every_object() {
    let spec = crate::common::STAGE_ONE.replace(
        "{volume: {claimName: stic, path: coco-6k}}",
        "{volumeClaimTemplate: {resources: {requests: {storage: 1Gi}}}}",
    );
    let labels = "{team: vision, tier: batch, kueue.x-k8s.io/queue-name: q}";
    let pod = format!(
        "  pod: {{labels: {labels}, training: {{labels: {{team: vision, tier: gpu, stic.dev/step: x}}}}}}\n"
    );
    let run = validated(&admitted("StageOneRun", &format!("{spec}{pod}"), &metadata()));
    let of_map = config_map(&run, &config(&run, StepName::Prepare, &[]), first(StepName::Prepare));
    let all = [
        (volume_claim(&run).expect("a claim").metadata.labels, None),
        (of_map.expect("it is JSON").metadata.labels, Some("batch")),
        (job(&run, first(StepName::Generate), &settings()).metadata.labels, Some("batch")),
        (job(&run, first(StepName::Train), &settings()).metadata.labels, Some("gpu")),
    ];
    for (labels, tier) in all {
        let labels = labels.expect("labels");
        assert_eq!(labels.get("team").map(String::as_str), Some("vision"));
        assert_eq!(labels.get("tier").map(String::as_str), tier, "a claim has what all steps have in common");
        assert_ne!(labels.get("stic.dev/step").map(String::as_str), Some("x"));
        assert!(!labels.contains_key("kueue.x-k8s.io/queue-name"), "it would hand the Job to Kueue");
    }
}

#[test]
fn settings_that_cannot_work_name_their_field() {
    for (pod, field, words) in [
        (
            "{resourceClaims: [{name: nic, resourceClaimTemplateName: rdma-nic}]}",
            "spec.pod.resourceClaims",
            "no container uses claim nic",
        ),
        ("{resources: {claims: [{name: gpu}]}}", "spec.pod.resources.claims", "there is no claim gpu"),
        ("{volumes: [{name: tmp, emptyDir: {}}]}", "spec.pod.volumes", "named tmp"),
        ("{volumes: [{name: claim-coco, emptyDir: {}}]}", "spec.pod.volumes", "named claim-coco"),
        ("{volumeMounts: [{name: ca, mountPath: /ca}]}", "spec.pod.volumeMounts", "no volume ca"),
        (
            "{volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /volumes/coco}]}",
            "spec.pod.volumeMounts",
            "a mount at /volumes/coco would hide",
        ),
    ] {
        for section in ["", "training: "] {
            let pod = if section.is_empty() { pod.to_owned() } else { format!("{{{section}{pod}}}") };
            let run = validated(&stage_one(&format!("  pod: {pod}\n")));
            if pod.contains("resourceClaims") {
                assert_eq!(run.precision, stic_contract::recipe::Precision::F32, "no device, no bf16");
            }
            let message = check_pods(&run).expect_err(&pod);
            assert!(message.starts_with(field) && message.contains(words), "{message}");
        }
    }
}

#[test]
fn the_config_map_of_a_step() {
    let run = validated(&stage_one(""));
    let config = config(&run, StepName::Prepare, &[]);
    let mut map = config_map(&run, &config, first(StepName::Prepare)).expect("it is JSON");
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
fn settings_of_memory_reach_their_step_and_no_other() {
    use StepName::{Generate, Prepare, Train};
    let json = |spec: &str, step, done: &[StepName]| {
        serde_json::to_value(config(&validated(&stage_one(spec)), step, done)).expect("JSON")
    };
    let set = "  preferences: {batchSize: 4}\n  training: {activationCheckpointing: EveryLayer}\n";
    let with = |mut config: serde_json::Value, step: &str, key: &str, value: serde_json::Value| {
        config["task"][step][key] = value;
        config
    };
    assert_eq!(json(set, Prepare, &[]), json("", Prepare, &[]));
    let generate = json("", Generate, &[Prepare]);
    assert_eq!(json(set, Generate, &[Prepare]), with(generate, "generate", "batchSize", json!(4)));
    let train = json("", Train, &[Prepare, Generate]);
    let expected = with(train, "train", "activationCheckpointing", json!("EveryLayer"));
    assert_eq!(json(set, Train, &[Prepare, Generate]), expected);
    let on_gpu = json("  pod: {resources: {limits: {nvidia.com/gpu: 1}}}\n", Prepare, &[]);
    assert_eq!(on_gpu["task"]["prepare"]["usesGpu"], json!(true));
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
    let run =
        two::validate(&object, stic_operator::controllers::upstream::Upstream::Missing, Hardware::OfPods)
            .expect("it is valid");
    assert_yaml_snapshot!("stage-two-prepare", config(&run, Prepare, &[]));
    let mut run = run;
    if let Some(adapter) = &mut training_mut(&mut run).adapter {
        adapter.digest = Some(stic_contract::Digest::of(b"adapter"));
    }
    assert_yaml_snapshot!("stage-two-describe", config(&run, Describe, &[Prepare]));
    assert_yaml_snapshot!("stage-two-train", config(&run, Train, &[Prepare, Describe]));
}

#[test]
fn names_fit_and_differ() {
    let mut run = validated(&stage_one("")).run;
    run.name = "a".repeat(40);
    let name = names::launch(&run, first(StepName::Generate));
    assert!(name.len() + "-255".len() <= 63, "{name}");
    assert_ne!(name, names::launch(&run, LaunchId { step: StepName::Generate, number: 2 }));
    run.rerun = 1;
    assert_ne!(name, names::launch(&run, first(StepName::Generate)));
    assert!(names::pod_volume(&"a".repeat(253)).len() <= 63);
    assert!(!names::pod_volume("a.b").contains('.'));
}
