//! The first pass over the files.

use std::collections::{HashMap, hash_map};

use super::entry::{Entry, Summary};
use super::record::{Made, record, row_at};
use crate::benchmarks::Benchmark;
use crate::error::Error;
use crate::published::{FoundForm, ImageCell, Images, Record, Row, RowAt, RowFile};

/// The first pass.
pub(super) struct Index<'a, 'b, B> {
    found: &'a FoundForm,
    benchmark: &'b B,
    pub(super) images: Images<'a>,
    /// In no particular order, without positions.
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<(RowAt, Error)>,
    /// Where each id was first.
    ids: HashMap<String, RowAt>,
    /// Rows that refer to a later row.
    deferred: Vec<RowAt>,
    pub(super) summary: Summary,
}

impl<'a, 'b, B: Benchmark> Index<'a, 'b, B> {
    /// Reads all files of a form.
    pub(super) fn of(found: &'a FoundForm, benchmark: &'b B) -> Self {
        let mut index = Self {
            found,
            benchmark,
            images: Images::new(found),
            entries: Vec::new(),
            problems: Vec::new(),
            ids: HashMap::new(),
            deferred: Vec::new(),
            summary: Summary::default(),
        };
        index.read_files();
        index.read_deferred();
        index
    }

    fn read_files(&mut self) {
        for file in 0..self.found.rows.len() {
            let mut at = RowAt { file, number: 0, offset: 0 };
            let rows = match self.found.open(file) {
                Ok(rows) => rows,
                Err(error) => {
                    self.problems.push((at, error));
                    continue;
                }
            };
            for row in rows {
                match row {
                    Ok(row) => {
                        self.summary.rows += 1;
                        at = RowAt { file, number: row.number, offset: row.offset };
                        self.add(at, row, true);
                    }
                    Err(error) => {
                        self.summary.rows += usize::from(matches!(error, Error::Row { .. }));
                        at.number += 1;
                        self.problems.push((at, error));
                    }
                }
            }
        }
    }

    /// Reads the rows again that refer to later rows, which are known now.
    fn read_deferred(&mut self) {
        let mut open: Option<(usize, RowFile)> = None;
        for at in std::mem::take(&mut self.deferred) {
            match row_at(self.found, &mut open, at) {
                Ok(row) => self.add(at, row, false),
                Err(error) => self.problems.push((at, error)),
            }
        }
    }

    fn add(&mut self, at: RowAt, row: Row, may_defer: bool) {
        if matches!(row.image, ImageCell::Base64(_))
            && let Some(index) = row.fields.get("index").and_then(|index| index.as_str())
        {
            self.images.add_owner(index.to_owned(), at);
        }
        let Made { record, problem, deferred } = record::<B>(&mut self.images, self.found, at, row);
        if deferred && may_defer {
            self.deferred.push(at);
            return;
        }
        let sample = match self.benchmark.sample(self.found.form.kind, &record) {
            Ok(Some(sample)) => sample,
            Ok(None) => {
                self.summary.other_splits += 1;
                return;
            }
            Err(error) => {
                self.problems.push((at, error));
                return;
            }
        };
        let Record { place, image, .. } = record;
        let image = match (problem, image) {
            (Some(problem), _) => Err(problem),
            (None, image) => image.map(|image| self.images.digest(&image)).transpose(),
        };
        let error = |message| Error::Row { place, message };
        match (image, self.ids.entry(sample.id.clone())) {
            (Err(problem), _) => self.problems.push((at, error(problem))),
            (Ok(_), hash_map::Entry::Occupied(first)) => {
                let message = format!(
                    "the question {:?} is also in {}, row {}; remove one of the two rows",
                    sample.id,
                    self.found.name(first.get().file),
                    first.get().number
                );
                self.problems.push((at, error(message)));
            }
            (Ok(image), hash_map::Entry::Vacant(vacant)) => {
                vacant.insert(at);
                let unit = B::unit(&sample);
                self.entries.push(Entry { id: sample.id, unit, image, position: 0, at });
            }
        }
    }
}
