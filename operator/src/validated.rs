//! A run of which everything is settled: profile, defaults, precision, upstream.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stic_contract::config::{AdapterLocation, DataRecipe, ItemSource, Prepare};
use stic_contract::recipe::{ChatTemplate, ImageLayout, Precision, TrainRecipe};
use stic_contract::{Digest, RunConfig, RunIdentity, RunKind, StepName, Task, VolumePath};
use stic_crds::lifecycle::{Profile, Retention};
use stic_crds::model::ModelSource;
use stic_crds::pod::{Pod, PodSettings};
use stic_crds::volumes::{AccessMode, Output as OutputSpec, VolumeClaimTemplate, VolumeFolder};
use stic_crds::{Decimal, training};

use crate::refusal::{Reason, Refusal};

/// The mount name of a model that comes as an image.
pub const MODEL_IMAGE: &str = "model-image";

/// A run of which everything is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// Whose it is.
    pub run: RunIdentity,
    /// The profile it was resolved under.
    pub profile: Profile,
    /// The seed.
    pub seed: u64,
    /// The base model.
    pub model: Model,
    /// The adapter to start from.
    pub adapter: Option<AdapterLocation>,
    /// Where items come from.
    pub items: ItemSource,
    /// The folder the images are in.
    pub images: VolumePath,
    /// How data is made.
    pub data: DataRecipe,
    /// How many indexes make it.
    pub shards: u32,
    /// How the adapter is trained.
    pub train: TrainRecipe,
    /// How many crops an image becomes.
    pub layouts: Layouts,
    /// The number format, `Auto` settled.
    pub precision: Precision,
    /// Where artifacts go.
    pub output: Output,
    /// What decides no result.
    pub operation: Operation,
}

/// The base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its folder.
    pub location: VolumePath,
    /// The image it comes from, mounted as [`MODEL_IMAGE`].
    pub image: Option<String>,
    /// The template the spec asks for; absent leaves it to the profile.
    pub chat_template: Option<ChatTemplate>,
    /// What it must hash to, when an earlier run recorded that.
    pub digest: Option<Digest>,
}

/// How many crops an image becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layouts {
    /// When responses are generated.
    pub generation: ImageLayout,
    /// In training.
    pub training: ImageLayout,
}

/// Where artifacts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The folder.
    pub location: VolumePath,
    /// The claim to make for it.
    pub claim: Option<VolumeClaimTemplate>,
}

/// What decides no result.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The pod of each step.
    pub pods: BTreeMap<StepName, PodSettings>,
    /// How often a step is tried again.
    pub backoff_limit: u32,
    /// Seconds after which the run fails.
    pub active_deadline_seconds: Option<u32>,
    /// Whether it is held.
    pub suspend: bool,
    /// What stays.
    pub retention: Retention,
    /// Kueue's labels of the run, for every Job.
    pub queue_labels: BTreeMap<String, String>,
    /// Kueue's annotations of the run, for every Job.
    pub queue_annotations: BTreeMap<String, String>,
}

/// The machine that steps run on, as far as the result depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hardware {
    /// What each pod asks for.
    OfPods,
    /// This machine's CPU: no pod is made.
    Cpu,
}

impl Validated {
    /// The claims that are only read.
    #[must_use]
    pub fn input_claims(&self) -> BTreeSet<&str> {
        let items: Vec<&VolumePath> = match &self.items {
            ItemSource::Images { location, .. } => vec![location],
            ItemSource::Instructions(instructions) => vec![&instructions.location, &instructions.images],
            ItemSource::Pairs { location, images, .. } => vec![location, images],
        };
        let adapter = self.adapter.as_ref().map(|adapter| &adapter.location);
        let model = self.model.image.is_none().then_some(&self.model.location);
        items
            .into_iter()
            .chain([&self.images])
            .chain(adapter)
            .chain(model)
            .map(|location| location.volume.as_str())
            .filter(|volume| *volume != self.output.location.volume)
            .collect()
    }

    /// All claims, that of the output last.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.input_claims().into_iter().chain([self.output.location.volume.as_str()])
    }

    /// Takes what decides the result from the run config that the run started with, so that neither another version
    /// of this operator nor a change of the pods moves a run that is under way.
    pub fn pin(&mut self, started_with: &RunConfig, training_layout: Option<ImageLayout>) {
        let Task::Prepare(prepare) = &started_with.task else { return };
        let Prepare { model, adapter, source, recipe, train, precision } = prepare.as_ref();
        self.seed = started_with.seed;
        self.output.location = started_with.output.clone();
        self.model.location = model.location.clone();
        self.layouts.generation = model.image_layout;
        if let Some(layout) = training_layout {
            self.layouts.training = layout;
        }
        self.adapter = adapter.clone();
        self.items = source.clone();
        self.data = recipe.clone();
        self.train = train.clone();
        self.precision = *precision;
    }

    /// The pod of `step`.
    #[must_use]
    pub fn pod(&self, step: StepName) -> PodSettings {
        self.operation.pods.get(&step).cloned().unwrap_or_default()
    }
}

pub(crate) fn identity(kind: RunKind, metadata: &ObjectMeta, rerun: u32) -> Result<RunIdentity, Refusal> {
    let given = |field: &str, value: &Option<String>| {
        value.clone().filter(|text| !text.is_empty()).ok_or_else(|| {
            Refusal::invalid(
                format!("metadata.{field}"),
                "is missing",
                "read the object from the API server, which sets it",
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

pub(crate) fn folder(folder: &VolumeFolder) -> VolumePath {
    VolumePath { volume: folder.claim_name.clone(), path: folder.path.trim_matches('/').to_owned() }
}

pub(crate) fn model(source: &ModelSource, field: &str) -> Result<Model, Refusal> {
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
                message: format!("this version cannot fetch {} itself", hub.repository),
                mend: "copy the repository onto a volume, for example with hf download, and name it in volume",
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

pub(crate) fn output(spec: &OutputSpec, run: &RunIdentity) -> Result<Output, Refusal> {
    match (&spec.volume, &spec.volume_claim_template) {
        (Some(volume), None) => Ok(Output { location: folder(volume), claim: None }),
        (None, Some(template)) => Ok(Output {
            location: VolumePath { volume: crate::build::names::output_claim(run), path: String::new() },
            claim: Some(template.clone()),
        }),
        _ => Err(Refusal::invalid(
            "spec.output",
            "exactly one of volume, volumeClaimTemplate must be set",
            "keep one of them",
        )),
    }
}

pub(crate) fn number(field: &str, decimal: &Decimal) -> Result<f64, Refusal> {
    decimal.value().ok_or_else(|| {
        Refusal::invalid(field, format!("{decimal:?} is no finite number"), "write a decimal such as \"0.1\"")
    })
}

pub(crate) fn check_sharing(output: &Output, shards: u32, field: &str) -> Result<(), Refusal> {
    let alone = output
        .claim
        .as_ref()
        .is_some_and(|claim| claim.access_modes.iter().all(|mode| *mode == AccessMode::ReadWriteOncePod));
    if alone && shards > 1 {
        return Err(Refusal::Invalid {
            reason: Reason::ClaimNotShareable,
            field: field.into(),
            message: format!("{shards} pods cannot share a volume that one pod may mount"),
            mend: "set shards to 1, or give output.volumeClaimTemplate the access mode ReadWriteMany",
        });
    }
    Ok(())
}

/// Rejects a claim that would be mounted where the model's image is.
pub(crate) fn check_mounts(run: &Validated) -> Result<(), Refusal> {
    let taken = run.model.image.is_some()
        && (run.output.location.volume == MODEL_IMAGE || run.input_claims().contains(MODEL_IMAGE));
    if taken {
        return Err(Refusal::invalid(
            "spec.model.image",
            format!("a claim of the run is named {MODEL_IMAGE}, where the image is mounted"),
            "rename the claim",
        ));
    }
    Ok(())
}

pub(crate) fn precision(
    asked: training::Precision,
    pods: &BTreeMap<StepName, PodSettings>,
    hardware: Hardware,
) -> Precision {
    let on_gpu = match hardware {
        Hardware::Cpu => false,
        // One number format for a run: the slower device decides.
        Hardware::OfPods => {
            pods.iter().filter(|(step, _)| **step != StepName::Prepare).all(|(_, pod)| asks_for_gpu(pod))
        }
    };
    match asked {
        training::Precision::F32 => Precision::F32,
        training::Precision::Bf16 => Precision::Bf16,
        training::Precision::Auto if on_gpu => Precision::Bf16,
        training::Precision::Auto => Precision::F32,
    }
}

/// Whether a pod asks for a GPU, by an extended resource or by a resource claim.
#[must_use]
pub fn asks_for_gpu(pod: &PodSettings) -> bool {
    gpus(pod) > 0 || pod.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
}

/// How many GPUs a pod asks for by extended resources.
#[must_use]
pub fn gpus(pod: &PodSettings) -> u64 {
    let limits = pod.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    limits
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.rsplit_once('/').is_some_and(|(_, device)| device.contains("gpu")))
        .map(|(_, Quantity(count))| count.parse::<u64>().unwrap_or(1))
        .sum()
}

pub(crate) fn pods(pod: &Pod, steps: impl IntoIterator<Item = StepName>) -> BTreeMap<StepName, PodSettings> {
    let Pod { all, prepare, generation, training } = pod;
    let none = PodSettings::default();
    steps
        .into_iter()
        .map(|step| {
            let settings = match step {
                StepName::Prepare => prepare.as_ref().unwrap_or(&none).or(&without_devices(all)),
                StepName::Generate | StepName::Describe => generation.as_ref().unwrap_or(&none).or(all),
                StepName::Train => training.as_ref().unwrap_or(&none).or(all),
            };
            (step, settings)
        })
        .collect()
}

// `prepare` finds bad data before a GPU is held, so it must not hold one itself.
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

const KUEUE: &str = "kueue.x-k8s.io/";

pub(crate) fn for_queue(map: &Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    map.iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(KUEUE))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
