//! The operator's Prometheus metrics.

use std::path::PathBuf;

use anyhow::Result;
use stic_operator::metrics::Metrics;

use crate::markdown::{self, code};

pub(crate) fn table() -> Result<String> {
    let rows = Metrics::new()?.descriptions().into_iter().map(|metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| code(label)).collect();
        [code(&metric.name), metric.kind.to_owned(), labels.join(", "), metric.help]
    });
    Ok(markdown::table(["metric", "type", "labels", "meaning"], rows))
}

pub(crate) fn page() -> Result<(PathBuf, String)> {
    let text = format!(
        "{}# Metrics of the operator\n\nThe operator serves them at `/metrics`. No label holds the name of a run, so the number of series is \
         bounded. On Linux, the usual metrics of a process are there too, such as \
         `process_resident_memory_bytes`.\n\n{}",
        markdown::DO_NOT_EDIT,
        table()?
    );
    Ok(("docs/reference/metrics.md".into(), text))
}
