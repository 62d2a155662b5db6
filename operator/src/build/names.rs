//! Names of the Kubernetes objects of a run.

use serde_json::json;
use stic_contract::{Digest, RunIdentity, StepName};

/// One launch of a step: each is a Job of its own, with one or more pods.
///
/// `status.steps[].attempts` counts something else: the pods that were started, including those that Kubernetes
/// restarted within one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchId {
    pub step: StepName,
    /// Counted from 1.
    pub number: u32,
}

/// The name of a launch's Job and ConfigMap: `<run>-<step>-<8 hex digits>`, at most 58 characters, so that the host name
/// of a pod still has room for its index.
#[must_use]
pub fn launch(run: &RunIdentity, LaunchId { step, number }: LaunchId) -> String {
    let key = json!([run.uid, step, run.rerun, number]);
    format!("{}-{step}-{}", run.name, Digest::of_json(&key).short(8))
}

/// The claim that is created for a run's output.
#[must_use]
pub fn output_claim(run: &RunIdentity) -> String {
    format!("{}-output", run.name)
}

/// The name of a claim's volume in a pod, which must be a DNS label, unlike the name of the claim.
#[must_use]
pub fn pod_volume(claim: &str) -> String {
    let plain =
        claim.len() <= 50 && claim.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain { format!("claim-{claim}") } else { format!("claim-{}", Digest::of(claim.as_bytes()).short(16)) }
}
