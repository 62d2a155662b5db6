//! The files that `prepare` writes while it checks: items, and what was skipped.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;

use super::super::items::Item;
use super::listing::ListedItem;
use crate::error::{Error, Result};
use crate::io::journal;

/// A line of `skipped.jsonl`.
#[derive(Debug, Serialize)]
struct Skipped<'a> {
    id: &'a str,
    /// Empty where the row is malformed.
    image: &'a str,
    /// The name of the file that lists it, if one does, and the line in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    reason: String,
}

/// What became of the listed items.
#[derive(Debug, Default)]
pub(super) struct CheckSummary {
    pub(super) items: u64,
    pub(super) skipped: u64,
    /// Of the skipped ones, those that are too long.
    pub(super) too_long: u64,
    /// Usable items that the training may cut off.
    pub(super) truncated: u64,
    /// Why the first skipped item was skipped.
    first_reason: Option<String>,
    pub(super) most_image_tokens: usize,
    /// Tokens of the longest training example, without generated responses.
    pub(super) longest_example: usize,
}

/// An item that later steps can use.
#[derive(Debug, Clone)]
pub(super) struct UsableItem {
    pub(super) item: Item,
    pub(super) image_tokens: usize,
    /// Whether the training may cut it off.
    pub(super) truncated: bool,
    /// Tokens of the longest training example that is made of it.
    pub(super) tokens: usize,
}

/// Why an item cannot be used.
#[derive(Debug, Clone)]
pub(super) struct Unusable {
    pub(super) reason: String,
    pub(super) too_long: bool,
}

impl Unusable {
    pub(super) const fn unreadable(reason: String) -> Self {
        Self { reason, too_long: false }
    }
}

pub(super) type CheckedItem = Result<UsableItem, Unusable>;

/// Both files, written in the order of the listing.
pub(super) struct ItemFiles<'f> {
    items: (&'f Path, BufWriter<&'f mut File>),
    skipped: (&'f Path, BufWriter<&'f mut File>),
    summary: CheckSummary,
}

impl<'f> ItemFiles<'f> {
    pub(super) fn new(items: (&'f Path, &'f mut File), skipped: (&'f Path, &'f mut File)) -> Self {
        let buffered = |(path, file)| (path, BufWriter::new(file));
        Self { items: buffered(items), skipped: buffered(skipped), summary: CheckSummary::default() }
    }

    pub(super) fn add(&mut self, listed: &ListedItem, checked: CheckedItem) -> Result<()> {
        match checked {
            Ok(UsableItem { item, image_tokens, truncated, tokens }) => {
                self.summary.items += 1;
                self.summary.truncated += u64::from(truncated);
                self.summary.most_image_tokens = self.summary.most_image_tokens.max(image_tokens);
                self.summary.longest_example = self.summary.longest_example.max(tokens);
                journal::write_row(&mut self.items.1, self.items.0, &item)
            }
            Err(Unusable { reason, too_long }) => {
                self.summary.skipped += 1;
                self.summary.too_long += u64::from(too_long);
                self.summary.first_reason.get_or_insert_with(|| reason.clone());
                let place = listed.place.as_ref();
                let skipped = Skipped {
                    id: &listed.id,
                    image: &listed.image,
                    file: place.and_then(|place| place.path.file_name()).map(|name| name.to_string_lossy()),
                    line: place.map(|place| place.line),
                    reason,
                };
                journal::write_row(&mut self.skipped.1, self.skipped.0, &skipped)
            }
        }
    }

    /// Flushes both files.
    ///
    /// # Errors
    /// [`Error::Data`] if no item can be used.
    pub(super) fn finish(mut self, images: &Path) -> Result<CheckSummary> {
        for (path, out) in [&mut self.items, &mut self.skipped] {
            out.flush().map_err(Error::storage(*path))?;
        }
        if self.summary.items == 0 {
            return Err(Error::Data(format!(
                "{}: none of the {} items can be used (the first: {}); check the path and the files",
                images.display(),
                self.summary.skipped,
                self.summary.first_reason.unwrap_or_default()
            )));
        }
        Ok(self.summary)
    }
}
