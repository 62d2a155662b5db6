//! The arguments of `report`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::cluster::Connection;
use crate::run_name::RunName;

/// Report the scores of evaluations next to the paper's, and the curves of trainings
///
/// With --work-dir, the report is of local runs, with everything that they wrote. Without it, the report is of the runs on a
/// cluster, with what their statuses say: headline scores, differences with their intervals, and the latest metrics. It
/// then says on which volume the rest is.
///
/// Without names, the report is of all EvaluationRuns and trainings. With names, it is of these and of the runs that
/// they refer to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl stic report --work-dir ./stic-work
  kubectl stic report ev/coco-6k --paper
  kubectl stic report --work-dir ./stic-work -o html > report.html")]
pub(crate) struct ReportArgs {
    /// Runs; KIND is stageonerun, stagetworun, evaluationrun, s1, s2 or ev [default: all runs of the namespace]
    #[arg(value_name = "KIND/NAME")]
    pub runs: Vec<RunName>,
    /// The work folder of local runs, whose namespace is `default` unless --namespace gives another [default: the runs on a
    /// cluster]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    pub work_dir: Option<PathBuf>,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    pub output: ReportFormat,
    /// Say for each gain in the paper whether the data can show it
    #[arg(long)]
    pub paper: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// How to print a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Tables for a terminal
    Text,
    /// Tables for a README or an issue
    Markdown,
    /// A row for each score, for programs and spreadsheets
    Csv,
    /// One page with figures, which needs no network
    Html,
}
