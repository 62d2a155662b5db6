//! `get`: a table of all runs, or one run as a tree.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use stic_operator::status::display;

use super::{Cluster, Run, tree};
use crate::args::{Format, GetArgs};
use crate::error::{Failure, Result};
use crate::say::{self, tell};

pub(super) async fn get(args: &GetArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    let now = Time(Timestamp::now());
    let Some((kind, name)) = &args.run else {
        let runs = cluster.list(args.all_namespaces).await?;
        return match args.output {
            Format::Json => {
                let items: Vec<_> = runs.iter().map(|run| &run.object).collect();
                print_json(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
            }
            Format::Table if runs.is_empty() => {
                // As kubectl: nothing is no mistake, and no output for programs.
                let place = if args.all_namespaces {
                    "".into()
                } else {
                    format!(" in namespace {}", cluster.namespace)
                };
                tell(format_args!("No runs found{place}."));
                Ok(())
            }
            Format::Table => print_lines(&table(&runs, args.all_namespaces, &now)),
        };
    };
    let run = cluster.run(kind, name).await?;
    let mut children = cluster.children(&run).await?;
    match args.output {
        Format::Table => print_lines(&tree::draw(&run, &children, &now)),
        Format::Json => {
            let mut pods: Vec<Value> = Vec::new();
            let mut jobs = Vec::new();
            for (job, of_job) in &mut children.jobs {
                job.metadata.managed_fields = None;
                jobs.push(serde_json::to_value::<&Job>(job).map_err(Failure::bug)?);
                for pod in of_job {
                    pod.metadata.managed_fields = None;
                    pods.push(serde_json::to_value::<&Pod>(pod).map_err(Failure::bug)?);
                }
            }
            print_json(&json!({"run": run.object, "jobs": jobs, "pods": pods}))
        }
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    say::print(serde_json::to_string_pretty(value).map_err(Failure::bug)?)
}

fn print_lines(lines: &[String]) -> Result<()> {
    lines.iter().try_for_each(say::print)
}

/// The columns of `kubectl get`, both kinds in one table.
fn table(runs: &[Run], namespaces: bool, now: &Time) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let namespace = namespaces.then_some("NAMESPACE");
    let columns = ["NAME", "PHASE", "PROGRESS", "ITEMS", "LOSS", "MARGIN", "ETA", "AGE"];
    table.set_header(namespace.into_iter().chain(columns));
    for run in runs {
        let shown = run.status.display.clone().unwrap_or_default();
        let metadata = &run.object.metadata;
        let age = metadata.creation_timestamp.as_ref().map(|since| elapsed(since, now));
        let cells = [shown.phase, shown.progress, shown.items, shown.loss, shown.margin, shown.eta, age];
        let namespace = namespaces.then(|| metadata.namespace.clone().unwrap_or_default());
        let cells = cells.into_iter().map(Option::unwrap_or_default);
        table.add_row(namespace.into_iter().chain([run.title()]).chain(cells));
    }
    // As kubectl's: the first column begins where the line does.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect()
}

/// The time from one moment to another, as kubectl writes it.
pub(super) fn elapsed(from: &Time, to: &Time) -> String {
    display::duration(u64::try_from(to.0.duration_since(from.0).as_secs()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_runs_stand_in_one_table() {
        let run = |kind: &'static str, name: &str, display: Value| {
            let object = json!({
                "apiVersion": "stic.dev/v1alpha1", "kind": kind, "spec": {},
                "metadata": {"name": name, "namespace": "research", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"display": display},
            });
            Run::read(kind, serde_json::from_value(object).expect("an object")).expect("a run")
        };
        let runs = [
            run(
                "StageOneRun",
                "coco-6k",
                json!({"phase": "Training", "progress": "41%", "items": "2480/5998", "loss": "0.610", "margin": "0.080", "eta": "85m"}),
            ),
            run("StageTwoRun", "coco-6k-llava", json!({"phase": "StageOneNotSucceeded"})),
        ];
        let now = Time("2026-01-01T03:00:00Z".parse().expect("a time"));
        insta::assert_snapshot!(table(&runs, false, &now).join("\n"));
        let wide = table(&runs[..1], true, &now);
        assert!(wide[0].trim_start().starts_with("NAMESPACE") && wide[1].contains("research"), "{wide:?}");
    }
}
