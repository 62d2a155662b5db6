//! What is worth knowing about the rows of a file and is no error: counted, and said once.

use std::path::Path;

use super::selection::Repeats;

/// Something that a row may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    ImageIsNan,
    LeadingTurn,
    SameResponses,
}

impl Note {
    const ALL: [Self; 3] = [Self::ImageIsNan, Self::LeadingTurn, Self::SameResponses];

    /// The sentence for `count` rows.
    fn sentence(self, count: u64) -> String {
        let one = count == 1;
        match self {
            Self::ImageIsNan => {
                let have = if one { "1 item has" } else { &format!("{count} items have") };
                format!("{have} NaN for image, which is not JSON and is read as null: a text-only item")
            }
            Self::LeadingTurn => {
                let begin = if one { "1 item begins" } else { &format!("{count} items begin") };
                format!(
                    "{begin} with the model: conversations[0].from is \"gpt\" where \"human\" is expected; that turn is left out, as LLaVA's own loader does"
                )
            }
            Self::SameResponses => {
                let have = if one { "1 pair has" } else { &format!("{count} pairs have") };
                format!("{have} the same text as chosen and as rejected, from which DPO learns nothing")
            }
        }
    }
}

/// The first row that a note is about, and how many there are.
#[derive(Debug, Clone, Default)]
struct Occurrences {
    count: u64,
    first: String,
}

/// The notes on a file.
pub(super) struct Notes<'p> {
    path: &'p Path,
    found: [Occurrences; Note::ALL.len()],
    repeats: Option<String>,
}

impl<'p> Notes<'p> {
    pub(super) fn new(path: &'p Path) -> Self {
        Self { path, found: Default::default(), repeats: None }
    }

    pub(super) fn count(&mut self, note: Note, line: usize, id: Option<&str>) {
        let found = &mut self.found[note as usize];
        found.count += 1;
        if found.count == 1 {
            let id = id.map_or_else(String::new, |id| format!(": item {id:?}"));
            found.first = format!("{}:{line}{id}", self.path.display());
        }
    }

    pub(super) fn count_repeats(&mut self, repeats: Repeats, count: u64) {
        let sentence = match (repeats, count) {
            (_, 0) => return,
            (Repeats::Renamed, 1) => {
                "1 row has the id of an earlier one, and is kept under that id with #2".to_owned()
            }
            (Repeats::Renamed, _) => {
                format!(
                    "{count} rows have the id of an earlier one, and are kept under that id with #2, #3 and so on"
                )
            }
            (Repeats::Dropped, 1) => "1 entry repeats an earlier one; each image is used once".to_owned(),
            (Repeats::Dropped, _) => {
                format!("{count} entries repeat an earlier one; each image is used once")
            }
        };
        self.repeats = Some(format!("{}: {sentence}", self.path.display()));
    }

    /// A sentence for each note that occurs.
    pub(super) fn summaries(self) -> Vec<String> {
        let counted = Note::ALL.into_iter().zip(self.found).filter(|(_, found)| found.count > 0);
        let counted = counted.map(|(note, found)| {
            let first = if found.count == 1 { found.first } else { format!("the first is {}", found.first) };
            format!("{} ({first})", note.sentence(found.count))
        });
        self.repeats.into_iter().chain(counted).collect()
    }
}
