//! Text for tables: sizes, durations, digests, and columns of equal width.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stic_crds::status::ArtifactState;
use stic_operator::status::display;

/// A number of bytes in the largest unit that leaves at least 1.
pub(crate) fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

/// The time between two moments, as kubectl writes it.
pub(crate) fn elapsed(from: &Time, to: &Time) -> String {
    display::duration(u64::try_from(to.0.duration_since(from.0).as_secs()).unwrap_or_default())
}

/// The first twelve hexadecimal digits of a digest.
pub(crate) fn short_digest(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

pub(crate) const fn artifact_state(state: ArtifactState) -> &'static str {
    match state {
        ArtifactState::Created => "created",
        ArtifactState::Reused => "reused",
    }
}

/// One line per row, with each column as wide as its widest cell. Empty columns are left out.
pub(crate) fn align(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
            let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
            line.join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_use_the_largest_unit_that_leaves_at_least_one() {
        assert_eq!([size(0), size(1023), size(1536), size(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
