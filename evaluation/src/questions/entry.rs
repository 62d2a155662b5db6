//! What is known of questions after the first pass.

use std::collections::{HashMap, HashSet};

use stic_contract::Digest;

use super::order::{natural, rank};
use crate::published::RowAt;

/// What is known of a question without reading it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    /// See [`crate::benchmarks::Benchmark::unit`].
    pub unit: String,
    /// What identifies its image, if it has one.
    pub image: Option<Digest>,
    /// The position of the question among all that were selected, in the natural order of their ids.
    pub position: usize,
    pub(super) at: RowAt,
}

impl Entry {
    /// What makes questions dependent: the digest of their image, or the id of one without image.
    #[must_use]
    pub fn cluster(&self) -> String {
        self.image.as_ref().map_or_else(|| self.id.clone(), Digest::to_string)
    }
}

/// What the first pass counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub rows: usize,
    /// Rows that are no question of this split.
    pub other_splits: usize,
    /// Questions in the files.
    pub questions: usize,
    /// Questions that the limit selected.
    pub selected: usize,
    /// Different images of the selected questions.
    pub images: usize,
    /// What is scored at once of the selected questions, see [`crate::benchmarks::Benchmark::unit`].
    pub units: usize,
    /// The images of the selected questions, and those questions that have none: see [`Entry::cluster`].
    pub clusters: usize,
    /// Rows, images and files that cannot be used.
    pub problems: usize,
}

/// Keeps the units with the smallest ranks.
pub(super) fn select(entries: &mut Vec<Entry>, limit: usize) {
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for entry in entries.iter() {
        *sizes.entry(&entry.unit).or_default() += 1;
    }
    let mut units: Vec<(Digest, &str, usize)> =
        sizes.into_iter().map(|(unit, size)| (rank(unit), unit, size)).collect();
    units.sort();
    let mut total = 0;
    let kept: HashSet<String> = units
        .into_iter()
        .take_while(|(_, _, size)| {
            let is_first = total == 0 && limit > 0;
            total += size;
            total <= limit || is_first
        })
        .map(|(_, unit, _)| unit.to_owned())
        .collect();
    entries.retain(|entry| kept.contains(&entry.unit));
}

/// Sets the positions.
pub(super) fn number(entries: &mut [Entry]) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    let id = |entry: &usize| entries.get(*entry).map_or("", |entry| &entry.id);
    order.sort_by(|a, b| natural(id(a), id(b)));
    for (position, entry) in order.into_iter().enumerate() {
        if let Some(entry) = entries.get_mut(entry) {
            entry.position = position;
        }
    }
}
