//! Resolves the spec of an `EvaluationRun`.

use std::collections::BTreeSet;

use stic_contract::artifact::AdapterLocation;
use stic_contract::evaluation::{BenchmarkInput, BenchmarkName, JudgeEndpoint, Prompting};
use stic_contract::recipe::ActivationCheckpointing;
use stic_contract::{RunKind, pipeline};
use stic_crds::EvaluationRun;
use stic_crds::evaluation::{self as spec, EvaluationRunSpec};

use super::super::upstream::{Inherited, Upstreams, of_stage_one, of_stage_two};
use super::super::validation;
use crate::controllers::validation::folder;
use crate::refusal::Refusal;
use crate::validated::{Evaluation, Hardware, Judge, Operation, Subject, Validated, Work};

/// Resolves everything about a run. `upstreams` are the runs that its subjects name.
///
/// # Errors
/// The run cannot start, now or ever.
pub fn validate(
    object: &EvaluationRun,
    upstreams: Upstreams<'_>,
    hardware: Hardware,
) -> Result<Validated, Refusal> {
    let EvaluationRunSpec {
        subjects,
        benchmarks,
        prompting,
        chat_template,
        description,
        scorers,
        judge,
        on_unreadable,
        precision,
        shards,
        batch_size,
        output,
        pod,
        backoff,
        active_deadline_seconds,
        suspend,
        retention,
        rerun,
        retry: _,
    } = &object.spec;
    let run = validation::identity(RunKind::EvaluationRun, &object.metadata, *rerun)?;
    let ineffective = ineffective(&object.spec);
    let output = validation::output(output, &run)?;
    validation::check_sharing(&output, *shards, "spec.shards")?;
    let steps = pipeline::steps(RunKind::EvaluationRun).iter().map(|step| step.name);
    let pods = validation::pods(pod.as_ref(), steps);
    let requested = ("spec.precision", *precision);
    let (precision, precision_reason) = validation::precision(requested, &pods, hardware);
    let subjects = subjects.iter().enumerate().map(|(i, subject)| resolve(i, subject, upstreams));
    let work = Evaluation {
        subjects: subjects.collect::<Result<_, _>>()?,
        benchmarks: benchmarks.iter().map(benchmark).collect(),
        prompting: prompting.clone(),
        chat_template: *chat_template,
        max_description_tokens: description.max_new_tokens,
        scorers: scorers.clone(),
        judge: judge.as_ref().map(resolve_judge),
        on_unreadable: *on_unreadable,
    };
    check_images(&work.subjects)?;
    let run = Validated {
        run,
        // Answers are greedy.
        seed: 0,
        work: Work::Evaluation(Box::new(work)),
        shards: *shards,
        precision,
        precision_reason,
        output,
        operation: Operation {
            memory_limits: validation::memory_limits(pod.as_ref(), pods.keys().copied()),
            pods,
            backoff_limit: backoff.limit,
            active_deadline_seconds: *active_deadline_seconds,
            suspend: *suspend,
            batch_size: *batch_size,
            activation_checkpointing: ActivationCheckpointing::default(),
            retention: retention.clone(),
            queue_labels: validation::for_queue(&object.metadata.labels),
            queue_annotations: validation::for_queue(&object.metadata.annotations),
        },
        ineffective,
    };
    validation::check_mounts(&run)?;
    validation::check_devices(&run, pod.as_ref(), object.status.as_ref())?;
    Ok(run)
}

fn resolve(index: usize, subject: &spec::Subject, upstreams: Upstreams<'_>) -> Result<Subject, Refusal> {
    let spec::Subject { name, model, adapter, stage_one_run_ref, stage_two_run_ref } = subject;
    let at = |field: &str| format!("spec.subjects[{index}].{field}");
    let (model, adapter) = match (model, adapter, stage_one_run_ref, stage_two_run_ref) {
        (Some(model), None, None, None) => (validation::model(model, &at("model"))?, None),
        (None, Some(adapter), None, None) => {
            let location = AdapterLocation { location: folder(&adapter.volume), digest: None };
            (validation::model(&adapter.model, &at("adapter.model"))?, Some(location))
        }
        (None, None, Some(run), None) => {
            let Inherited { model, adapter } =
                of_stage_one(name, &run.name, (upstreams.stage_one)(&run.name))?;
            (model, Some(adapter))
        }
        (None, None, None, Some(run)) => {
            let Inherited { model, adapter } =
                of_stage_two(name, &run.name, (upstreams.stage_two)(&run.name))?;
            (model, Some(adapter))
        }
        _ => {
            return Err(Refusal::invalid(
                format!("spec.subjects[{index}]"),
                "exactly one of model, adapter, stageOneRunRef, stageTwoRunRef must be set",
                "keep one of them",
            ));
        }
    };
    Ok(Subject { name: name.clone(), model, adapter })
}

fn benchmark(benchmark: &spec::Benchmark) -> BenchmarkInput {
    let spec::Benchmark { name, data, limit, ocr_tokens } = benchmark;
    BenchmarkInput { name: *name, location: folder(&data.volume), limit: *limit, ocr_tokens: *ocr_tokens }
}

fn resolve_judge(judge: &spec::Judge) -> Judge {
    let spec::Judge {
        url,
        model,
        prompts_config_map_ref,
        api_key_secret_ref,
        max_requests_per_minute,
        max_requests,
        repeats,
    } = judge;
    Judge {
        endpoint: JudgeEndpoint {
            url: url.trim_end_matches('/').to_owned(),
            model: model.clone(),
            has_api_key: api_key_secret_ref.is_some(),
            repeats: *repeats,
            max_requests_per_minute: *max_requests_per_minute,
            max_requests: *max_requests,
        },
        api_key: api_key_secret_ref.clone(),
        prompts: prompts_config_map_ref.name.clone(),
    }
}

/// A pod mounts one image with a model.
fn check_images(subjects: &[Subject]) -> Result<(), Refusal> {
    let images: BTreeSet<&str> =
        subjects.iter().filter_map(|subject| subject.model.image.as_deref()).collect();
    if images.len() > 1 {
        return Err(Refusal::invalid(
            "spec.subjects",
            format!("the models come from {} images, but a run can mount one", images.len()),
            "put the models into one image, or copy them to a volume",
        ));
    }
    Ok(())
}

/// Settings without an effect.
fn ineffective(spec: &EvaluationRunSpec) -> Vec<String> {
    let mut notes = Vec::new();
    let models = spec
        .subjects
        .iter()
        .flat_map(|subject| subject.model.iter().chain(subject.adapter.iter().map(|adapter| &adapter.model)));
    if models.into_iter().any(|model| model.chat_template.is_some()) {
        notes.push(
            "chatTemplate of a model has no effect in an evaluation: spec.chatTemplate decides".to_owned(),
        );
    }
    for benchmark in spec.benchmarks.iter().filter(|benchmark| benchmark.ocr_tokens) {
        if benchmark.name != BenchmarkName::TextVqa {
            notes.push(format!(
                "ocrTokens has no effect with {}: only TextVQA has OCR tokens",
                benchmark.name
            ));
        }
    }
    if spec.prompting == [Prompting::Direct] && spec.description != spec::EvaluationDescription::default() {
        notes.push("description has no effect with spec.prompting: [Direct]".to_owned());
    }
    notes
}
