//! The build and the machine that an artifact was made with.

use std::fs;

use serde_json::{Value, json};

/// Identical bytes are promised only for equal values.
pub(super) fn build_and_machine() -> Value {
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "cpu": model,
    })
}
