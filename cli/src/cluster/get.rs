//! `get`: a table of all runs, or one run as a tree.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use stic_crds::status::Display;

use super::client::Cluster;
use super::owned_jobs::OwnedJobs;
use super::run::Run;
use super::tree;
use crate::args::{Format, GetArgs};
use crate::error::{Failure, Result};
use crate::format::elapsed;
use crate::stdio;

pub(super) async fn get(args: &GetArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    let now = Time(Timestamp::now());
    let Some(name) = &args.run else { return get_all(&cluster, args, &now).await };
    let run = cluster.get_run(name).await?;
    let jobs = cluster.list_jobs(&run).await?;
    match args.output {
        Format::Table => print_lines(&tree::lines(&run, &jobs, &now)),
        Format::Json => print_json(&run_json(&run, jobs)?),
    }
}

async fn get_all(cluster: &Cluster, args: &GetArgs, now: &Time) -> Result<()> {
    let runs = cluster.list_runs(args.all_namespaces).await?;
    match args.output {
        Format::Json => {
            let items: Vec<_> = runs.iter().map(|run| &run.object).collect();
            print_json(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
        }
        Format::Table if runs.is_empty() => {
            // As with kubectl, an empty list is not an error, and standard output stays empty.
            let place = if args.all_namespaces {
                String::new()
            } else {
                format!(" in namespace {}", cluster.namespace)
            };
            stdio::print_stderr(format_args!("No runs found{place}."));
            Ok(())
        }
        Format::Table => print_lines(&table(&runs, args.all_namespaces, now)),
    }
}

fn run_json(run: &Run, owned: OwnedJobs) -> Result<Value> {
    let (mut jobs, mut pods) = (Vec::new(), Vec::new());
    for (mut job, pods_of_job) in owned.jobs {
        job.metadata.managed_fields = None;
        jobs.push(serde_json::to_value::<&Job>(&job).map_err(Failure::bug)?);
        for mut pod in pods_of_job {
            pod.metadata.managed_fields = None;
            pods.push(serde_json::to_value::<&Pod>(&pod).map_err(Failure::bug)?);
        }
    }
    Ok(json!({"run": run.object, "jobs": jobs, "pods": pods}))
}

fn print_json(value: &impl Serialize) -> Result<()> {
    stdio::print(serde_json::to_string_pretty(value).map_err(Failure::bug)?)
}

fn print_lines(lines: &[String]) -> Result<()> {
    lines.iter().try_for_each(stdio::print)
}

/// The columns of `kubectl get`, with every kind in one table.
fn table(runs: &[Run], namespaces: bool, now: &Time) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let namespace = namespaces.then_some("NAMESPACE");
    let columns =
        ["NAME", "PHASE", "PROGRESS", "ITEMS", "LOSS", "MARGIN", "SCORE", "DIFFERENCE", "ETA", "AGE"];
    table.set_header(namespace.into_iter().chain(columns));
    for run in runs {
        let display = run.status.display.clone().unwrap_or_default();
        let metadata = &run.object.metadata;
        let age = metadata.creation_timestamp.as_ref().map(|since| elapsed(since, now));
        let Display { phase, progress, items, loss, margin, score, difference, eta } = display;
        let cells = [phase, progress, items, loss, margin, score, difference, eta, age];
        let namespace = namespaces.then(|| metadata.namespace.clone().unwrap_or_default());
        let cells = cells.into_iter().map(Option::unwrap_or_default);
        table.add_row(namespace.into_iter().chain([run.name.to_string()]).chain(cells));
    }
    // As with kubectl, the first column starts at the beginning of the line.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stic_contract::RunKind;

    #[test]
    fn both_kinds_are_in_one_table() {
        let run = |kind: RunKind, name: &str, display: Value| {
            let object = json!({
                "apiVersion": "stic.dev/v1alpha1", "kind": kind, "spec": {},
                "metadata": {"name": name, "namespace": "research", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"display": display},
            });
            Run::parse(kind, serde_json::from_value(object).expect("an object")).expect("a run")
        };
        let runs = [
            run(
                RunKind::StageOneRun,
                "coco-6k",
                json!({"phase": "Training", "progress": "41%", "items": "2480/5998", "loss": "0.610", "margin": "0.080", "eta": "85m"}),
            ),
            run(RunKind::StageTwoRun, "coco-6k-llava", json!({"phase": "StageOneNotSucceeded"})),
        ];
        let now = Time("2026-01-01T03:00:00Z".parse().expect("a time"));
        insta::assert_snapshot!(table(&runs, false, &now).join("\n"));
        let wide = table(&runs[..1], true, &now);
        assert!(wide[0].trim_start().starts_with("NAMESPACE") && wide[1].contains("research"), "{wide:?}");
    }
}
