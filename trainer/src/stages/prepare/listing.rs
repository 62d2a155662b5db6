//! The items that a source names: listed, drawn and cut to the limit before any image is opened.
//!
//! A listing of any length is on disk, not in memory. A row that the run does not use is not checked.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stic_contract::VolumePath;
use stic_contract::config::{DataRecipe, Instructions, ItemSource, Prepare};
use stic_contract::recipe::{OnUnreadable, Order};

use super::super::items::{GivenPair, Message};
use super::notes::{Note, Notes};
use super::selection::{Candidates, Repeats, Selection};
use crate::data::image_list::{ListFormat, plain};
use crate::data::instructions;
use crate::data::row_problem::RowProblem;
use crate::data::rows::{self, Row};
use crate::data::{images_dir, preferences};
use crate::error::{Error, Result};
use crate::external_sort::{ExternalSorter, Sorted};
use crate::io::volumes::{Volumes, contents};

/// An item whose image has not been opened yet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ListedItem {
    pub id: String,
    pub image: String,
    pub conversation: Vec<Message>,
    pub pair: Option<GivenPair>,
    /// Where it is named, if it is named in a file.
    pub place: Option<Place>,
    /// Why its row cannot be used; its image is not known then.
    pub problem: Option<String>,
}

/// A line of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub path: PathBuf,
    pub line: usize,
}

impl ListedItem {
    fn image(path: String) -> Self {
        Self { id: path.clone(), image: path, ..Self::default() }
    }

    /// Identifies the item in messages.
    pub(super) fn label(&self) -> String {
        match &self.place {
            Some(Place { path, line }) if self.id == self.image => format!("{}:{line}", path.display()),
            Some(Place { path, line }) => format!("{}:{line}: item {:?}", path.display(), self.id),
            None => format!("item {:?}", self.id),
        }
    }

    /// Why its row cannot be used; `reason` names the field.
    pub(super) fn malformed(&self, reason: &str) -> String {
        match &self.place {
            Some(Place { path, line }) => format!("{}:{line}: {reason}", path.display()),
            None => reason.to_owned(),
        }
    }

    /// Why its image cannot be read; `reason` names the image's file.
    pub(super) fn unreadable(&self, reason: &str) -> String {
        match &self.place {
            Some(_) => format!("{}: {reason}", self.label()),
            None => reason.to_owned(),
        }
    }
}

/// All listed items, in the order of ids.
#[derive(Debug)]
pub(super) struct Listing {
    items: Sorted,
    pub count: u64,
    /// About as many bytes as `items.jsonl` will have for ids, conversations and pairs.
    pub bytes: u64,
    pub images: PathBuf,
    pub policy: SkipPolicy,
    /// What was noticed about the rows as a whole.
    pub notes: Vec<String>,
}

/// What happens to items that cannot be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct SkipPolicy {
    pub on_unreadable: OnUnreadable,
    /// The largest share that may be skipped.
    pub max_share: Option<f64>,
}

impl Iterator for Listing {
    type Item = Result<ListedItem>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.items.next()?.and_then(|(_, row)| deserialize(&row)))
    }
}

fn deserialize(bytes: &[u8]) -> Result<ListedItem> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::Data(format!("the temporary listing of items is damaged: {e}; run the step again"))
    })
}

/// Lists what the source of `task` names, with temporary files in `scratch`.
pub(super) fn list(task: &Prepare, seed: u64, volumes: &Volumes, scratch: &Path) -> Result<Listing> {
    match &task.source {
        ItemSource::Images { location, list_file, limit, on_unreadable, max_skipped_share } => {
            let images = folder_of_images(volumes, location)?;
            let draw = Draw { limit: *limit, order: Order::Seeded, seed };
            let policy = SkipPolicy { on_unreadable: *on_unreadable, max_share: *max_skipped_share };
            let lister = Lister { scratch, draw, images, policy };
            match list_file {
                Some(file) => {
                    let path = data_file(volumes, &location.join(file), "spec.images.listFile")?;
                    lister.file(&ListedImages { format: ListFormat::of(&path)? }, &path)
                }
                None => lister.folder(),
            }
        }
        ItemSource::Instructions(Instructions {
            location,
            file,
            images,
            limit,
            order,
            on_unreadable,
            max_skipped_share,
        }) => {
            let field = match task.recipe {
                DataRecipe::Preferences(_) => "spec.preferences.instructions.file",
                DataRecipe::Descriptions(_) => "spec.instructions.file",
            };
            let path = data_file(volumes, &location.join(file), field)?;
            let images = folder_of_images(volumes, images)?;
            let draw = Draw { limit: *limit, order: *order, seed };
            let policy = SkipPolicy { on_unreadable: *on_unreadable, max_share: *max_skipped_share };
            Lister { scratch, draw, images, policy }.file(&Conversations, &path)
        }
        ItemSource::Pairs { location, file, images, limit, on_unreadable, max_skipped_share } => {
            let path = data_file(volumes, &location.join(file), "spec.preferences.pairs.file")?;
            let images = folder_of_images(volumes, images)?;
            let draw = Draw { limit: *limit, order: Order::Seeded, seed };
            let policy = SkipPolicy { on_unreadable: *on_unreadable, max_share: *max_skipped_share };
            Lister { scratch, draw, images, policy }.file(&Pairs, &path)
        }
    }
}

/// The folder at `location`, which must exist.
fn folder_of_images(volumes: &Volumes, location: &VolumePath) -> Result<PathBuf> {
    volumes.folder(location, "spec.images.volume.path", Error::Data, "correct the path")
}

/// The file at `location`, which must exist. `field` names it.
fn data_file(volumes: &Volumes, location: &VolumePath, field: &str) -> Result<PathBuf> {
    let path = volumes.resolve(location)?;
    match std::fs::metadata(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(Error::Data(format!(
                "{field}: {} does not exist; {}; correct the path",
                path.display(),
                contents(&path)
            )))
        }
        _ => Ok(path),
    }
}

/// Which items are kept.
#[derive(Debug, Clone, Copy)]
struct Draw {
    limit: Option<u64>,
    order: Order,
    seed: u64,
}

/// A row as a candidate for an item.
struct Candidate {
    /// Rows with the same key repeat each other.
    key: Vec<u8>,
    id: String,
}

impl Candidate {
    /// With the row's id, or one made of its place.
    fn of(id: Option<String>, row: &Row<'_>) -> Self {
        let id = id.unwrap_or_else(|| format!("line {}, column {}", row.line, row.column));
        Self { key: id.clone().into_bytes(), id }
    }
}

/// What a file's rows are.
trait RowFormat {
    const REPEATS: Repeats;
    /// What messages call the rows: `holds no instruction`.
    const NONE: &'static str;

    fn for_each(&self, path: &Path, visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()>;
    /// The row without a check of it; `None` if the run does not use it.
    fn candidate(&self, row: &Row<'_>, notes: &mut Notes<'_>) -> Option<Candidate>;
    /// The item that the row is. Its id and place are set by the caller.
    fn item(&self, row: &Row<'_>, notes: &mut Notes<'_>) -> Result<ListedItem, RowProblem>;
}

struct Conversations;
struct Pairs;
struct ListedImages {
    format: ListFormat,
}

impl RowFormat for Conversations {
    const REPEATS: Repeats = Repeats::Renamed;
    const NONE: &'static str = "holds no instruction; add some";

    fn for_each(&self, path: &Path, visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
        rows::for_each(path, instructions::FIELDS, visit)
    }

    fn candidate(&self, row: &Row<'_>, notes: &mut Notes<'_>) -> Option<Candidate> {
        let head = instructions::head(row);
        if head.image_is_nan {
            notes.count(Note::ImageIsNan, row.line, head.id.as_deref());
        }
        head.image.then(|| Candidate::of(head.id, row))
    }

    fn item(&self, row: &Row<'_>, notes: &mut Notes<'_>) -> Result<ListedItem, RowProblem> {
        let item = instructions::parse(row)?;
        if item.dropped_turn {
            notes.count(Note::LeadingTurn, row.line, Some(&item.id));
        }
        let conversation = item.turns.into_iter().map(Message::from).collect();
        Ok(ListedItem { image: item.image, conversation, ..ListedItem::default() })
    }
}

impl RowFormat for Pairs {
    const REPEATS: Repeats = Repeats::Renamed;
    const NONE: &'static str = "holds no pair; add some";

    fn for_each(&self, path: &Path, visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
        rows::for_each(path, preferences::FIELDS, visit)
    }

    fn candidate(&self, row: &Row<'_>, _: &mut Notes<'_>) -> Option<Candidate> {
        Some(Candidate::of(preferences::id(row), row))
    }

    fn item(&self, row: &Row<'_>, notes: &mut Notes<'_>) -> Result<ListedItem, RowProblem> {
        let pair = preferences::parse(row)?;
        if pair.chosen.trim() == pair.rejected.trim() {
            notes.count(Note::SameResponses, row.line, Some(&pair.id));
        }
        let given = GivenPair { prompt: pair.prompt, chosen: pair.chosen, rejected: pair.rejected };
        Ok(ListedItem { image: pair.image, pair: Some(given), ..ListedItem::default() })
    }
}

impl RowFormat for ListedImages {
    const REPEATS: Repeats = Repeats::Dropped;
    const NONE: &'static str = "lists no image; give one relative path a line";

    fn for_each(&self, path: &Path, visit: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
        self.format.for_each(path, visit)
    }

    fn candidate(&self, row: &Row<'_>, _: &mut Notes<'_>) -> Option<Candidate> {
        Some(match self.format.parse(row) {
            Ok(path) => Candidate { key: plain(&path).into_os_string().into_encoded_bytes(), id: path },
            Err(_) => Candidate::of(None, row),
        })
    }

    fn item(&self, row: &Row<'_>, _: &mut Notes<'_>) -> Result<ListedItem, RowProblem> {
        self.format.parse(row).map(ListedItem::image)
    }
}

/// Lists the items of one source.
struct Lister<'a> {
    scratch: &'a Path,
    draw: Draw,
    images: PathBuf,
    policy: SkipPolicy,
}

impl Lister<'_> {
    /// Every image of the folder.
    fn folder(self) -> Result<Listing> {
        let mut candidates = Candidates::new(self.scratch);
        images_dir::walk(&self.images, |path| candidates.add(candidates.count(), path.as_bytes(), &path))?;
        let Draw { limit, order, seed } = self.draw;
        let count = candidates.count();
        let mut selection = candidates.select(Repeats::Dropped, limit, order, seed)?;
        let mut items = ExternalSorter::new(self.scratch);
        for position in 0..count {
            if let Some(path) = selection.id_at(position)? {
                push(&mut items, &ListedItem::image(path))?;
            }
        }
        self.finish(items, Vec::new())
    }

    /// The rows of the file at `path`, which is read twice: for the ids, and for the rows that are used.
    fn file<F: RowFormat>(self, format: &F, path: &Path) -> Result<Listing> {
        let mut notes = Notes::new(path);
        let mut candidates = Candidates::new(self.scratch);
        let mut rows = 0;
        format.for_each(path, |row| {
            if let Some(Candidate { key, id }) = format.candidate(&row, &mut notes) {
                candidates.add(rows, &key, &id)?;
            }
            rows += 1;
            Ok(())
        })?;
        if rows == 0 {
            return Err(Error::Data(format!("{}: {} or correct the path", path.display(), F::NONE)));
        }
        if candidates.count() == 0 {
            return Err(Error::Data(format!(
                "{}: none of its {rows} items has an image; use a file of instructions with an image field",
                path.display()
            )));
        }
        let Draw { limit, order, seed } = self.draw;
        let mut selection = candidates.select(F::REPEATS, limit, order, seed)?;
        notes.count_repeats(F::REPEATS, selection.repeated);
        let items = self.read_selected(format, path, &mut selection, &mut notes)?;
        if items.count() != selection.count {
            return Err(Error::Data(format!(
                "{}: was changed while it was read; run the step again",
                path.display()
            )));
        }
        self.finish(items, notes.summaries())
    }

    fn read_selected<F: RowFormat>(
        &self,
        format: &F,
        path: &Path,
        selection: &mut Selection,
        notes: &mut Notes<'_>,
    ) -> Result<ExternalSorter> {
        let mut items = ExternalSorter::new(self.scratch);
        let mut position = 0;
        format.for_each(path, |row| {
            let id = selection.id_at(position)?;
            position += 1;
            let Some(id) = id else { return Ok(()) };
            let mut place = Place { path: path.to_owned(), line: row.line };
            let item = format.item(&row, notes).unwrap_or_else(|problem| {
                place.line = problem.line;
                ListedItem { problem: Some(problem.reason), ..ListedItem::default() }
            });
            push(&mut items, &ListedItem { id, place: Some(place), ..item })
        })?;
        Ok(items)
    }

    fn finish(self, items: ExternalSorter, notes: Vec<String>) -> Result<Listing> {
        Ok(Listing {
            count: items.count(),
            bytes: items.bytes(),
            items: items.sorted()?,
            images: self.images,
            policy: self.policy,
            notes,
        })
    }
}

fn push(items: &mut ExternalSorter, item: &ListedItem) -> Result<()> {
    let row = serde_json::to_vec(item).map_err(|e| Error::Data(format!("item {:?}: {e}", item.id)))?;
    items.push(item.id.clone().into_bytes(), row)
}
