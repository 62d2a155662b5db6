//! Finds names that stand twice in a file of any length.

use std::path::Path;

use crate::Result;
use crate::io::sorter::{Record, Sorter};

/// Names and the lines they stand on, sorted on the disk.
pub(crate) struct Names {
    places: Sorter,
}

/// A name that stands twice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Repeated {
    pub(crate) first: usize,
    pub(crate) line: usize,
    /// As it is written there.
    pub(crate) written: String,
}

impl Names {
    /// With files of its own in `scratch`.
    pub(crate) fn new(scratch: &Path) -> Self {
        Self { places: Sorter::new(scratch) }
    }

    pub(crate) const fn count(&self) -> u64 {
        self.places.count()
    }

    /// Takes `name`, which stands on `line` as `written`.
    pub(crate) fn add(&mut self, name: &[u8], line: usize, written: &str) -> Result<()> {
        let place = [&(line as u64).to_be_bytes(), written.as_bytes()].concat();
        self.places.push(name.to_owned(), place)
    }

    /// The first in the order of names that stands twice.
    pub(crate) fn repeated(self) -> Result<Option<Repeated>> {
        let mut before: Option<Record> = None;
        for record in self.places.sorted()? {
            let (name, place) = record?;
            if let Some((_, first)) = before.filter(|(other, _)| *other == name) {
                let line = |place: &[u8]| place.first_chunk().map_or(0, |line| u64::from_be_bytes(*line));
                let written = place.get(size_of::<u64>()..).unwrap_or_default();
                return Ok(Some(Repeated {
                    first: line(&first) as usize,
                    line: line(&place) as usize,
                    written: String::from_utf8_lossy(written).into_owned(),
                }));
            }
            before = Some((name, place));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_their_order() {
        let scratch = tempfile::tempdir().unwrap();
        let mut names = Names::new(scratch.path());
        for (line, written) in [(300, "b"), (9, "./b"), (2, "a"), (70_000, "c")] {
            names.add(written.trim_start_matches("./").as_bytes(), line, written).unwrap();
        }
        let found = names.repeated().unwrap();
        assert_eq!(found, Some(Repeated { first: 9, line: 300, written: "b".into() }));
        let mut names = Names::new(scratch.path());
        names.add(b"", 1, "").unwrap();
        assert_eq!((names.count(), names.repeated().unwrap()), (1, None));
    }
}
