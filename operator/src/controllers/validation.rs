//! Parts of a spec that both kinds validate in the same way.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_contract::pipeline::Phase;
use stic_contract::recipe::Precision;
use stic_contract::{RunIdentity, RunKind, StepName, VolumePath};
use stic_crds::model::ModelSource;
use stic_crds::pod::{Pod, PodSettings};
use stic_crds::volumes::{AccessMode, Output as OutputSpec, VolumeFolder};
use stic_crds::{Decimal, Reason, RunStatus, training};

use crate::build::{labels, names};
use crate::refusal::Refusal;
use crate::validated::{
    Hardware, MODEL_IMAGE, Model, Output, Validated, computing_pods, other_accelerator, requested_gpu,
    used_claims,
};

pub(super) fn identity(kind: RunKind, metadata: &ObjectMeta, rerun: u32) -> Result<RunIdentity, Refusal> {
    let given = |field: &str, value: &Option<String>| {
        value.clone().filter(|text| !text.is_empty()).ok_or_else(|| {
            Refusal::invalid(
                format!("metadata.{field}"),
                "is missing",
                "use the object as the API server returns it, which sets the field",
            )
        })
    };
    Ok(RunIdentity {
        kind,
        namespace: given("namespace", &metadata.namespace)?,
        name: given("name", &metadata.name)?,
        uid: given("uid", &metadata.uid)?,
        rerun,
    })
}

pub(super) fn folder(folder: &VolumeFolder) -> VolumePath {
    VolumePath { volume: folder.claim_name.clone(), path: folder.path.trim_matches('/').to_owned() }
}

pub(super) fn model(source: &ModelSource, field: &str) -> Result<Model, Refusal> {
    let ModelSource { volume, image, hugging_face, chat_template } = source;
    let (location, image) = match (volume, image, hugging_face) {
        (Some(volume), None, None) => (folder(volume), None),
        (None, Some(image), None) => (
            VolumePath { volume: MODEL_IMAGE.into(), path: image.path.trim_matches('/').to_owned() },
            Some(image.reference.clone()),
        ),
        (None, None, Some(hub)) => {
            return Err(Refusal::Invalid {
                reason: Reason::ModelSourceUnsupported,
                field: format!("{field}.huggingFace"),
                message: format!("this version of the operator cannot download {}", hub.repository),
                remedy: "copy the repository to a volume, for example with hf download, and name it in volume",
            });
        }
        _ => {
            return Err(Refusal::invalid(
                field,
                "exactly one of volume, image, huggingFace must be set",
                "keep one of them",
            ));
        }
    };
    Ok(Model { location, image, chat_template: *chat_template, digest: None })
}

pub(super) fn output(spec: &OutputSpec, run: &RunIdentity) -> Result<Output, Refusal> {
    match (&spec.volume, &spec.volume_claim_template) {
        (Some(volume), None) => Ok(Output { location: folder(volume), claim: None }),
        (None, Some(template)) => Ok(Output {
            location: VolumePath { volume: names::output_claim(run), path: String::new() },
            claim: Some(template.clone()),
        }),
        _ => Err(Refusal::invalid(
            "spec.output",
            "exactly one of volume, volumeClaimTemplate must be set",
            "keep one of them",
        )),
    }
}

pub(super) fn number(field: &str, decimal: &Decimal) -> Result<f64, Refusal> {
    decimal.value().ok_or_else(|| {
        Refusal::invalid(
            field,
            format!("{:?} is not a finite number", decimal.as_str()),
            "write a decimal such as \"0.1\"",
        )
    })
}

pub(super) fn max_skipped_share(share: Option<&Decimal>) -> Result<Option<f64>, Refusal> {
    share.map(|share| number("spec.images.maxSkippedShare", share)).transpose()
}

pub(super) fn check_sharing(output: &Output, shards: u32, field: &str) -> Result<(), Refusal> {
    let alone = output
        .claim
        .as_ref()
        .is_some_and(|claim| claim.access_modes.iter().all(|mode| *mode == AccessMode::ReadWriteOncePod));
    if alone && shards > 1 {
        return Err(Refusal::Invalid {
            reason: Reason::ClaimNotShareable,
            field: field.into(),
            message: format!("{shards} pods cannot share a volume that only one pod may mount"),
            remedy: "set shards to 1, or give output.volumeClaimTemplate the access mode ReadWriteMany",
        });
    }
    Ok(())
}

/// Rejects a claim that would be mounted in the place of the model image.
pub(super) fn check_mounts(run: &Validated) -> Result<(), Refusal> {
    let taken = run.model.image.is_some()
        && (run.output.location.volume == MODEL_IMAGE || run.input_claims().contains(MODEL_IMAGE));
    if taken {
        return Err(Refusal::invalid(
            "spec.model.image",
            format!("a claim of the run is named {MODEL_IMAGE}, which is where the image is mounted"),
            "rename the claim",
        ));
    }
    Ok(())
}

/// Rejects devices that the trainer cannot use. In a run that is under way the trainer itself refuses them.
pub(super) fn check_devices(run: &Validated, pod: &Pod, status: Option<&RunStatus>) -> Result<(), Refusal> {
    if status.is_some_and(|status| status.resolved.is_some()) {
        return Ok(());
    }
    for (step, settings) in computing_pods(&run.operation.pods) {
        let field = || format!("{}.resources.limits", section(pod, step));
        if let Some(name) = other_accelerator(settings) {
            return Err(Refusal::invalid(
                field(),
                format!("the trainer cannot use {name}: it computes on NVIDIA GPUs and CPUs"),
                "request nvidia.com/gpu, or no GPU",
            ));
        }
        let gpus = run.gpus(step).map_or(0, NonZeroU32::get);
        if step == StepName::Train && gpus > 1 {
            return Err(Refusal::invalid(
                field(),
                format!("step {step} uses one GPU, and its pod requests {gpus}"),
                "request one under spec.pod.training; those of other steps may have several",
            ));
        }
    }
    Ok(())
}

/// The number format of a run, and why it is that.
pub(super) fn precision(
    requested: training::Precision,
    pods: &BTreeMap<StepName, PodSettings>,
    hardware: Hardware,
) -> (Precision, String) {
    let asked = |name: &str| format!("spec.training.precision is {name}");
    match (requested, hardware) {
        (training::Precision::F32, _) => (Precision::F32, asked("F32")),
        (training::Precision::Bf16, _) => (Precision::Bf16, asked("BF16")),
        (training::Precision::Auto, Hardware::Cpu) => {
            (Precision::F32, "this machine computes on its CPU".to_owned())
        }
        (training::Precision::Auto, Hardware::OfPods) => precision_of_pods(pods),
    }
}

/// A run has one number format, so a single step without a GPU decides.
fn precision_of_pods(pods: &BTreeMap<StepName, PodSettings>) -> (Precision, String) {
    let mut by = String::new();
    for (step, pod) in computing_pods(pods) {
        let Some(gpu) = requested_gpu(pod) else {
            let claims: Vec<&str> = used_claims(pod).map(|claim| claim.name.as_str()).collect();
            let unknown = if claims.is_empty() {
                String::new()
            } else {
                format!(
                    ", as far as the names of its resource claims ({}) tell; set spec.training.precision to BF16 if one of them is a GPU",
                    claims.join(", ")
                )
            };
            return (Precision::F32, format!("the pods of step {step} request no GPU{unknown}"));
        };
        by = gpu;
    }
    (Precision::Bf16, format!("the pods of every step but prepare request a GPU ({by})"))
}

pub(super) fn pods(pod: &Pod, steps: impl IntoIterator<Item = StepName>) -> BTreeMap<StepName, PodSettings> {
    let none = PodSettings::default();
    let settings = |step: StepName| {
        let phase = step.phase();
        let own = pod.overrides(phase).1.unwrap_or(&none);
        if phase == Phase::Preparing { own.or(&without_devices(&pod.all)) } else { own.or(&pod.all) }
    };
    steps.into_iter().map(|step| (step, settings(step))).collect()
}

/// The field that holds the memory limit of each step, or that would hold it. The settings of a step replace `resources`
/// as a whole.
pub(super) fn memory_limits(
    pod: &Pod,
    steps: impl IntoIterator<Item = StepName>,
) -> BTreeMap<StepName, String> {
    let of_step = |step: StepName| format!("{}.resources.limits.memory", section(pod, step));
    steps.into_iter().map(|step| (step, of_step(step))).collect()
}

/// The field that holds the resources of a step.
fn section(pod: &Pod, step: StepName) -> String {
    let (section, settings) = pod.overrides(step.phase());
    let own = settings.is_some_and(|settings| settings.resources.is_some());
    if own { format!("spec.pod.{section}") } else { "spec.pod".to_owned() }
}

// `prepare` finds bad data before a GPU is allocated, so it must not request one itself.
fn without_devices(pod: &PodSettings) -> PodSettings {
    let mut pod = pod.clone();
    pod.resource_claims = None;
    if let Some(resources) = &mut pod.resources {
        resources.claims = None;
        for map in [&mut resources.limits, &mut resources.requests].into_iter().flatten() {
            map.retain(|name, _| !name.contains('/'));
        }
    }
    pod
}

pub(super) fn for_queue(map: &Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    map.iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(labels::KUEUE))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
