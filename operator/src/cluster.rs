//! What touches Kubernetes for all kinds: reading, writing, leading.

pub mod apply;
pub mod backoff;
pub mod changes;
pub mod children;
pub mod claims;
pub mod coalesce;
pub mod failpoint;
pub mod job_state;
pub mod lease;
pub mod objects;
pub mod pod_trouble;
pub mod progress;
pub mod results;
