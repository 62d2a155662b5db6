//! What a run could work on, before an image is opened: listed, drawn and cut to the limit.
//!
//! A listing is on the disk and not in memory, however long it is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stic_contract::config::{Instructions, ItemSource};
use stic_contract::recipe::{OnUnreadable, Order};

use super::items::{GivenPair, Message};
use crate::algorithm::draw::rank;
use crate::data::images_dir;
use crate::data::instructions;
use crate::error::{Error, Result};
use crate::io::sorter::{Record, Sorted, Sorter};
use crate::io::volumes::Volumes;

/// An item whose image was not opened yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub id: String,
    pub image: String,
    pub conversation: Vec<Message>,
    pub pair: Option<GivenPair>,
    /// The file and line that names it, where there is one.
    pub place: Option<String>,
}

impl Candidate {
    fn image(path: String, place: Option<String>) -> Self {
        Self { id: path.clone(), image: path, conversation: Vec::new(), pair: None, place }
    }

    /// What names the item in messages: where it stands, or which image it is.
    pub(super) fn named(&self) -> String {
        match &self.place {
            Some(place) if self.id == self.image => place.clone(),
            Some(place) => format!("{place}: item {:?}", self.id),
            None => format!("item {:?}", self.id),
        }
    }

    /// Why its image cannot be read. The reason names the image's file.
    pub(super) fn unreadable(&self, reason: &str) -> String {
        match &self.place {
            Some(_) => format!("{}: {reason}", self.named()),
            None => reason.to_owned(),
        }
    }
}

/// What was listed, in the order of ids.
#[derive(Debug)]
pub(super) struct Candidates {
    rows: Sorted,
    /// How many there are.
    pub count: u64,
    /// The bytes of their ids, conversations and pairs, about as they will be written.
    pub bytes: u64,
    pub images: PathBuf,
    pub on_unreadable: OnUnreadable,
}

impl Iterator for Candidates {
    type Item = Result<Candidate>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.rows.next()?.and_then(|(_, row)| unpack(&row)))
    }
}

fn pack(candidate: &Candidate) -> Result<Vec<u8>> {
    serde_json::to_vec(candidate).map_err(|e| Error::Data(format!("item {:?}: {e}", candidate.id)))
}

fn unpack(bytes: &[u8]) -> Result<Candidate> {
    serde_json::from_slice(bytes).map_err(|e| Error::Data(format!("the listing of this run: {e}; run again")))
}

/// Lists what `source` names, with files of its own in `scratch`.
pub(super) fn list(source: &ItemSource, seed: u64, volumes: &Volumes, scratch: &Path) -> Result<Candidates> {
    match source {
        ItemSource::Images { location, list_file, limit, on_unreadable } => {
            let images = volumes.resolve(location)?;
            let mut listing = Listing::drawn(scratch, *limit, seed);
            match list_file {
                Some(file) => {
                    let list = volumes.resolve(&location.join(file))?;
                    images_dir::read_list(&list, scratch, |line, path| {
                        listing.add(&Candidate::image(path, Some(format!("{}:{line}", list.display()))))
                    })?;
                }
                None => images_dir::walk(&images, |path| listing.add(&Candidate::image(path, None)))?,
            }
            listing.finish(images, *on_unreadable)
        }
        ItemSource::Instructions(source) => list_instructions(source, seed, volumes, scratch),
        ItemSource::Pairs { location, file, images, limit, on_unreadable } => {
            let path = volumes.resolve(&location.join(file))?;
            let mut listing = Listing::drawn(scratch, *limit, seed);
            instructions::read_pairs(&path, scratch, |pair| {
                listing.add(&Candidate {
                    place: Some(format!("{}:{}", path.display(), pair.line)),
                    id: pair.id,
                    image: pair.image,
                    conversation: Vec::new(),
                    pair: Some(GivenPair {
                        prompt: pair.prompt,
                        chosen: pair.chosen,
                        rejected: pair.rejected,
                    }),
                })
            })?;
            listing.finish(volumes.resolve(images)?, *on_unreadable)
        }
    }
}

fn list_instructions(
    source: &Instructions,
    seed: u64,
    volumes: &Volumes,
    scratch: &Path,
) -> Result<Candidates> {
    let path = volumes.resolve(&source.location.join(&source.file))?;
    let mut listing = match source.order {
        Order::Seeded => Listing::drawn(scratch, source.limit, seed),
        Order::FirstN => Listing::first(scratch, source.limit),
    };
    let count = instructions::read(&path, scratch, |row| {
        let Some(image) = row.image else { return Ok(()) };
        listing.add(&Candidate {
            image,
            id: row.id,
            conversation: row.turns.into_iter().map(Message::from).collect(),
            pair: None,
            place: Some(format!("{}:{}", path.display(), row.line)),
        })
    })?;
    if listing.rows.count() == 0 {
        return Err(Error::Data(format!(
            "{}: none of its {count} items has an image; use an instruction file whose items have an image field",
            path.display()
        )));
    }
    listing.finish(volumes.resolve(&source.images)?, source.on_unreadable)
}

/// Candidates as they are listed, and which of them are kept: those of the smallest keys.
struct Listing<'a> {
    scratch: &'a Path,
    limit: Option<u64>,
    key: Key,
    rows: Sorter,
}

enum Key {
    /// All are kept.
    Id,
    /// hash(seed, id), so that a larger limit keeps all that a smaller one kept.
    Rank(u64),
    /// The place in the listing.
    Place,
}

impl<'a> Listing<'a> {
    fn of(scratch: &'a Path, limit: Option<u64>, key: Key) -> Self {
        let key = if limit.is_some() { key } else { Key::Id };
        Self { scratch, limit, key, rows: Sorter::new(scratch) }
    }

    fn drawn(scratch: &'a Path, limit: Option<u64>, seed: u64) -> Self {
        Self::of(scratch, limit, Key::Rank(seed))
    }

    fn first(scratch: &'a Path, limit: Option<u64>) -> Self {
        Self::of(scratch, limit, Key::Place)
    }

    fn add(&mut self, candidate: &Candidate) -> Result<()> {
        let key = match self.key {
            Key::Id => candidate.id.clone().into_bytes(),
            Key::Rank(seed) => rank(seed, &candidate.id).to_vec(),
            Key::Place => self.rows.count().to_be_bytes().to_vec(),
        };
        self.rows.push(key, pack(candidate)?)
    }

    fn finish(self, images: PathBuf, on_unreadable: OnUnreadable) -> Result<Candidates> {
        let mut rows = self.rows;
        if let Some(limit) = self.limit {
            let mut kept = Sorter::new(self.scratch);
            for record in rows.sorted()?.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
                let (_, row): Record = record?;
                kept.push(unpack(&row)?.id.into_bytes(), row)?;
            }
            rows = kept;
        }
        Ok(Candidates {
            count: rows.count(),
            bytes: rows.bytes(),
            rows: rows.sorted()?,
            images,
            on_unreadable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(listing: impl Fn(&Path) -> Listing<'_>) -> Vec<String> {
        let scratch = tempfile::tempdir().unwrap();
        let mut listing = listing(scratch.path());
        for i in 0..200 {
            listing.add(&Candidate::image(format!("{}.png", i * 7 % 200), None)).unwrap();
        }
        let listed = listing.finish(PathBuf::new(), OnUnreadable::Skip).unwrap();
        let count = listed.count;
        let ids: Vec<String> = listed.map(|row| row.unwrap().id).collect();
        assert!(ids.is_sorted() && ids.len() as u64 == count);
        ids
    }

    #[test]
    fn a_smaller_limit_keeps_a_part_of_a_larger_one() {
        let drawn = |limit, seed| ids(|scratch| Listing::drawn(scratch, Some(limit), seed));
        let (small, large) = (drawn(60, 3), drawn(120, 3));
        assert_eq!((small.len(), large.len()), (60, 120));
        assert!(small.iter().all(|id| large.contains(id)));
        assert_ne!(small, drawn(60, 4));
        assert_eq!(drawn(1000, 3).len(), 200);
        assert_eq!(ids(|scratch| Listing::drawn(scratch, None, 3)).len(), 200);
    }

    #[test]
    fn the_first_are_those_that_stand_first() {
        assert_eq!(ids(|scratch| Listing::first(scratch, Some(3))), ["0.png", "14.png", "7.png"]);
    }
}
