//! `render`: the objects that the controller makes of manifests, by its own builders, with no cluster.

mod unknown;

use k8s_openapi::api::batch::v1::Job;
use serde::Serialize;
use serde_json::json;
use stic_contract::{RunKind, StepName, pipeline};
use stic_crds::{StageOneRun, StageTwoRun};
use stic_operator::build::Attempt;
use stic_operator::build::config_map::config_map;
use stic_operator::build::job::{JobSettings, job};
use stic_operator::build::volume_claim::volume_claim;
use stic_operator::controllers::stage_two::Upstream;
use stic_operator::controllers::{stage_one, stage_two};
use stic_operator::plan::{Launch, Observed, StepObservation, StepOutcome};
use stic_operator::validated::Hardware;
use stic_operator::{Plan, Validated, plan};

use crate::args::RenderArgs;
use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest, Manifests};
use crate::say::{self, tell};

pub(crate) fn render(args: &RenderArgs) -> Result<()> {
    let Manifests { runs, skipped } = manifests::load(&args.files, &args.namespace)?;
    for what in skipped {
        tell(format_args!("note: {what} is left out: it is applied as it is"));
    }
    // All or nothing, as for an API server.
    let texts = runs.iter().map(|manifest| text(manifest, &runs, args)).collect::<Result<Vec<_>>>()?;
    say::print(texts.concat().trim_end())
}

/// The documents of a run.
fn text(manifest: &Manifest, all: &[Manifest], args: &RenderArgs) -> Result<String> {
    let mut run = settle(manifest, all)?;
    let title = format!("{} {}/{}", manifest.kind(), manifest.namespace(), manifest.name());
    if let Some(step) =
        args.step.filter(|step| !pipeline::steps(run.run.kind).iter().any(|spec| spec.name == *step))
    {
        return if all.len() > 1 {
            Ok(String::new())
        } else {
            Err(Failure::config(no_such(step, run.run.kind, &title)))
        };
    }
    let mut text = format!("# {title}\n{}", unknown::NOTE);
    if std::mem::take(&mut run.operation.suspend) {
        text.push_str("# spec.suspend is true: nothing of this is made until it is false.\n");
    }
    if let Some(claim) = volume_claim(&run).filter(|_| args.step.is_none()) {
        document(&mut text, "the claim for its output, made before the first step", &claim)?;
    }
    let settings = JobSettings {
        trainer_image: args.trainer_image.clone().unwrap_or_else(|| unknown::TRAINER_IMAGE.into()),
        one_node: false,
        remaining_seconds: run.operation.active_deadline_seconds,
    };
    let shared_by = run.shards;
    let settled = Ok(run);
    let mut observed = Observed::default();
    loop {
        let launch = match plan(&settled, &observed) {
            Plan::Start(launch) => launch,
            Plan::Done { .. } => return Ok(unknown::mark(&text)),
            other => return Err(Failure::bug(format!("{title}: the plan is {other:?}"))),
        };
        let Ok(run) = &settled else { return Ok(text) };
        let step = launch.step;
        if args.step.is_none_or(|wanted| wanted == step) {
            objects(&mut text, run, &launch, &settings, shared_by)?;
        }
        let outcome = StepOutcome::Succeeded(Box::new(unknown::result(run, step)));
        observed.steps.insert(step, StepObservation::new(1, outcome));
    }
}

fn objects(
    text: &mut String,
    run: &Validated,
    launch: &Launch,
    settings: &JobSettings,
    shards: u32,
) -> Result<()> {
    let attempt = Attempt { step: launch.step, number: launch.attempt };
    let map = config_map(&launch.config, attempt).map_err(Failure::bug)?;
    document(text, &format!("step {}: its run config", launch.step), &map)?;
    let job: Job = job(run, attempt, settings);
    let mut title = format!("step {}: its Job", launch.step);
    let affinity = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .is_some_and(|spec| spec.affinity.is_some());
    if launch.shards > 1 && shards > 1 && !affinity {
        title.push_str("; with an affinity to one node where a claim is ReadWriteOnce");
    }
    document(text, &title, &job)
}

fn document(text: &mut String, title: &str, object: &impl Serialize) -> Result<()> {
    // By way of a Value: its keys have an order, apiVersion and kind first.
    let yaml = serde_saphyr::to_string(object).map_err(Failure::bug)?;
    text.push_str(&format!("---\n# {title}\n{yaml}"));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(())
}

fn settle(manifest: &Manifest, all: &[Manifest]) -> Result<Validated> {
    let mut object = manifest.object.clone();
    object["metadata"]["uid"] = json!(unknown::UID);
    let settled = if manifest.kind() == "StageOneRun" {
        let run: StageOneRun = serde_json::from_value(object).map_err(Failure::bug)?;
        stage_one::validate(&run, Hardware::OfPods)
    } else {
        let run: StageTwoRun = serde_json::from_value(object).map_err(Failure::bug)?;
        let upstream = manifest.upstream().map(|name| upstream(manifest, name, all)).transpose()?;
        let upstream = upstream.as_ref().map_or(Upstream::Missing, Upstream::Found);
        stage_two::validate(&run, upstream, Hardware::OfPods)
    };
    settled.map_err(|refusal| {
        let field = match &refusal {
            stic_operator::Refusal::Invalid { field, .. } => field,
            stic_operator::Refusal::Wait { .. } => "spec.initFrom.stageOneRunRef",
        };
        Failure::config(manifest.about(field, &refusal))
    })
}

/// The `StageOneRun` that `manifest` starts from, as if it had succeeded.
fn upstream(manifest: &Manifest, name: &str, all: &[Manifest]) -> Result<StageOneRun> {
    let found = all.iter().find(|other| {
        (other.kind(), other.namespace(), other.name()) == ("StageOneRun", manifest.namespace(), name)
    });
    let Some(found) = found else {
        return Err(Failure::config(manifest.about(
            "spec.initFrom.stageOneRunRef.name",
            format!("no StageOneRun {name} is among the manifests, and its model and output are its own; add its manifest with -f"),
        )));
    };
    let mut run: StageOneRun = serde_json::from_value(found.object.clone()).map_err(Failure::bug)?;
    let validated = settle(found, all)?;
    run.status = Some(unknown::success(&validated));
    Ok(run)
}

fn no_such(step: StepName, kind: RunKind, title: &str) -> String {
    let steps: Vec<_> = pipeline::steps(kind).iter().map(|spec| spec.name.as_str()).collect();
    format!("{title} has no step {step}; its steps are {}", steps.join(", "))
}
