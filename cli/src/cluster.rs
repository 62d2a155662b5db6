//! The commands that work with runs on a cluster. They read runs, Jobs, pods and logs, and write three
//! fields: `spec.suspend`, `spec.rerun` and `spec.retry`.

mod api_error;
mod client;
mod get;
mod lifecycle;
mod logs;
mod owned_jobs;
mod proxy;
mod retry;
mod run;
mod tree;

use std::future::Future;

use kube::api::DynamicObject;
use serde_json::Value;
use stic_crds::RunStatus;

use self::client::Cluster;
use self::run::Run;
use crate::args::{Connection, GetArgs, LogsArgs, RerunArgs, RetryArgs, SuspendArgs};
use crate::error::{Failure, Result};
use crate::run_name::RunName;

/// The runs of a namespace, for a report.
pub(crate) struct Listed {
    pub namespace: String,
    pub runs: Vec<ListedRun>,
}

pub(crate) struct ListedRun {
    pub name: RunName,
    /// The fields beside `metadata`.
    pub object: Value,
    pub status: RunStatus,
}

pub(crate) fn list(connection: &Connection) -> Result<Listed> {
    block_on(async {
        let cluster = Cluster::connect(connection).await?;
        let runs = cluster.list_runs(false).await?.into_iter().map(|run| {
            let Run { name, uid: _, object: DynamicObject { data, .. }, status } = run;
            ListedRun { name, object: data, status }
        });
        Ok(Listed { namespace: cluster.namespace, runs: runs.collect() })
    })
}

pub(crate) fn get(args: &GetArgs) -> Result<()> {
    block_on(get::get(args))
}

pub(crate) fn logs(args: &LogsArgs) -> Result<()> {
    block_on(logs::logs(args))
}

pub(crate) fn set_suspended(args: &SuspendArgs, suspended: bool) -> Result<()> {
    block_on(lifecycle::set_suspended(args, suspended))
}

pub(crate) fn rerun(args: &RerunArgs) -> Result<()> {
    block_on(lifecycle::rerun(args))
}

pub(crate) fn retry(args: &RetryArgs) -> Result<()> {
    block_on(lifecycle::retry(args))
}

fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::bug)?;
    runtime.block_on(command)
}
