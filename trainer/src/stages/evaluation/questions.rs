//! The questions that `prepare` leaves for the later steps.

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::IMAGES_DIR;
use stic_contract::{ArtifactKind, ArtifactRef};

use crate::benchmarks::{BenchmarkReport, ImageStore, LargestQuestion, QuestionFile};
use crate::error::{Error, Result};
use crate::io::artifact::{Output, open_input, read_marker};
use crate::io::volumes::Volumes;

/// What is known of the questions: `report.json`, and the facts of the artifact.
#[derive(Debug, Serialize)]
pub(super) struct QuestionsReport<'a> {
    pub(super) benchmarks: &'a [BenchmarkReport],
    pub(super) largest: LargestQuestion,
}

/// The part of it that later steps read.
#[derive(Deserialize)]
struct Facts {
    largest: LargestQuestion,
}

/// The artifact of `prepare`.
pub(super) struct PreparedQuestions {
    pub(super) file: QuestionFile,
    pub(super) largest: LargestQuestion,
}

impl PreparedQuestions {
    /// Opens the artifact after verifying its digest.
    pub(super) fn open(volumes: &Volumes, reference: &ArtifactRef, output: &Output) -> Result<Self> {
        let dir = open_input(volumes, reference)?;
        let facts = read_marker(&dir)?.map(|marker| marker.facts).unwrap_or_default();
        let Facts { largest } = serde_json::from_value(facts).map_err(|error| {
            Error::Data(format!("{}: {error}; delete the folder and run prepare again", dir.display()))
        })?;
        Ok(Self {
            file: QuestionFile::new(&dir.join(ArtifactKind::Questions.payload_file()), images(output)),
            largest,
        })
    }
}

/// The images that all runs with this output share.
pub(super) fn images(output: &Output) -> ImageStore {
    ImageStore::new(output.root().join(IMAGES_DIR))
}
