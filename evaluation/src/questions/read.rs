//! The second pass over the files.

use std::collections::HashSet;
use std::vec;

use stic_contract::Digest;

use super::entry::{Entry, Summary, number, select};
use super::index::Index;
use super::record::{Made, record, row_at};
use crate::benchmarks::{Benchmark, Options, Sample};
use crate::error::{Error, Result};
use crate::published::{FoundForm, Images, Record, RowAt, RowFile};

/// An image file's bytes, and what identifies them: images are the same if their files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

/// A question with its image.
#[derive(Debug, Clone, PartialEq)]
pub struct Question<I> {
    /// The position of the question among all that were selected, in the natural order of their ids.
    pub position: usize,
    pub sample: Sample<I>,
    pub image: Option<LoadedImage>,
    /// Its file and row, for messages.
    pub place: String,
}

/// The selected questions in the order of the files, and in place of a row that cannot be used the error.
pub struct Questions<'a, B> {
    benchmark: B,
    images: Images<'a>,
    found: &'a FoundForm,
    summary: Summary,
    /// In the order of the files.
    entries: vec::IntoIter<Entry>,
    problems: vec::IntoIter<(RowAt, Error)>,
    file: Option<(usize, RowFile)>,
}

/// Reads the questions of a form.
///
/// Ids alone decide what `limit` selects: units (see [`Benchmark::unit`]) by the smallest SHA-256 of
/// `stic-evaluation-subset-1`, a newline and the unit, as long as the number of questions does not exceed the limit. So
/// every form gives the same subset, and a smaller subset is part of every larger one. A first unit that exceeds the limit
/// alone is selected nevertheless.
///
/// # Errors
/// Those of [`Benchmark::open`]. Everything that is wrong with rows and images comes out of the iterator.
pub fn read<B: Benchmark>(
    found: &FoundForm,
    options: Options,
    limit: Option<usize>,
) -> Result<Questions<'_, B>> {
    let benchmark = B::open(found, options)?;
    let Index { images, mut entries, mut problems, mut summary, .. } = Index::of(found, &benchmark);
    problems.sort_by_key(|(at, _)| *at);
    entries.sort_by_key(|entry| entry.at);
    summary.questions = entries.len();
    summary.problems = problems.len();
    if let Some(limit) = limit {
        select(&mut entries, limit);
    }
    summary.selected = entries.len();
    summary.images = entries.iter().filter_map(|entry| entry.image.as_ref()).collect::<HashSet<_>>().len();
    summary.units = entries.iter().map(|entry| entry.unit.as_str()).collect::<HashSet<_>>().len();
    summary.clusters = entries.iter().map(Entry::cluster).collect::<HashSet<_>>().len();
    number(&mut entries);
    Ok(Questions {
        benchmark,
        images,
        found,
        summary,
        entries: entries.into_iter(),
        problems: problems.into_iter(),
        file: None,
    })
}

impl<B: Benchmark> Questions<'_, B> {
    pub fn benchmark(&self) -> &B {
        &self.benchmark
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// What will be yielded, in the order of the files.
    pub fn entries(&self) -> &[Entry] {
        self.entries.as_slice()
    }

    /// Leaves out questions, for example those that were answered before. Their rows are not read again.
    pub fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        let mut entries: Vec<Entry> = std::mem::take(&mut self.entries).collect();
        entries.retain(keep);
        self.entries = entries.into_iter();
    }

    fn question(&mut self, entry: &Entry) -> Result<Question<B::Item>> {
        let row = row_at(self.found, &mut self.file, entry.at)?;
        let Made { record, problem, .. } = record::<B>(&mut self.images, self.found, entry.at, row);
        let sample = self.benchmark.sample(self.found.form.kind, &record)?;
        let Record { place, image, .. } = record;
        let error = |message| Error::Row { place: place.clone(), message };
        if let Some(problem) = problem {
            return Err(error(problem));
        }
        let Some(sample) = sample.filter(|sample| sample.id == entry.id) else {
            let message = format!(
                "the row was question {:?} when the file was first read; leave the files alone during a run",
                entry.id
            );
            return Err(error(message));
        };
        let image = match (image, &entry.image) {
            (Some(image), Some(digest)) => {
                let bytes = self.images.bytes(image).map_err(error)?;
                Some(LoadedImage { bytes, digest: digest.clone() })
            }
            _ => None,
        };
        Ok(Question { position: entry.position, sample, image, place })
    }
}

impl<B: Benchmark> Iterator for Questions<'_, B> {
    type Item = Result<Question<B::Item>>;

    fn next(&mut self) -> Option<Self::Item> {
        let problem_is_next = match (self.problems.as_slice(), self.entries.as_slice()) {
            ([(problem, _), ..], [entry, ..]) => *problem <= entry.at,
            (problems, _) => !problems.is_empty(),
        };
        if problem_is_next {
            return self.problems.next().map(|(_, error)| Err(error));
        }
        let entry = self.entries.next()?;
        Some(self.question(&entry))
    }
}
