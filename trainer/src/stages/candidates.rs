//! What a run could work on, before an image is opened: listed, drawn and cut to the limit.

use std::collections::HashMap;
use std::path::PathBuf;

use stic_contract::config::{Instructions, ItemSource};
use stic_contract::recipe::{OnUnreadable, Order};

use super::items::{GivenPair, Message};
use crate::algorithm::draw::rank;
use crate::data::images_dir;
use crate::data::instructions;
use crate::error::{Error, Result};
use crate::io::volumes::Volumes;

/// An item whose image was not opened yet.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub id: String,
    pub image: String,
    pub conversation: Vec<Message>,
    pub pair: Option<GivenPair>,
    /// The file and line that names it, where there is one.
    pub place: Option<String>,
}

impl Candidate {
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

/// What was listed.
#[derive(Debug)]
pub(super) struct Candidates {
    pub rows: Vec<Candidate>,
    pub images: PathBuf,
    pub on_unreadable: OnUnreadable,
}

/// Lists what `source` names.
pub(super) fn list(source: &ItemSource, seed: u64, volumes: &Volumes) -> Result<Candidates> {
    match source {
        ItemSource::Images { location, list_file, limit, on_unreadable } => {
            let images = volumes.resolve(location)?;
            let paths: Vec<(Option<String>, String)> = match list_file {
                Some(file) => {
                    let list = volumes.resolve(&location.join(file))?;
                    let place = |line| Some(format!("{}:{line}", list.display()));
                    images_dir::read_list(&list)?
                        .into_iter()
                        .map(|(line, path)| (place(line), path))
                        .collect()
                }
                None => images_dir::walk(&images)?.into_iter().map(|path| (None, path)).collect(),
            };
            let rows = paths
                .into_iter()
                .map(|(place, path)| Candidate {
                    id: path.clone(),
                    image: path,
                    conversation: Vec::new(),
                    pair: None,
                    place,
                })
                .collect();
            Ok(Candidates { rows: draw(rows, *limit, seed), images, on_unreadable: *on_unreadable })
        }
        ItemSource::Instructions(source) => list_instructions(source, seed, volumes),
        ItemSource::Pairs { location, file, images, limit, on_unreadable } => {
            let path = volumes.resolve(&location.join(file))?;
            let rows = instructions::read_pairs(&path)?
                .into_iter()
                .map(|pair| Candidate {
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
                .collect();
            let images = volumes.resolve(images)?;
            Ok(Candidates { rows: draw(rows, *limit, seed), images, on_unreadable: *on_unreadable })
        }
    }
}

fn list_instructions(source: &Instructions, seed: u64, volumes: &Volumes) -> Result<Candidates> {
    let path = volumes.resolve(&source.location.join(&source.file))?;
    let all = instructions::read(&path)?;
    let count = all.len();
    let rows: Vec<Candidate> = all
        .into_iter()
        .filter_map(|row| {
            Some(Candidate {
                image: row.image?,
                id: row.id,
                conversation: row.turns.into_iter().map(Message::from).collect(),
                pair: None,
                place: Some(format!("{}:{}", path.display(), row.line)),
            })
        })
        .collect();
    if rows.is_empty() {
        return Err(Error::Data(format!(
            "{}: none of its {count} items has an image; use an instruction file whose items have an image field",
            path.display()
        )));
    }
    let rows = match source.order {
        Order::Seeded => draw(rows, source.limit, seed),
        Order::FirstN => rows.into_iter().take(most(source.limit)).collect(),
    };
    Ok(Candidates { rows, images: volumes.resolve(&source.images)?, on_unreadable: source.on_unreadable })
}

fn most(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Those of the smallest hash(seed, id), so that a larger limit keeps all that a smaller one kept.
fn draw(mut rows: Vec<Candidate>, limit: Option<u64>, seed: u64) -> Vec<Candidate> {
    if rows.len() > most(limit) {
        let ranks: HashMap<String, [u8; 32]> =
            rows.iter().map(|r| (r.id.clone(), rank(seed, &r.id))).collect();
        rows.sort_by(|a, b| ranks[&a.id].cmp(&ranks[&b.id]));
        rows.truncate(most(limit));
    }
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_limit_keeps_a_part_of_a_larger_one() {
        let rows: Vec<Candidate> = (0..200)
            .map(|i| Candidate {
                id: format!("{i}.png"),
                image: format!("{i}.png"),
                conversation: Vec::new(),
                pair: None,
                place: None,
            })
            .collect();
        let ids = |limit, seed| -> Vec<String> {
            draw(rows.clone(), Some(limit), seed).into_iter().map(|r| r.id).collect()
        };
        let (small, large) = (ids(60, 3), ids(120, 3));
        assert_eq!((small.len(), large.len()), (60, 120));
        assert!(small.iter().all(|id| large.contains(id)));
        assert_ne!(small, ids(60, 4));
        assert_eq!(ids(1000, 3).len(), 200);
    }
}
