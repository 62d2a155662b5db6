#![no_main]
//! The documents that steps leave for the operator: progress, result and success marker.

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stic_contract::result::MAX_RESULT_BYTES;
use stic_contract::{Progress, StepResult, SuccessMarker};
use stic_fuzz as _;

fuzz_target!(|text: &str| {
    if let Some(progress) = read::<Progress>(text) {
        assert!(progress.percent() <= 100);
    }
    if let Some(result) = read::<StepResult>(text) {
        check_termination_message(&result);
    }
    read::<SuccessMarker>(text);
});

/// The document in `text`, which must be the same after it is written and read again.
fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(text: &str) -> Option<T> {
    let document: T = serde_json::from_str(text).ok()?;
    let written = serde_json::to_string(&document).expect("serializes");
    assert_eq!(serde_json::from_str::<T>(&written).expect("what was written is read"), document);
    Some(document)
}

/// What must be kept may be too long by itself; the message and the metrics give way.
fn check_termination_message(result: &StepResult) {
    let message = result.to_termination_message();
    let kept: StepResult = serde_json::from_str(&message).expect("a termination message is JSON");
    assert_eq!(
        (&kept.artifacts, &kept.shards, &kept.inputs),
        (&result.artifacts, &result.shards, &result.inputs)
    );
    let short = StepResult { message: None, metrics: Default::default(), ..result.clone() };
    let needed = serde_json::to_string(&short).expect("serializes").len();
    assert!(message.len() <= MAX_RESULT_BYTES.max(needed), "{} bytes", message.len());
}
