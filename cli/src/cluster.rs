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

use crate::args::{GetArgs, LogsArgs, RerunArgs, RetryArgs, SuspendArgs};
use crate::error::{Failure, Result};

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

fn block_on(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::bug)?;
    runtime.block_on(command)
}
