//! `render`: prints the objects that the controller would create for manifests, using its own builders.

mod placeholders;

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use stic_contract::{RunKind, StepName, pipeline};
use stic_crds::RunStatus;
use stic_operator::Validated;
use stic_operator::build::config_map::config_map;
use stic_operator::build::job::{JobSettings, job};
use stic_operator::build::pod_check::check_pods;
use stic_operator::build::volume_claim::volume_claim;
use stic_operator::decide::decide;
use stic_operator::decision::{Decision, Launch, Verdict};
use stic_operator::snapshot::{Snapshot, StepOutcome, StepSnapshot};
use stic_operator::trainer_images::TrainerImages;
use stic_operator::validated::Hardware;

use crate::args::RenderArgs;
use crate::assumed;
use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest, Manifests};
use crate::stdio::{self, print_stderr};
use crate::upstreams::Found;

pub(crate) fn render(args: &RenderArgs) -> Result<()> {
    let Manifests { runs, skipped, .. } = manifests::load(&args.files, &args.namespace)?;
    for what in skipped {
        print_stderr(format_args!("note: skipped {what}: it is applied unchanged"));
    }
    // Print nothing unless all manifests can be rendered.
    let texts = runs.iter().map(|manifest| render_run(manifest, &runs, args)).collect::<Result<Vec<_>>>()?;
    stdio::print(texts.concat().trim_end())
}

/// The YAML documents of a run.
fn render_run(manifest: &Manifest, all: &[Manifest], args: &RenderArgs) -> Result<String> {
    let mut run = validate(manifest, all)?;
    let title = format!("{} {}/{}", manifest.kind(), manifest.namespace, manifest.name.name);
    if let Some(step) = args.step.filter(|step| pipeline::step(manifest.kind(), *step).is_none()) {
        return if all.len() > 1 {
            Ok(String::new())
        } else {
            Err(Failure::config(no_such_step(step, manifest.kind(), &title)))
        };
    }
    check_pods(&run).map_err(|message| Failure::config(manifest.message_at("spec.pod", message)))?;
    let mut text = format!("# {title}\n{}", placeholders::NOTE);
    if std::mem::take(&mut run.operation.suspend) {
        text.push_str(
            "# spec.suspend is true: the controller creates none of these objects until it is false.\n",
        );
    }
    if let Some(claim) = volume_claim(&run).filter(|_| args.step.is_none()) {
        add_document(&mut text, "the claim for its output, created before the first step", &claim)?;
    }
    let image =
        |given: &Option<String>, placeholder: &str| given.clone().unwrap_or_else(|| placeholder.into());
    let images = TrainerImages {
        cpu: image(&args.trainer_image, placeholders::TRAINER_IMAGE),
        gpu: image(&args.trainer_gpu_image, placeholders::TRAINER_GPU_IMAGE),
    };
    let settings = |launch: &Launch| JobSettings {
        trainer_image: images.clone().of_step(&launch.run, launch.id.step),
        one_node: false,
        read_only_claims: BTreeSet::new(),
        deadline_seconds: launch.deadline_seconds,
    };
    let shards = run.shards;
    let mut snapshot = Snapshot::local(&run, 1, &RunStatus::default(), Time(Timestamp::UNIX_EPOCH));
    loop {
        let launch = match decide(&snapshot) {
            Ok(Decision::Launch(launch)) => launch,
            Ok(Decision::Report { verdict: Verdict::Succeeded { .. }, .. }) => {
                return Ok(placeholders::insert(&text));
            }
            other => return Err(Failure::bug(format!("{title}: the decision is {other:?}"))),
        };
        let step = launch.id.step;
        if args.step.is_none_or(|selected| selected == step) {
            add_objects(&mut text, &launch, &settings(&launch), shards)?;
        }
        let spec = pipeline::step(manifest.kind(), step)
            .ok_or_else(|| Failure::bug(no_such_step(step, manifest.kind(), &title)))?;
        let outcome = StepOutcome::Succeeded(Box::new(placeholders::result(&launch.run, spec)));
        snapshot.steps.insert(step, StepSnapshot::new(1, outcome));
    }
}

/// Adds the ConfigMap and the Job of a step.
fn add_objects(text: &mut String, launch: &Launch, settings: &JobSettings, shards: u32) -> Result<()> {
    let step = launch.id.step;
    let map = config_map(&launch.run, &launch.config, launch.id).map_err(Failure::bug)?;
    add_document(text, &format!("step {step}: its run config"), &map)?;
    let job: Job = job(&launch.run, launch.id, settings);
    let mut title = format!("step {step}: its Job");
    let affinity = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .is_some_and(|spec| spec.affinity.is_some());
    if launch.shards > 1 && shards > 1 && !affinity {
        title.push_str("; with an affinity to one node if a claim is ReadWriteOnce");
    }
    add_document(text, &title, &job)
}

fn add_document(text: &mut String, title: &str, object: &impl Serialize) -> Result<()> {
    let yaml = serde_saphyr::to_string(object).map_err(Failure::bug)?;
    text.push_str(&format!("---\n# {title}\n{yaml}"));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(())
}

fn validate(manifest: &Manifest, all: &[Manifest]) -> Result<Validated> {
    let mut object = manifest.object.clone();
    object["metadata"]["uid"] = json!(placeholders::UID);
    let advice = ", which has the model and the adapter. Add its manifest with -f.";
    // Other runs are taken to have succeeded.
    let upstreams = Found::of(manifest, advice, |run| {
        let Some(found) = all.iter().find(|other| other.is(&manifest.namespace, run)) else {
            return Ok(None);
        };
        let mut object = found.object.clone();
        let status = assumed::success(&validate(found, all)?, &placeholders::unknown());
        object["status"] = serde_json::to_value(status).map_err(Failure::bug)?;
        Ok(Some(object))
    })?;
    crate::validate::validate(manifest, object, &upstreams, Hardware::OfPods)
}

fn no_such_step(step: StepName, kind: RunKind, title: &str) -> String {
    let steps: Vec<_> = pipeline::steps(kind).iter().map(|spec| spec.name.as_str()).collect();
    format!("{title} has no step {step}. Its steps are {}.", steps.join(", "))
}
