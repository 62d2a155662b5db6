//! Which rows of a file a run uses, and under which ids, decided before any row is checked.
//!
//! Only ids and positions are sorted, on disk; the rows that are used are read from the file again.

use std::path::{Path, PathBuf};

use stic_contract::recipe::Order;

use crate::algorithm::draw::rank;
use crate::error::Result;
use crate::external_sort::{ExternalSorter, Record, Sorted};

/// What becomes of rows with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Later ones get the suffix `#2`, `#3`, and so on, in the order of the file.
    Renamed,
    /// Only the first is used.
    Dropped,
}

/// Collects candidates in the order of the file.
pub(super) struct Candidates {
    scratch: PathBuf,
    /// The key that must be unique, with position and id.
    rows: ExternalSorter,
}

/// The rows that are used, by position.
pub(super) struct Selection {
    rows: std::iter::Peekable<Box<dyn Iterator<Item = Result<Record>>>>,
    /// How many there are.
    pub(super) count: u64,
    /// Rows whose id an earlier row has too.
    pub(super) repeated: u64,
}

fn position_and_id(position: u64, id: &[u8]) -> Vec<u8> {
    [&position.to_be_bytes(), id].concat()
}

/// The position and the id in `value`.
fn split(value: &[u8]) -> ([u8; 8], &[u8]) {
    value.split_first_chunk().map_or(([0; 8], value), |(position, id)| (*position, id))
}

impl Candidates {
    pub(super) fn new(scratch: &Path) -> Self {
        Self { scratch: scratch.to_owned(), rows: ExternalSorter::new(scratch) }
    }

    pub(super) const fn count(&self) -> u64 {
        self.rows.count()
    }

    /// Adds the row at `position`. Rows with the same `key` repeat each other.
    pub(super) fn add(&mut self, position: u64, key: &[u8], id: &str) -> Result<()> {
        self.rows.push(key.to_owned(), position_and_id(position, id.as_bytes()))
    }

    /// Makes ids unique and keeps at most `limit` rows: with [`Order::Seeded`] those with the smallest hash(seed, id), so
    /// that a larger limit keeps every row that a smaller one keeps.
    pub(super) fn select(
        self,
        repeats: Repeats,
        limit: Option<u64>,
        order: Order,
        seed: u64,
    ) -> Result<Selection> {
        let scratch = self.scratch.clone();
        let (rows, repeated) = self.unique(repeats)?;
        let mut ranked = ExternalSorter::new(&scratch);
        for row in rows.sorted()? {
            let (_, value) = row?;
            let (position, id) = split(&value);
            let key = match (limit, order) {
                (Some(_), Order::Seeded) => rank(seed, &String::from_utf8_lossy(id)).to_vec(),
                (Some(_), Order::FirstN) | (None, _) => position.to_vec(),
            };
            ranked.push(key, value)?;
        }
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut selected = ExternalSorter::new(&scratch);
        for row in ranked.sorted()?.take(limit) {
            let (_, value) = row?;
            let (position, id) = split(&value);
            selected.push(position.to_vec(), id.to_owned())?;
        }
        let count = selected.count();
        let rows: Box<dyn Iterator<Item = Result<Record>>> = Box::new(selected.sorted()?);
        Ok(Selection { rows: rows.peekable(), count, repeated })
    }

    /// Each row's position and unique id, and the number of rows that repeat another.
    fn unique(self, repeats: Repeats) -> Result<(ExternalSorter, u64)> {
        let Self { scratch, rows } = self;
        let mut all_repeats = None;
        let mut sorted = rows.sorted()?;
        loop {
            let (rows, renamed) = without_repeats(&scratch, sorted, repeats)?;
            let repeated = *all_repeats.get_or_insert(renamed);
            // A new id may be one that another row has from the start.
            if renamed == 0 || repeats == Repeats::Dropped {
                return Ok((rows, repeated));
            }
            sorted = rows.sorted()?;
        }
    }
}

fn without_repeats(scratch: &Path, sorted: Sorted, repeats: Repeats) -> Result<(ExternalSorter, u64)> {
    let mut unique = ExternalSorter::new(scratch);
    let (mut repeated, mut same) = (0, 1_u64);
    let mut previous: Option<Vec<u8>> = None;
    for row in sorted {
        let (key, value) = row?;
        if previous.as_ref() != Some(&key) {
            same = 1;
            unique.push(key.clone(), value)?;
            previous = Some(key);
            continue;
        }
        repeated += 1;
        same += 1;
        if repeats == Repeats::Renamed {
            let (position, id) = split(&value);
            let id = [id, format!("#{same}").as_bytes()].concat();
            let value = position_and_id(u64::from_be_bytes(position), &id);
            unique.push(id, value)?;
        }
    }
    Ok((unique, repeated))
}

impl Selection {
    /// The id of the row at `position`, if it is used. Positions must ascend.
    pub(super) fn id_at(&mut self, position: u64) -> Result<Option<String>> {
        let wanted = |row: &Result<Record>| match row {
            Ok((key, _)) => *key == position.to_be_bytes(),
            Err(_) => true,
        };
        match self.rows.next_if(wanted) {
            None => Ok(None),
            Some(row) => Ok(Some(String::from_utf8_lossy(&row?.1).into_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position and id of each row that is used.
    fn selected(
        ids: &[&str],
        repeats: Repeats,
        limit: Option<u64>,
        order: Order,
        seed: u64,
    ) -> (Vec<(u64, String)>, u64) {
        let scratch = tempfile::tempdir().unwrap();
        let mut candidates = Candidates::new(scratch.path());
        for (position, id) in (0..).zip(ids) {
            candidates.add(position, id.as_bytes(), id).unwrap();
        }
        let mut selection = candidates.select(repeats, limit, order, seed).unwrap();
        let mut found = Vec::new();
        for position in 0..ids.len() as u64 {
            found.extend(selection.id_at(position).unwrap().map(|id| (position, id)));
        }
        assert_eq!(found.len() as u64, selection.count);
        (found, selection.repeated)
    }

    #[test]
    fn repeated_ids_become_unique_and_the_first_keeps_its_own() {
        let ids = ["b", "a", "b", "b#2", "b"];
        let (found, repeated) = selected(&ids, Repeats::Renamed, None, Order::Seeded, 0);
        let names: Vec<&str> = found.iter().map(|(_, id)| id.as_str()).collect();
        // The suffix is already another row's id, which gets one in turn.
        assert_eq!((names, repeated), (vec!["b", "a", "b#2", "b#2#2", "b#3"], 2));
        let (found, repeated) = selected(&ids, Repeats::Dropped, None, Order::Seeded, 0);
        let kept: Vec<u64> = found.iter().map(|(position, _)| *position).collect();
        assert_eq!((kept, repeated), (vec![0, 1, 3], 2));
    }

    #[test]
    fn a_smaller_limit_keeps_a_subset_of_a_larger_one() {
        let ids: Vec<String> = (0..200).map(|i| format!("{}.png", i * 7 % 150)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let drawn = |limit, seed| selected(&ids, Repeats::Renamed, limit, Order::Seeded, seed).0;
        let (small, large) = (drawn(Some(60), 3), drawn(Some(120), 3));
        assert_eq!((small.len(), large.len()), (60, 120));
        assert!(small.iter().all(|row| large.contains(row)));
        assert_ne!(small, drawn(Some(60), 4));
        assert_eq!((drawn(Some(1000), 3).len(), drawn(None, 3).len()), (200, 200));
    }

    #[test]
    fn first_n_keeps_the_rows_that_come_first() {
        let (found, _) = selected(&["c", "a", "c", "b"], Repeats::Renamed, Some(3), Order::FirstN, 3);
        assert_eq!(found, [(0, "c".into()), (1, "a".into()), (2, "c#2".into())]);
    }
}
