//! A spec with everything resolved: profile, defaults, precision, upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use k8s_openapi::api::core::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use stic_contract::artifact::AdapterLocation;
use stic_contract::config::{DataRecipe, ItemSource, Prepare};
use stic_contract::evaluation::{BenchmarkInput, JudgeEndpoint, PrepareEvaluation, Prompting, Scorer};
use stic_contract::pipeline::{self, StepSpec};
use stic_contract::recipe::{
    ActivationCheckpointing, ChatTemplate, ImageLayout, OnUnreadable, Precision, TrainRecipe,
};
use stic_contract::{Digest, RunConfig, RunIdentity, StepName, Task, VolumePath};
use stic_crds::lifecycle::{Profile, Retention};
use stic_crds::model::SecretKey;
use stic_crds::pod::PodSettings;
use stic_crds::volumes::VolumeClaimTemplate;

/// The mount name of a model that comes as an image.
pub const MODEL_IMAGE: &str = "model-image";

/// A spec with everything resolved. It is the only input of decisions and builders.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    pub run: RunIdentity,
    pub seed: u64,
    pub work: Work,
    /// The number of pods that share the sharded step.
    pub shards: u32,
    /// The number format, with `Auto` resolved.
    pub precision: Precision,
    /// Why it is that.
    pub precision_reason: String,
    pub output: Output,
    pub operation: Operation,
    /// The settings of the spec that have no effect, each with the reason.
    pub ineffective: Vec<String>,
}

/// What a run does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Training(Box<Training>),
    Evaluation(Box<Evaluation>),
}

/// Generates data and trains an adapter on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    pub profile: Profile,
    /// The base model.
    pub model: Model,
    /// The adapter to start from.
    pub adapter: Option<AdapterLocation>,
    /// Where items come from.
    pub items: ItemSource,
    /// The folder of the images.
    pub images: VolumePath,
    /// How training data is generated.
    pub data: DataRecipe,
    /// How the adapter is trained.
    pub train: TrainRecipe,
    pub layouts: Layouts,
}

/// Asks models the questions of benchmarks and compares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The models, the baseline first.
    pub subjects: Vec<Subject>,
    pub benchmarks: Vec<BenchmarkInput>,
    pub prompting: Vec<Prompting>,
    pub chat_template: ChatTemplate,
    pub max_description_tokens: u32,
    pub scorers: Vec<Scorer>,
    pub judge: Option<Judge>,
    pub on_unreadable: OnUnreadable,
}

/// A model to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub name: String,
    /// The base model.
    pub model: Model,
    /// The adapter on it.
    pub adapter: Option<AdapterLocation>,
}

/// The judge of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    pub endpoint: JudgeEndpoint,
    /// The Secret with the key of its API.
    pub api_key: Option<SecretKey>,
    /// The ConfigMap with its prompts.
    pub prompts: String,
}

/// The base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The folder that holds it.
    pub location: VolumePath,
    /// The image that it comes from, mounted as [`MODEL_IMAGE`].
    pub image: Option<String>,
    /// The template that the spec names. Absent means that the profile decides.
    pub chat_template: Option<ChatTemplate>,
    /// The digest that an earlier run recorded, which the model must still have.
    pub digest: Option<Digest>,
}

/// How many crops an image becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layouts {
    /// For generating responses.
    pub generation: ImageLayout,
    /// For training.
    pub training: ImageLayout,
}

/// Where artifacts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub location: VolumePath,
    /// The claim to create for it.
    pub claim: Option<VolumeClaimTemplate>,
}

/// Settings that do not change the result, and so may change while the run is under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The pod of each step.
    pub pods: BTreeMap<StepName, PodSettings>,
    /// The field of the spec that limits the memory of each step.
    pub memory_limits: BTreeMap<StepName, String>,
    /// How often a failed step is retried.
    pub backoff_limit: u32,
    /// Seconds after which the run fails.
    pub active_deadline_seconds: Option<u32>,
    pub suspend: bool,
    pub retention: Retention,
    /// How many responses are generated at a time, if the spec says so.
    pub batch_size: Option<NonZeroU32>,
    pub activation_checkpointing: ActivationCheckpointing,
    /// Kueue's labels on the run, copied to each Job.
    pub queue_labels: BTreeMap<String, String>,
    /// Kueue's annotations on the run, copied to each Job.
    pub queue_annotations: BTreeMap<String, String>,
}

/// The machine that steps run on, as far as the result depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hardware {
    /// Pods, which may request GPUs.
    OfPods,
    /// The CPU of this machine, without pods.
    Cpu,
}

impl Work {
    /// The training that the run does, if it does one.
    #[must_use]
    pub fn training(&self) -> Option<&Training> {
        match self {
            Self::Training(training) => Some(training),
            Self::Evaluation(_) => None,
        }
    }

    /// The evaluation that the run does, if it does one.
    #[must_use]
    pub fn evaluation(&self) -> Option<&Evaluation> {
        match self {
            Self::Training(_) => None,
            Self::Evaluation(evaluation) => Some(evaluation),
        }
    }

    /// The base models that it loads.
    #[must_use]
    pub fn models(&self) -> Vec<&Model> {
        match self {
            Self::Training(training) => vec![&training.model],
            Self::Evaluation(evaluation) => {
                evaluation.subjects.iter().map(|subject| &subject.model).collect()
            }
        }
    }

    /// The folders that it reads, except models.
    fn folders(&self) -> Vec<&VolumePath> {
        match self {
            Self::Training(training) => {
                let mut folders = match &training.items {
                    ItemSource::Images { location, .. } => vec![location],
                    ItemSource::Instructions(instructions) => {
                        vec![&instructions.location, &instructions.images]
                    }
                    ItemSource::Pairs { location, images, .. } => vec![location, images],
                };
                folders.push(&training.images);
                folders.extend(training.adapter.iter().map(|adapter| &adapter.location));
                folders
            }
            Self::Evaluation(evaluation) => {
                let adapters = evaluation.subjects.iter().filter_map(|subject| subject.adapter.as_ref());
                let benchmarks = evaluation.benchmarks.iter().map(|benchmark| &benchmark.location);
                benchmarks.chain(adapters.map(|adapter| &adapter.location)).collect()
            }
        }
    }
}

impl Validated {
    /// The steps of the run, in order.
    pub fn steps(&self) -> impl Iterator<Item = &'static StepSpec> {
        let has_judge = self.work.evaluation().is_some_and(|evaluation| evaluation.judge.is_some());
        pipeline::steps(self.run.kind).iter().filter(move |spec| spec.name != StepName::Judge || has_judge)
    }

    /// The image that a base model comes from, mounted as [`MODEL_IMAGE`].
    #[must_use]
    pub fn model_image(&self) -> Option<&str> {
        self.work.models().into_iter().find_map(|model| model.image.as_deref())
    }

    /// The claims that the run only reads.
    #[must_use]
    pub fn input_claims(&self) -> BTreeSet<&str> {
        let models = self.work.models();
        let models = models.iter().filter(|model| model.image.is_none()).map(|model| &model.location);
        self.work
            .folders()
            .into_iter()
            .chain(models)
            .map(|location| location.volume.as_str())
            .filter(|volume| *volume != self.output.location.volume)
            .collect()
    }

    /// All claims of the run, ending with that of the output.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.input_claims().into_iter().chain([self.output.location.volume.as_str()])
    }

    /// Replaces everything that decides the result by what the run started with, so that neither another version of the
    /// operator nor a change to the pods alters a run that is under way.
    pub fn pin(&mut self, started_with: &RunConfig, training_layout: Option<ImageLayout>) {
        self.seed = started_with.seed;
        self.output.location = started_with.output.clone();
        match (&started_with.task, &mut self.work) {
            (Task::Prepare(prepare), Work::Training(training)) => {
                training.pin(prepare, training_layout);
                self.precision = prepare.precision;
            }
            (Task::PrepareEvaluation(prepare), Work::Evaluation(evaluation)) => {
                evaluation.pin(prepare);
                self.precision = prepare.recipe.precision;
            }
            _ => {}
        }
    }

    /// How many GPUs a pod of `step` requests. `None` means that it computes on the CPU.
    #[must_use]
    pub fn gpus(&self, step: StepName) -> Option<NonZeroU32> {
        let (_, pod) = computing_pods(&self.operation.pods).find(|(other, _)| *other == step)?;
        // Whatever a resource claim is named, it stands for a GPU if the user asked for the format of GPUs.
        let unnamed = self.precision == Precision::Bf16 && used_claims(pod).next().is_some();
        let least = u32::from(unnamed || requested_gpu(pod).is_some());
        NonZeroU32::new(whole_gpus(pod).max(least))
    }

    /// Whether a step computes on the CPU.
    #[must_use]
    pub fn uses_cpu(&self) -> bool {
        computing_pods(&self.operation.pods).any(|(step, _)| self.gpus(step).is_none())
    }

    /// Whether a step computes on a GPU.
    #[must_use]
    pub fn uses_gpu(&self) -> bool {
        computing_pods(&self.operation.pods).any(|(step, _)| self.gpus(step).is_some())
    }

    /// The settings of the pods of `step`.
    #[must_use]
    pub fn pod(&self, step: StepName) -> PodSettings {
        self.operation.pods.get(&step).cloned().unwrap_or_default()
    }
}

impl Training {
    fn pin(&mut self, started_with: &Prepare, training_layout: Option<ImageLayout>) {
        let Prepare { model, adapter, source, recipe, train, precision: _, bf16_on_cpu: _, uses_gpu: _ } =
            started_with;
        self.model.location = model.location.clone();
        self.layouts.generation = model.image_layout;
        if let Some(layout) = training_layout {
            self.layouts.training = layout;
        }
        self.adapter = adapter.clone();
        self.items = source.clone();
        self.data = recipe.clone();
        // How often the training state is saved decides nothing, and may change.
        self.train = TrainRecipe { save_steps: self.train.save_steps, ..train.clone() };
    }
}

impl Evaluation {
    fn pin(&mut self, started_with: &PrepareEvaluation) {
        let PrepareEvaluation {
            subjects,
            benchmarks,
            recipe,
            scorers,
            has_judge: _,
            on_unreadable,
            bf16_on_cpu: _,
            uses_gpu: _,
        } = started_with;
        for (subject, pinned) in self.subjects.iter_mut().zip(subjects) {
            subject.name.clone_from(&pinned.name);
            subject.model.location.clone_from(&pinned.model);
            subject.adapter.clone_from(&pinned.adapter);
        }
        self.benchmarks.clone_from(benchmarks);
        self.prompting.clone_from(&recipe.prompting);
        self.chat_template = recipe.chat_template;
        self.max_description_tokens = recipe.max_description_tokens;
        self.scorers.clone_from(scorers);
        self.on_unreadable = *on_unreadable;
    }
}

/// The pods of the steps that load a model.
pub fn computing_pods(
    pods: &BTreeMap<StepName, PodSettings>,
) -> impl Iterator<Item = (StepName, &PodSettings)> {
    let pods = pods.iter().map(|(step, pod)| (*step, pod));
    pods.filter(|(step, _)| step.computes())
}

/// The resource claims that the trainer's container uses.
pub fn used_claims(pod: &PodSettings) -> impl Iterator<Item = &ResourceClaim> {
    pod.resources.iter().flat_map(|resources| resources.claims.iter().flatten())
}

/// What a pod requests a GPU by: an extended resource, or a resource claim that the trainer's container uses. A claim
/// can stand for any device, such as a network card, and only names tell which.
#[must_use]
pub fn requested_gpu(pod: &PodSettings) -> Option<String> {
    let resource = extended_gpus(pod).next().map(|(name, _)| name.clone());
    resource.or_else(|| {
        let mut gpus = used_claims(pod).filter(|used| {
            let claims = pod.resource_claims.iter().flatten().filter(|claim| claim.name == used.name);
            let of_claim =
                claims.flat_map(|claim| [&claim.resource_claim_name, &claim.resource_claim_template_name]);
            let mut names = of_claim.flatten().chain(&used.request).chain([&used.name]);
            names.any(|name| is_gpu(name))
        });
        gpus.next().map(|claim| format!("resource claim {}", claim.name))
    })
}

/// How many whole GPUs a pod requests. Other resources are shares or the memory of one, and CUDA sees one MIG slice at most.
fn whole_gpus(pod: &PodSettings) -> u32 {
    let whole = extended_gpus(pod).filter(|(name, _)| name.ends_with("/gpu"));
    whole.map(|(_, Quantity(count))| count.parse::<u32>().unwrap_or(1)).fold(0, u32::saturating_add)
}

fn extended_gpus(pod: &PodSettings) -> impl Iterator<Item = (&String, &Quantity)> {
    let limits = pod.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let limits = limits.into_iter().flatten();
    let is_gpu = |name: &str| name.rsplit_once('/').is_some_and(|(_, device)| is_gpu(device));
    limits.filter(move |(name, count)| is_gpu(name) && count.0 != "0")
}

/// Accelerators that are not NVIDIA's: the domain of the extended resource, and what its name contains. Other devices of the
/// same vendors, such as network cards, are ignored.
const OTHER_ACCELERATORS: [(&str, &str); 10] = [
    ("amd.com", "gpu"),
    ("gpu.intel.com", ""),
    ("habana.ai", ""),
    ("google.com", "tpu"),
    ("aws.amazon.com", "neuron"),
    ("huawei.com", "ascend"),
    ("cambricon.com", ""),
    ("mthreads.com", "gpu"),
    ("metax-tech.com", "gpu"),
    ("hygon.com", "dcu"),
];

/// The extended resource by which a pod requests an accelerator that is not NVIDIA's.
#[must_use]
pub fn other_accelerator(pod: &PodSettings) -> Option<&str> {
    let resources = pod.resources.iter();
    let requested =
        resources.flat_map(|resources| [&resources.limits, &resources.requests]).flatten().flatten();
    let mut names = requested.filter(|(_, count)| count.0 != "0").map(|(name, _)| name);
    let is_other = |name: &str| {
        let (domain, device) = name.split_once('/').unwrap_or_default();
        let device = device.to_lowercase();
        let mut others = OTHER_ACCELERATORS.iter();
        others.any(|(other, named)| {
            let subdomain =
                domain.strip_suffix(other).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            subdomain && device.contains(named)
        })
    };
    names.find(|name| is_other(name)).map(String::as_str)
}

/// Whether a device is named like a GPU or a part of one, such as mig-1g.10gb.
fn is_gpu(device: &str) -> bool {
    let device = device.to_lowercase();
    device.contains("gpu") || device.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "mig")
}
