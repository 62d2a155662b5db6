//! Rows as benchmarks see them.

use std::path::PathBuf;

use crate::benchmarks::Benchmark;
use crate::error::{Error, Result};
use crate::published::{Content, FoundForm, Image, ImageSource, Images, Record, Row, RowAt, RowFile};

/// The record of a row, with its image as far as it is known before the question is made.
pub(super) fn record<B: Benchmark>(images: &mut Images<'_>, found: &FoundForm, at: RowAt, row: Row) -> Made {
    let Row { place, fields, image: cell, .. } = row;
    let file = found.rows.get(at.file).and_then(|path| path.file_name());
    let file = file.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut record = Record { place, file, row: at.number, fields, image: None };
    let mut problem = None;
    match found.form.image {
        ImageSource::Folder(_) => {
            record.image = B::image_path(&record).map(|path| Image::File(PathBuf::from(path)));
        }
        ImageSource::Column(_) => match images.content(cell) {
            Ok(Content::None) => {}
            Ok(Content::Image(image)) => record.image = Some(image),
            Ok(Content::Unknown(index)) => {
                return Made { record, problem: Some(unknown(&index)), deferred: true };
            }
            // Only a problem if the row turns out to be a question.
            Err(reason) => problem = Some(reason),
        },
    }
    Made { record, problem, deferred: false }
}

pub(super) struct Made {
    pub(super) record: Record,
    pub(super) problem: Option<String>,
    /// Whether the image is that of a row that is not known yet.
    pub(super) deferred: bool,
}

fn unknown(index: &str) -> String {
    format!(
        "the image is said to be that of row {index:?}, which does not exist or has no image itself; download the file again"
    )
}

/// Reads one row; `open` keeps the file open for the next.
pub(super) fn row_at(found: &FoundForm, open: &mut Option<(usize, RowFile)>, at: RowAt) -> Result<Row> {
    let rows = match open.take() {
        Some((file, rows)) if file == at.file => rows,
        _ => found.open(at.file)?,
    };
    let (_, rows) = open.insert((at.file, rows));
    rows.seek(at.number, at.offset)?;
    rows.next().unwrap_or_else(|| {
        Err(Error::Row {
            place: format!("{}, row {}", found.name(at.file), at.number),
            message:
                "the row has disappeared since the file was first read; leave the files alone during a run"
                    .into(),
        })
    })
}
