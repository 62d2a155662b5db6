//! The pod of a step.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    ImageVolumeSource, PersistentVolumeClaimVolumeSource, PodAffinity, PodAffinityTerm, PodSecurityContext,
    PodSpec, PodTemplateSpec, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use stic_contract::progress::PROGRESS_PORT;
use stic_crds::pod::{self, PodSettings};

use super::{Attempt, CONFIG_DIR, CONFIG_FILE, VOLUMES_DIR, labels, names};
use crate::validated::{MODEL_IMAGE, Validated, gpus};

/// A user that owns nothing.
const NOBODY: i64 = 65_532;
/// State at rank 128 on 7B is about 4 GB, and must reach the volume before the pod is killed.
const GRACE_SECONDS: i64 = 300;

pub(super) fn template(
    run: &Validated,
    attempt: Attempt,
    trainer_image: &str,
    sharded: bool,
    one_node: bool,
) -> PodTemplateSpec {
    let PodSettings {
        image,
        image_pull_secrets,
        resources,
        resource_claims,
        node_selector,
        tolerations,
        priority_class_name,
        service_account_name,
        runtime_class_name,
        security_context,
        env,
        labels: extra_labels,
        annotations,
    } = run.pod(attempt.step);
    let own_labels = labels::of_step(&run.run, attempt.step);
    let mut all_labels = extra_labels.unwrap_or_default();
    all_labels.extend(own_labels);
    let several_gpus = gpus(&run.pod(attempt.step)) > 1;
    let (volumes, volume_mounts) = volumes(run, attempt, several_gpus);
    let container = Container {
        name: "trainer".into(),
        image: Some(image.unwrap_or_else(|| trainer_image.to_owned())),
        command: Some(vec!["stic-trainer".into()]),
        args: Some(arguments(sharded)),
        env: Some(environment(env.unwrap_or_default())),
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
        // The trainer writes its result there, and a container that died before it could leaves its last lines.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(volume_mounts),
        ..Container::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(all_labels), annotations, ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            affinity: one_node.then(|| same_node(run, attempt)),
            automount_service_account_token: Some(false),
            containers: vec![container],
            enable_service_links: Some(false),
            image_pull_secrets,
            node_selector,
            priority_class_name,
            resource_claims,
            restart_policy: Some("Never".into()),
            runtime_class_name,
            security_context: Some(pod_security(security_context.unwrap_or_default())),
            service_account_name,
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            tolerations,
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
        format!("0.0.0.0:{PROGRESS_PORT}"),
    ];
    if sharded {
        arguments.extend(["--shard-index".to_owned(), "$(JOB_COMPLETION_INDEX)".to_owned()]);
    }
    arguments
}

// The user's variables come last, and so win.
fn environment(given: Vec<EnvVar>) -> Vec<EnvVar> {
    let home = EnvVar { name: "HOME".into(), value: Some("/tmp".into()), ..EnvVar::default() };
    let own = (!given.iter().any(|variable| variable.name == home.name)).then_some(home);
    own.into_iter().chain(given).collect()
}

fn pod_security(spec: pod::SecurityContext) -> PodSecurityContext {
    let pod::SecurityContext { run_as_user, run_as_group, fs_group, supplemental_groups } = spec;
    PodSecurityContext {
        fs_group: Some(fs_group.unwrap_or(NOBODY)),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        run_as_group: Some(run_as_group.unwrap_or(NOBODY)),
        run_as_non_root: Some(true),
        run_as_user: Some(run_as_user.unwrap_or(NOBODY)),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        supplemental_groups,
        ..PodSecurityContext::default()
    }
}

fn volumes(run: &Validated, attempt: Attempt, several_gpus: bool) -> (Vec<Volume>, Vec<VolumeMount>) {
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
        ConfigMapVolumeSource { name: names::attempt(&run.run, attempt), ..ConfigMapVolumeSource::default() };
    add(
        Volume { name: "run-config".into(), config_map: Some(config), ..Volume::default() },
        CONFIG_DIR.into(),
        true,
    );
    add(empty("tmp", None), "/tmp".into(), false);
    if several_gpus {
        add(empty("shm", Some("Memory")), "/dev/shm".into(), false);
    }
    let output = run.output.location.volume.as_str();
    for claim in run.input_claims().into_iter().chain([output]) {
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            ..PersistentVolumeClaimVolumeSource::default()
        };
        let volume = Volume {
            name: names::pod_volume(claim),
            persistent_volume_claim: Some(source),
            ..Volume::default()
        };
        add(volume, format!("{VOLUMES_DIR}/{claim}"), claim != output);
    }
    if let Some(reference) = &run.model.image {
        let source = ImageVolumeSource { reference: Some(reference.clone()), ..ImageVolumeSource::default() };
        add(
            Volume { name: MODEL_IMAGE.into(), image: Some(source), ..Volume::default() },
            format!("{VOLUMES_DIR}/{MODEL_IMAGE}"),
            true,
        );
    }
    (volumes, mounts)
}

fn empty(name: &str, medium: Option<&str>) -> Volume {
    let source = EmptyDirVolumeSource { medium: medium.map(Into::into), ..EmptyDirVolumeSource::default() };
    Volume { name: name.into(), empty_dir: Some(source), ..Volume::default() }
}

// A volume that one node may mount can still be shared by pods of that node.
fn same_node(run: &Validated, attempt: Attempt) -> Affinity {
    let labels: BTreeMap<String, String> = labels::of_step(&run.run, attempt.step)
        .into_iter()
        .filter(|(key, _)| [labels::RUN_UID, labels::STEP].contains(&key.as_str()))
        .collect();
    Affinity {
        pod_affinity: Some(PodAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![PodAffinityTerm {
                label_selector: Some(LabelSelector {
                    match_labels: Some(labels),
                    ..LabelSelector::default()
                }),
                topology_key: "kubernetes.io/hostname".into(),
                ..PodAffinityTerm::default()
            }]),
            ..PodAffinity::default()
        }),
        ..Affinity::default()
    }
}
