//! Parquet files by the crate's record API: row by row, and only the columns that are needed.
//!
//! A page is decoded as a whole, so memory is bounded by the largest page, not by the number of rows. Hugging Face's files
//! of images have a page for each row group of 100 or 1000 rows.

use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row as Fields};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use super::row::{ImageCell, Row, cannot_read, cut_short};
use crate::error::{Error, Result};

/// How many values of a column are decoded at once. Few, since values may be images.
const BATCH: usize = 8;

/// A file of whose columns some are read.
pub(crate) struct ParquetFile {
    path: PathBuf,
    name: String,
    image: Option<String>,
    reader: SerializedFileReader<File>,
    /// The columns that are read.
    schema: SchemaDescPtr,
    /// The row group that is read next.
    group: usize,
    rows: Option<ReaderIter>,
    /// The number of rows read.
    row: u64,
    /// The number of rows up to the end of the row group that is being read.
    group_end: u64,
}

impl ParquetFile {
    /// `required` are the columns without which the file is of no use; `image` the one with images. Of the others, columns
    /// of bytes (further images) and of types that no published file has are not read.
    pub(super) fn open(path: &Path, name: String, required: &[&str], image: Option<&str>) -> Result<Self> {
        let file = File::open(path).map_err(cannot_read(path))?;
        let damaged = |error: ParquetError| cut_short(path, &error.to_string());
        let reader = without_panic(|| SerializedFileReader::new(file)).map_err(damaged)?;
        let root = reader.metadata().file_metadata().schema();
        let mut fields = Vec::new();
        for field in root.get_fields() {
            let is_image = image == Some(field.name());
            if is_readable(field) && (is_image || !has_bytes(field)) {
                fields.push(Arc::clone(field));
            } else if is_image || required.contains(&field.name()) {
                return Err(Error::File {
                    file: path.into(),
                    message: format!(
                        "column {:?} has a type that the published file does not have there; download it again",
                        field.name()
                    ),
                });
            }
        }
        let projection = Type::group_type_builder("schema").with_fields(fields).build().map_err(damaged)?;
        Ok(Self {
            path: path.into(),
            name,
            image: image.map(str::to_owned),
            schema: Arc::new(SchemaDescriptor::new(Arc::new(projection))),
            reader,
            group: 0,
            rows: None,
            row: 0,
            group_end: 0,
        })
    }

    /// All columns of the file, read or not.
    pub(super) fn columns(&self) -> Vec<String> {
        let root = self.reader.metadata().file_metadata().schema();
        root.get_fields().iter().map(|field| field.name().to_owned()).collect()
    }

    /// Goes on with row `number` (from 1). Rows before it in its row group are decoded again, unless it is further on in
    /// the row group that is being read.
    pub(super) fn seek(&mut self, number: u64) -> Result<()> {
        if self.rows.is_none() || number <= self.row || number > self.group_end {
            self.rows = None;
            (self.group, self.row) = (0, 0);
            while let Some(end) = self.end_of(self.group)
                && number > end
            {
                (self.group, self.row) = (self.group + 1, end);
            }
            self.group_end = self.row;
        }
        while self.row + 1 < number {
            match self.next_fields() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }

    /// The number of rows up to the end of `group`, which begins after the rows read so far.
    fn end_of(&self, group: usize) -> Option<u64> {
        let groups = self.reader.metadata().row_groups();
        let rows = u64::try_from(groups.get(group)?.num_rows()).unwrap_or(0);
        Some(self.row + rows)
    }

    pub(super) fn next(&mut self) -> Option<Result<Row>> {
        let fields = self.next_fields()?;
        Some(fields.and_then(|fields| self.convert(fields)))
    }

    fn next_fields(&mut self) -> Option<Result<Fields>> {
        loop {
            if let Some(rows) = &mut self.rows {
                match without_panic(|| rows.next().transpose()).transpose() {
                    Some(Ok(fields)) => {
                        self.row += 1;
                        return Some(Ok(fields));
                    }
                    Some(Err(error)) => return Some(Err(self.lose_group(&error))),
                    None => self.rows = None,
                }
            }
            self.group_end = self.end_of(self.group)?;
            let rows = without_panic(|| {
                let group = self.reader.get_row_group(self.group)?;
                TreeBuilder::new().with_batch_size(BATCH).as_iter(Arc::clone(&self.schema), &*group)
            });
            self.group += 1;
            match rows {
                Ok(rows) => self.rows = Some(rows),
                Err(error) => return Some(Err(self.lose_group(&error))),
            }
        }
    }

    /// Gives up the rest of the row group: after an error its columns no longer stand at the same row.
    fn lose_group(&mut self, error: &ParquetError) -> Error {
        let first = self.row + 1;
        self.rows = None;
        self.row = self.group_end;
        cut_short(&self.path, &format!("rows {first} to {}: {error}", self.group_end))
    }

    fn convert(&self, row: Fields) -> Result<Row> {
        let place = format!("{}, row {}", self.name, self.row);
        let mut fields = Map::new();
        let mut image = ImageCell::None;
        for (name, field) in row.into_columns() {
            if self.image.as_ref() == Some(&name) {
                let path;
                (image, path) = image_cell(field);
                if image == ImageCell::None && path.is_some() {
                    let message = format!(
                        "column {name:?} has only the name of the image, not its bytes; use the file as published"
                    );
                    return Err(Error::Row { place, message });
                }
                fields.extend(path.map(|path| (name, Value::String(path))));
            } else {
                fields.insert(name, value(field));
            }
        }
        Ok(Row { number: self.row, offset: 0, place, fields, image })
    }
}

/// Calls the parquet crate, whose record API asserts what a damaged file need not keep to. What panicked is not used again.
fn without_panic<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(ParquetError::General("its contents contradict each other".to_owned())))
}

/// An image as Hugging Face's `datasets` stores it, a struct of bytes and path; or bytes alone, or base64.
fn image_cell(field: Field) -> (ImageCell, Option<String>) {
    match field {
        Field::Bytes(bytes) => (ImageCell::Bytes(bytes.data().to_vec()), None),
        Field::Str(base64) if !base64.is_empty() => (ImageCell::Base64(base64), None),
        Field::Group(members) => {
            let (mut image, mut path) = (ImageCell::None, None);
            for (name, member) in members.into_columns() {
                match (name.as_str(), member) {
                    ("bytes", Field::Bytes(bytes)) => image = ImageCell::Bytes(bytes.data().to_vec()),
                    ("path", Field::Str(text)) => path = Some(text),
                    _ => {}
                }
            }
            (image, path)
        }
        _ => (ImageCell::None, None),
    }
}

/// Numbers that JSON does not have (NaN, infinity) are null.
fn value(field: Field) -> Value {
    match field {
        Field::Bool(value) => Value::Bool(value),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => Number::from_f64(value.into()).map_or(Value::Null, Value::Number),
        Field::Double(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        Field::Str(value) => Value::String(value),
        Field::Group(members) => {
            members.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        _ => Value::Null,
    }
}

/// Whether the record API can read a column: it panics on types that it does not know.
fn is_readable(field: &Type) -> bool {
    let info = field.get_basic_info();
    if !info.has_repetition() {
        return false;
    }
    if field.is_primitive() {
        return info.repetition() != Repetition::REPEATED && is_readable_primitive(field);
    }
    match info.converted_type() {
        // Three levels: optional group f (LIST) { repeated group list { optional T element; } }
        ConvertedType::LIST => matches!(field.get_fields(), [list]
            if list.get_basic_info().has_repetition()
                && list.get_basic_info().repetition() == Repetition::REPEATED
                && list.is_group()
                && matches!(list.get_fields(), [element] if is_readable(element))
                && !matches!(list.name(), "array") && !list.name().ends_with("_tuple")),
        ConvertedType::NONE => {
            info.repetition() != Repetition::REPEATED
                && !field.get_fields().is_empty()
                && field.get_fields().iter().all(|field| is_readable(field))
        }
        _ => false,
    }
}

fn is_readable_primitive(field: &Type) -> bool {
    use ConvertedType as C;
    let converted = field.get_basic_info().converted_type();
    match field.get_physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::INT32 => matches!(
            converted,
            C::NONE | C::INT_8 | C::INT_16 | C::INT_32 | C::UINT_8 | C::UINT_16 | C::UINT_32
        ),
        Physical::INT64 => matches!(converted, C::NONE | C::INT_64 | C::UINT_64),
        Physical::BYTE_ARRAY => matches!(converted, C::NONE | C::UTF8 | C::ENUM | C::JSON),
        Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => false,
    }
}

/// Whether a column has bytes that are no text.
fn has_bytes(field: &Type) -> bool {
    if field.is_group() {
        return field.get_fields().iter().any(|field| has_bytes(field));
    }
    field.get_physical_type() == Physical::BYTE_ARRAY
        && field.get_basic_info().converted_type() == ConvertedType::NONE
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT_VQA: &str = "text_vqa/parquet/data/validation-00000-of-00003.parquet";
    const MATH_VISTA: &str = "math_vista/parquet/data/testmini-00000-of-00001-725687bf7a18d64b.parquet";

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn open(path: &Path, image: &str) -> Result<ParquetFile> {
        ParquetFile::open(path, "rows.parquet".to_owned(), &["question"], Some(image))
    }

    #[test]
    fn every_type_is_read() {
        let mut file = open(&fixture(MATH_VISTA), "decoded_image").unwrap();
        let rows: Vec<Row> = std::iter::from_fn(|| file.next()).collect::<Result<_>>().unwrap();
        let row = &rows[0];
        assert_eq!((row.number, row.place.as_str()), (1, "rows.parquet, row 1"));
        assert_eq!((&row.fields["precision"], &row.fields["choices"]), (&Value::from(1.0), &Value::Null));
        assert_eq!(row.fields["metadata"]["img_height"], 4);
        assert_eq!(row.fields["metadata"]["skills"], Value::from(vec!["geometry reasoning"]));
        assert_eq!(rows[1].fields["choices"], Value::from(vec!["(A) it's", "a \"b\"", "145°"]));
        assert!(matches!(&row.image, ImageCell::Bytes(bytes) if bytes.starts_with(b"\x89PNG")));
        assert!(!row.fields.contains_key("decoded_image"));

        let mut without = ParquetFile::open(&fixture(MATH_VISTA), String::new(), &[], None).unwrap();
        assert!(without.columns().contains(&"decoded_image".to_owned()));
        assert!(!without.next().unwrap().unwrap().fields.contains_key("decoded_image"), "it is not decoded");
        let refused =
            ParquetFile::open(&fixture(MATH_VISTA), String::new(), &["decoded_image"], None).err().unwrap();
        assert!(refused.to_string().contains("column \"decoded_image\" has a type that"), "{refused}");
    }

    #[test]
    fn it_goes_on_at_any_row() {
        let mut file = open(&fixture("pope/parquet/data/test-00000-of-00003.parquet"), "image").unwrap();
        let rows: Vec<Row> = std::iter::from_fn(|| file.next()).collect::<Result<_>>().unwrap();
        assert!(file.reader.metadata().num_row_groups() > 1);
        for from in [3, 1, 2, 4, 1, 1, 4] {
            file.seek(from).unwrap();
            let row = file.next().unwrap().unwrap();
            let expected = &rows[usize::try_from(from).unwrap() - 1];
            assert_eq!((row.number, &row.fields), (from, &expected.fields));
        }
        file.seek(9).unwrap();
        assert!(file.next().is_none());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.parquet");
        let bytes = fs::read(fixture(TEXT_VQA)).unwrap();
        let mut errors = 0;
        let mut read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let rows = match open(&path, "image") {
                Ok(mut file) => {
                    std::iter::from_fn(|| file.next()).take(100).collect::<Result<Vec<_>>>().map(drop)
                }
                Err(error) => Err(error),
            };
            errors += usize::from(rows.is_err());
            rows
        };
        for cut in (0..bytes.len()).step_by(97) {
            let message = read(&bytes[..cut]).unwrap_err().to_string();
            assert!(message.contains("damaged.parquet: the file was cut short or is damaged"), "{message}");
            assert!(message.ends_with("download it again"), "{message}");
        }
        // Most panics come from the schema, which is at the end.
        let schema = bytes.len() - 2500..bytes.len();
        for at in (0..schema.start).step_by(13).chain(schema.step_by(3)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= [0xff, 0x01, 0x80][at % 3];
            drop(read(&damaged));
        }
        assert!(errors > 300, "{errors}");
    }
}
