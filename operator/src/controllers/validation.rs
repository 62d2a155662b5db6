//! Parts of a spec that several kinds validate in the same way.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_contract::evaluation::JUDGE_PROMPTS;
use stic_contract::recipe::Precision;
use stic_contract::{RunIdentity, RunKind, StepName, VolumePath};
use stic_crds::model::ModelSource;
use stic_crds::pod::{self, PodSections, PodSettings};
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

/// Rejects a claim that would be mounted in the place of the model image or of the judge's prompts.
pub(super) fn check_mounts(run: &Validated) -> Result<(), Refusal> {
    let has_judge = run.work.evaluation().is_some_and(|evaluation| evaluation.judge.is_some());
    let image = (MODEL_IMAGE, "spec.model.image", "the image is mounted", run.model_image().is_some());
    let prompts = (JUDGE_PROMPTS, "spec.judge", "the judge's prompts are mounted", has_judge);
    for (name, field, what, is_mounted) in [image, prompts] {
        if is_mounted && run.claims().any(|claim| claim == name) {
            return Err(Refusal::invalid(
                field,
                format!("a claim of the run is named {name}, which is where {what}"),
                "rename the claim",
            ));
        }
    }
    Ok(())
}

/// Rejects devices that the trainer cannot use. In a run that is under way the trainer itself refuses them.
pub(super) fn check_devices(
    run: &Validated,
    pod: &impl PodSections,
    status: Option<&RunStatus>,
) -> Result<(), Refusal> {
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

/// The number format of a run, which `field` of its spec requests, and why it is that.
pub(super) fn precision(
    (field, requested): (&str, training::Precision),
    pods: &BTreeMap<StepName, PodSettings>,
    hardware: Hardware,
) -> (Precision, String) {
    let asked = |name: &str| format!("{field} is {name}");
    match (requested, hardware) {
        (training::Precision::F32, _) => (Precision::F32, asked("F32")),
        (training::Precision::Bf16, _) => (Precision::Bf16, asked("BF16")),
        (training::Precision::Auto, Hardware::Cpu) => {
            (Precision::F32, "this machine computes on its CPU".to_owned())
        }
        (training::Precision::Auto, Hardware::OfPods) => precision_of_pods(field, pods),
    }
}

/// A run has one number format, so a single step without a GPU decides.
fn precision_of_pods(field: &str, pods: &BTreeMap<StepName, PodSettings>) -> (Precision, String) {
    let mut by = String::new();
    for (step, pod) in computing_pods(pods) {
        let Some(gpu) = requested_gpu(pod) else {
            let claims: Vec<&str> = used_claims(pod).map(|claim| claim.name.as_str()).collect();
            let unknown = if claims.is_empty() {
                String::new()
            } else {
                format!(
                    ", as far as the names of its resource claims ({}) tell; set {field} to BF16 if one of them is a GPU",
                    claims.join(", ")
                )
            };
            return (Precision::F32, format!("the pods of step {step} request no GPU{unknown}"));
        };
        by = gpu;
    }
    (Precision::Bf16, format!("the pods of every step that loads a model request a GPU ({by})"))
}

pub(super) fn pods(
    pod: &impl PodSections,
    steps: impl IntoIterator<Item = StepName>,
) -> BTreeMap<StepName, PodSettings> {
    let none = PodSettings::default();
    let settings = |step: StepName| {
        let own = pod.overrides(step.phase()).unwrap_or(&none);
        if step.computes() { own.or(pod.all()) } else { own.or(&without_devices(pod.all())) }
    };
    steps.into_iter().map(|step| (step, settings(step))).collect()
}

/// The field that holds the memory limit of each step, or that would hold it. The settings of a step replace `resources`
/// as a whole.
pub(super) fn memory_limits(
    pod: &impl PodSections,
    steps: impl IntoIterator<Item = StepName>,
) -> BTreeMap<StepName, String> {
    let of_step = |step: StepName| format!("{}.resources.limits.memory", section(pod, step));
    steps.into_iter().map(|step| (step, of_step(step))).collect()
}

/// The field that holds the resources of a step.
fn section(pod: &impl PodSections, step: StepName) -> String {
    let own = pod.overrides(step.phase()).is_some_and(|settings| settings.resources.is_some());
    if own { format!("spec.pod.{}", pod::section(step.phase())) } else { "spec.pod".to_owned() }
}

// A step that loads no model must not occupy a GPU.
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
