//! Access to Kubernetes, the same for all kinds of run: watches, writes, leader election.

pub mod api_writer;
pub mod backoff;
pub mod changes;
pub mod children;
pub mod claims;
pub mod coalesce;
pub mod job_state;
pub mod lease;
pub mod missing_pods;
pub mod namespaces;
pub mod objects;
pub mod pod_trouble;
pub mod progress;
pub mod progress_log;
pub mod references;
pub mod results;
pub mod shutdown;
pub mod status_cache;
pub mod trainer_exit;
mod unfinished_job;
pub mod workloads;
