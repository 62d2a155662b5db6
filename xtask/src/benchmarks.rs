//! The benchmarks and the forms in which they are read.

use stic_evaluation::registry::BENCHMARKS;

use crate::markdown;

pub(crate) fn table() -> String {
    let rows = BENCHMARKS.iter().map(|benchmark| {
        let forms: Vec<_> = benchmark.forms.iter().map(|form| form.title).collect();
        let judge = if benchmark.judged { "needed" } else { "" };
        [format!("`{}`", benchmark.name), forms.join("; "), judge.to_owned()]
    });
    markdown::table(["benchmark", "published forms that are read", "judge"], rows)
}
