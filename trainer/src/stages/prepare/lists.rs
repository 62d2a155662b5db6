//! The files that `prepare` writes while it checks: items, and what was left out.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;

use super::super::candidates::Candidate;
use super::super::items::Item;
use crate::error::{Error, Result};
use crate::io::journal;

/// A line of `skipped.jsonl`.
#[derive(Debug, Serialize)]
struct Skipped<'a> {
    id: &'a str,
    image: &'a str,
    reason: String,
}

/// What was found of the candidates.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) items: u64,
    pub(super) skipped: u64,
    /// Why the first of those was.
    first_reason: Option<String>,
    pub(super) most_image_tokens: usize,
}

/// The two lists that are written while candidates are checked, in their order.
pub(super) struct Lists<'f> {
    items: (&'f Path, BufWriter<&'f mut File>),
    skipped: (&'f Path, BufWriter<&'f mut File>),
    found: Found,
}

impl<'f> Lists<'f> {
    pub(super) fn new(items: (&'f Path, &'f mut File), skipped: (&'f Path, &'f mut File)) -> Self {
        let buffered = |(path, file)| (path, BufWriter::new(file));
        Self { items: buffered(items), skipped: buffered(skipped), found: Found::default() }
    }

    /// Adds an item and its image tokens, or why its image cannot be read.
    pub(super) fn add(
        &mut self,
        candidate: &Candidate,
        outcome: Result<(Item, usize), String>,
    ) -> Result<()> {
        match outcome {
            Ok((item, image_tokens)) => {
                self.found.items += 1;
                self.found.most_image_tokens = self.found.most_image_tokens.max(image_tokens);
                journal::write_row(&mut self.items.1, self.items.0, &item)
            }
            Err(reason) => {
                self.found.skipped += 1;
                self.found.first_reason.get_or_insert_with(|| reason.clone());
                let (id, image) = (&candidate.id, &candidate.image);
                journal::write_row(&mut self.skipped.1, self.skipped.0, &Skipped { id, image, reason })
            }
        }
    }

    /// Writes out what is buffered; items there must be.
    pub(super) fn finish(mut self, images: &Path) -> Result<Found> {
        for (path, out) in [&mut self.items, &mut self.skipped] {
            out.flush().map_err(Error::storage(*path))?;
        }
        if self.found.items == 0 {
            return Err(Error::Data(format!(
                "{}: none of its {} images can be read (the first: {}); check the path and the files",
                images.display(),
                self.found.skipped,
                self.found.first_reason.unwrap_or_default()
            )));
        }
        Ok(self.found)
    }
}
