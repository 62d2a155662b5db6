//! Names of the objects a run is made of.

use serde_json::json;
use stic_contract::{Digest, RunIdentity};

use super::Attempt;

/// The name of an attempt's Job and ConfigMap: `<run>-<step>-<8 hex digits>`, at most 58 characters, so that the
/// index of a pod still fits a host name.
#[must_use]
pub fn attempt(run: &RunIdentity, attempt: Attempt) -> String {
    let key = json!([run.uid, attempt.step, run.rerun, attempt.number]);
    format!("{}-{}-{}", run.name, attempt.step, Digest::of_json(&key).short(8))
}

/// The claim that is made for a run's output.
#[must_use]
pub fn output_claim(run: &RunIdentity) -> String {
    format!("{}-output", run.name)
}

/// The name of a claim's volume in a pod, which must be a DNS label though a claim's name need not be.
#[must_use]
pub fn pod_volume(claim: &str) -> String {
    let plain =
        claim.len() <= 50 && claim.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain { format!("claim-{claim}") } else { format!("claim-{}", Digest::of(claim.as_bytes()).short(16)) }
}
