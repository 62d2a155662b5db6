//! The pod of a step.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodSecurityContext,
    PodSpec, PodTemplateSpec, SeccompProfile, SecretKeySelector, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use stic_contract::evaluation::{JUDGE_API_KEY, JUDGE_PROMPTS};
use stic_contract::progress::PROGRESS_PORT;
use stic_contract::{StepName, VolumePath};
use stic_crds::model::SecretKey;
use stic_crds::pod::{self, PodSettings};

use super::labels;
use super::names::{self, LaunchId};
use super::paths::{COMPILED_KERNELS, CONFIG_DIR, CONFIG_FILE, VOLUMES_DIR};
use crate::validated::{Judge, MODEL_IMAGE, Validated};

/// The container of the trainer, beside which others may be injected.
pub const TRAINER_CONTAINER: &str = "trainer";
/// Where pods with several GPUs share memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// The names of the volumes that pods have besides those of claims.
pub(super) const OWN_VOLUMES: [&str; 5] = ["run-config", "tmp", "shm", MODEL_IMAGE, JUDGE_PROMPTS];
/// A user ID that owns no files.
const NOBODY: i64 = 65_532;
/// The training state of a 7B model at rank 128 is about 4 GB, and must reach the volume before the pod is killed.
const GRACE_SECONDS: i64 = 300;

pub(super) fn template(
    run: &Validated,
    launch: LaunchId,
    trainer_image: &str,
    sharded: bool,
    one_node: bool,
    read_only_claims: &BTreeSet<String>,
) -> PodTemplateSpec {
    let PodSettings {
        image,
        image_pull_policy,
        image_pull_secrets,
        resources,
        resource_claims,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        scheduler_name,
        priority_class_name,
        service_account_name,
        runtime_class_name,
        security_context,
        env,
        env_from,
        volumes: extra_volumes,
        volume_mounts: extra_mounts,
        labels: extra_labels,
        annotations,
    } = run.pod(launch.step);
    let own_labels = labels::of_step(&run.run, launch.step);
    let mut all_labels = extra_labels.unwrap_or_default();
    all_labels.extend(own_labels);
    let several_gpus = run.gpus(launch.step).is_some_and(|gpus| gpus.get() > 1);
    let extra_mounts = extra_mounts.unwrap_or_default();
    let own_shm = several_gpus && !extra_mounts.iter().any(|mount| mount.mount_path == SHARED_MEMORY);
    let (mut volumes, mut volume_mounts) = volumes(run, launch, own_shm, read_only_claims);
    volumes.extend(extra_volumes.unwrap_or_default());
    volume_mounts.extend(extra_mounts);
    let container = Container {
        name: TRAINER_CONTAINER.into(),
        image: Some(image.unwrap_or_else(|| trainer_image.to_owned())),
        command: Some(vec!["stic-trainer".into()]),
        args: Some(arguments(sharded)),
        env: Some(environment(run, launch.step, env.unwrap_or_default())),
        env_from,
        image_pull_policy: image_pull_policy.map(|policy| policy.as_str().to_owned()),
        ports: Some(vec![ContainerPort {
            name: Some("progress".into()),
            container_port: i32::from(PROGRESS_PORT),
            ..ContainerPort::default()
        }]),
        resources,
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        // The trainer writes its result to the termination log. A container that dies before that leaves the end of its log.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(volume_mounts),
        ..Container::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(all_labels), annotations, ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            affinity: if one_node { Some(same_node(run, launch, affinity)) } else { affinity },
            automount_service_account_token: Some(false),
            containers: vec![container],
            enable_service_links: Some(false),
            image_pull_secrets,
            node_selector,
            priority_class_name,
            resource_claims,
            restart_policy: Some("Never".into()),
            runtime_class_name,
            scheduler_name,
            security_context: Some(pod_security(security_context)),
            service_account_name,
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            tolerations,
            topology_spread_constraints,
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

fn arguments(sharded: bool) -> Vec<String> {
    let mut arguments = vec![
        "step".to_owned(),
        "--config".to_owned(),
        format!("{CONFIG_DIR}/{CONFIG_FILE}"),
        "--volumes".to_owned(),
        VOLUMES_DIR.to_owned(),
        "--result".to_owned(),
        "/dev/termination-log".to_owned(),
        "--serve".to_owned(),
        format!("[::]:{PROGRESS_PORT}"),
    ];
    if sharded {
        arguments.extend(["--shard-index".to_owned(), "$(JOB_COMPLETION_INDEX)".to_owned()]);
    }
    arguments
}

// The user's variables come last, so that they take precedence.
fn environment(run: &Validated, step: StepName, given: Vec<EnvVar>) -> Vec<EnvVar> {
    let variable =
        |name: &str, value: String| EnvVar { name: name.into(), value: Some(value), ..EnvVar::default() };
    let mut own = vec![variable("HOME", "/tmp".into())];
    if run.gpus(step).is_some() {
        let VolumePath { volume, path } = &run.output.location;
        let folder =
            [VOLUMES_DIR, volume, path, COMPILED_KERNELS].into_iter().filter(|part| !part.is_empty());
        own.push(variable("CUDA_CACHE_PATH", folder.collect::<Vec<_>>().join("/")));
    }
    if let Some(SecretKey { name, key }) = judge(run, step).and_then(|judge| judge.api_key.as_ref()) {
        let secret =
            SecretKeySelector { name: name.clone(), key: key.clone(), ..SecretKeySelector::default() };
        let source = EnvVarSource { secret_key_ref: Some(secret), ..EnvVarSource::default() };
        own.push(EnvVar { name: JUDGE_API_KEY.into(), value: None, value_from: Some(source) });
    }
    own.retain(|variable| !given.iter().any(|given| given.name == variable.name));
    own.into_iter().chain(given).collect()
}

fn pod_security(spec: Option<pod::SecurityContext>) -> PodSecurityContext {
    // One that is given and empty leaves the ids to the platform.
    let default = if spec == Some(pod::SecurityContext::default()) { None } else { Some(NOBODY) };
    let pod::SecurityContext { run_as_user, run_as_group, fs_group, supplemental_groups } =
        spec.unwrap_or_default();
    PodSecurityContext {
        fs_group: fs_group.or(default),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        run_as_group: run_as_group.or(default),
        run_as_non_root: Some(true),
        run_as_user: run_as_user.or(default),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        supplemental_groups,
        ..PodSecurityContext::default()
    }
}

fn volumes(
    run: &Validated,
    launch: LaunchId,
    own_shm: bool,
    read_only_claims: &BTreeSet<String>,
) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    let mut add = |volume: Volume, path: String, read_only: bool| {
        mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: path,
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
        volumes.push(volume);
    };
    let config =
        ConfigMapVolumeSource { name: names::launch(&run.run, launch), ..ConfigMapVolumeSource::default() };
    add(
        Volume { name: "run-config".into(), config_map: Some(config), ..Volume::default() },
        CONFIG_DIR.into(),
        true,
    );
    add(empty("tmp", None), "/tmp".into(), false);
    if own_shm {
        add(empty("shm", Some("Memory")), SHARED_MEMORY.into(), false);
    }
    let output = run.output.location.volume.as_str();
    for claim in run.input_claims().into_iter().chain([output]) {
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            // Some drivers attach such a volume only if the source says so too.
            read_only: (claim != output && read_only_claims.contains(claim)).then_some(true),
        };
        let volume = Volume {
            name: names::pod_volume(claim),
            persistent_volume_claim: Some(source),
            ..Volume::default()
        };
        add(volume, format!("{VOLUMES_DIR}/{claim}"), claim != output);
    }
    if let Some(reference) = run.model_image() {
        let source =
            ImageVolumeSource { reference: Some(reference.to_owned()), ..ImageVolumeSource::default() };
        add(
            Volume { name: MODEL_IMAGE.into(), image: Some(source), ..Volume::default() },
            format!("{VOLUMES_DIR}/{MODEL_IMAGE}"),
            true,
        );
    }
    if let Some(judge) = judge(run, launch.step) {
        let prompts =
            ConfigMapVolumeSource { name: judge.prompts.clone(), ..ConfigMapVolumeSource::default() };
        add(
            Volume { name: JUDGE_PROMPTS.into(), config_map: Some(prompts), ..Volume::default() },
            format!("{VOLUMES_DIR}/{JUDGE_PROMPTS}"),
            true,
        );
    }
    (volumes, mounts)
}

/// The judge, for the pods that talk to it.
fn judge(run: &Validated, step: StepName) -> Option<&Judge> {
    run.work.evaluation()?.judge.as_ref().filter(|_| step == StepName::Judge)
}

fn empty(name: &str, medium: Option<&str>) -> Volume {
    let source = EmptyDirVolumeSource { medium: medium.map(Into::into), ..EmptyDirVolumeSource::default() };
    Volume { name: name.into(), empty_dir: Some(source), ..Volume::default() }
}

// Pods on the same node can share a volume that only one node may mount.
fn same_node(run: &Validated, launch: LaunchId, given: Option<Affinity>) -> Affinity {
    let labels: BTreeMap<String, String> = labels::of_step(&run.run, launch.step)
        .into_iter()
        .filter(|(key, _)| [labels::RUN_UID, labels::STEP].contains(&key.as_str()))
        .collect();
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        topology_key: "kubernetes.io/hostname".into(),
        ..PodAffinityTerm::default()
    };
    let mut affinity = given.unwrap_or_default();
    let pods = affinity.pod_affinity.get_or_insert_default();
    pods.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
    affinity
}
