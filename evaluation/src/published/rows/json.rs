//! JSON arrays, JSON Lines and objects by key, one row in memory at a time.
//!
//! Rows are told apart by their brackets alone, so a row that is not JSON does not hide the rows after it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::row::{ImageCell, MAX_ROW_BYTES, Row, cannot_read, cut_short};
use crate::error::{Error, Result};
use crate::published::form::{Format, KEY_FIELD};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The field with the rows where an object is around the array, as in `TextVQA_0.5.1_val.json`.
const WRAPPED: &str = "data";

/// A file whose rows are objects.
pub(crate) struct JsonFile {
    path: PathBuf,
    name: String,
    format: Format,
    /// The field with the image in base64.
    image: Option<String>,
    reader: BufReader<File>,
    /// Of the next byte.
    offset: u64,
    /// Where the first row begins.
    first: u64,
    /// The number of rows read.
    row: u64,
    /// Whether the last row was followed by the closing bracket.
    closing: bool,
    done: bool,
    item: Vec<u8>,
}

impl JsonFile {
    pub(super) fn open(path: &Path, name: String, format: Format, image: Option<&str>) -> Result<Self> {
        let reader = BufReader::with_capacity(64 << 10, File::open(path).map_err(cannot_read(path))?);
        let mut file = Self {
            path: path.into(),
            name,
            format,
            image: image.map(str::to_owned),
            reader,
            offset: 0,
            first: 0,
            row: 0,
            closing: false,
            done: false,
            item: Vec::new(),
        };
        file.find_first_row()?;
        file.first = file.offset;
        Ok(file)
    }

    /// The fields of the first row; the file is left where it was opened.
    pub(super) fn columns(&mut self) -> Result<Vec<String>> {
        let first = self.next().transpose()?;
        self.seek(1, self.first)?;
        let Some(row) = first else { return Ok(Vec::new()) };
        let image = self.image.clone().filter(|_| row.image != ImageCell::None);
        Ok(row.fields.into_iter().map(|(name, _)| name).chain(image).collect())
    }

    pub(super) fn seek(&mut self, row: u64, offset: u64) -> Result<()> {
        // Rows that are near are still in the buffer.
        let distance = i64::try_from(i128::from(offset) - i128::from(self.offset)).unwrap_or(i64::MAX);
        self.reader.seek_relative(distance).map_err(cannot_read(&self.path))?;
        (self.offset, self.row) = (offset, row.saturating_sub(1));
        (self.closing, self.done) = (false, false);
        Ok(())
    }

    pub(super) fn next(&mut self) -> Option<Result<Row>> {
        if self.done {
            return None;
        }
        match self.read_item() {
            Ok(Some(offset)) => {
                self.row += 1;
                Some(self.row(offset))
            }
            Ok(None) => {
                self.done = true;
                None
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }

    /// The item as a row.
    fn row(&self, offset: u64) -> Result<Row> {
        let text = self.item.trim_ascii();
        let mut place = format!("{}, row {}", self.name, self.row);
        let (key, text) = match self.format {
            Format::JsonByKey => match split_member(text) {
                Some((key, value)) => (Some(key), value),
                None => {
                    return Err(Error::Row {
                        place,
                        message: "this is no field of a JSON object; download the file again".into(),
                    });
                }
            },
            _ => (None, text),
        };
        if let Some(key) = &key {
            place = format!("{}, {key:?}", self.name);
        }
        let mut fields: Map<String, Value> = serde_json::from_slice(text).map_err(|error| Error::Row {
            place: place.clone(),
            message: format!("the row is no JSON object ({error}); correct it, or download the file again"),
        })?;
        let image = match self.image.as_deref().and_then(|image| fields.remove(image)) {
            Some(Value::String(base64)) if !base64.is_empty() => ImageCell::Base64(base64),
            _ => ImageCell::None,
        };
        if let Some(key) = key {
            fields.insert(KEY_FIELD.to_owned(), Value::String(key));
        }
        Ok(Row { number: self.row, offset, place, fields, image })
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.reader.fill_buf().map_err(cannot_read(&self.path))?.first().copied())
    }

    fn advance(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.offset += bytes as u64;
    }

    /// The next byte that is not white space, which stays to be read.
    fn skip_space(&mut self) -> Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.advance(1);
        }
        Ok(None)
    }

    /// Goes to the first row: behind the bracket before it.
    fn find_first_row(&mut self) -> Result<()> {
        let start = self.reader.fill_buf().map_err(cannot_read(&self.path))?;
        if start.starts_with(BYTE_ORDER_MARK) {
            self.advance(BYTE_ORDER_MARK.len());
        }
        let found = self.skip_space()?;
        match (self.format, found) {
            (Format::JsonArray, Some(b'[')) | (Format::JsonByKey, Some(b'{')) => {
                self.advance(1);
                Ok(())
            }
            (Format::JsonArray, Some(b'{')) => {
                self.advance(1);
                self.find_wrapped()
            }
            (Format::JsonArray, _) => Err(self.malformed("it begins with neither [ nor {")),
            (Format::JsonByKey, _) => Err(self.malformed("it does not begin with {")),
            _ => Ok(()),
        }
    }

    /// Goes behind the bracket of the array in the field [`WRAPPED`].
    fn find_wrapped(&mut self) -> Result<()> {
        loop {
            self.skip_space()?;
            let after_key = self.scan(true, b":")?;
            let is_rows = serde_json::from_slice::<String>(&self.item).is_ok_and(|key| key == WRAPPED);
            if after_key == b':' {
                self.advance(1);
                if self.skip_space()? == Some(b'[') && is_rows {
                    self.advance(1);
                    return Ok(());
                }
                if self.scan(false, b",")? == b',' {
                    self.advance(1);
                    continue;
                }
            }
            return Err(self.malformed("it is an object without an array in a field \"data\""));
        }
    }

    /// Reads up to one of `stops`, or a bracket that closes what is around, and returns that byte, which stays to be read.
    /// What comes before it goes into `item` if it is to be kept.
    fn scan(&mut self, keep: bool, stops: &[u8]) -> Result<u8> {
        self.item.clear();
        let mut brackets = Brackets::default();
        loop {
            let buffer = self.reader.fill_buf().map_err(cannot_read(&self.path))?;
            if buffer.is_empty() {
                return Err(cut_short(&self.path, &format!("it ends within row {}", self.row + 1)));
            }
            let stop = buffer.iter().position(|&byte| brackets.pass(byte, stops));
            let used = stop.unwrap_or(buffer.len());
            let found = stop.and_then(|stop| buffer.get(stop)).copied();
            if keep {
                self.item.extend_from_slice(&buffer[..used]);
            }
            self.advance(used);
            if let Some(found) = found {
                return Ok(found);
            }
            if self.item.len() > MAX_ROW_BYTES {
                return Err(self.too_long());
            }
        }
    }

    /// Reads the next item into `item` and returns where it began; `None` after the last.
    fn read_item(&mut self) -> Result<Option<u64>> {
        let (separator, close) = match self.format {
            Format::JsonLines => return self.read_line(),
            Format::JsonByKey => (b',', b'}'),
            _ => (b',', b']'),
        };
        let next = self.skip_space()?;
        let offset = self.offset;
        if next == Some(close) && (self.closing || self.row == 0) {
            return Ok(None);
        }
        let ended = self.scan(true, &[separator])?;
        if self.item.trim_ascii().is_empty() {
            return Err(self.malformed(&format!("row {} is empty", self.row + 1)));
        }
        if ended == separator {
            self.advance(1);
        } else if ended == close {
            self.closing = true;
        } else {
            return Err(self.malformed(&format!("row {} ends with {:?}", self.row + 1, char::from(ended))));
        }
        Ok(Some(offset))
    }

    /// Reads the next line that is not blank into `item`.
    fn read_line(&mut self) -> Result<Option<u64>> {
        loop {
            self.item.clear();
            let offset = self.offset;
            let limit = MAX_ROW_BYTES as u64 + 1;
            let read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut self.item)
                .map_err(cannot_read(&self.path))?;
            self.offset += read as u64;
            if read > MAX_ROW_BYTES {
                return Err(self.too_long());
            }
            if read == 0 {
                return Ok(None);
            }
            if !self.item.trim_ascii().is_empty() {
                return Ok(Some(offset));
            }
        }
    }

    fn too_long(&self) -> Error {
        Error::File {
            file: self.path.clone(),
            message: format!(
                "row {} is longer than {} MiB, probably for a quote or bracket that is not closed; download the file again",
                self.row + 1,
                MAX_ROW_BYTES >> 20
            ),
        }
    }

    fn malformed(&self, what: &str) -> Error {
        let expected = match self.format {
            Format::JsonByKey => "a JSON object with a row under each key",
            Format::JsonLines => "a JSON object on each line",
            _ => "a JSON array of rows",
        };
        Error::File {
            file: self.path.clone(),
            message: format!("expected {expected}, but {what}; check that this is the published file"),
        }
    }
}

/// What is open where a scan stands.
#[derive(Default)]
struct Brackets {
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Brackets {
    /// Passes `byte`, unless it is a stop outside of all brackets and quotes, or closes what is around the scan: then true.
    fn pass(&mut self, byte: u8, stops: &[u8]) -> bool {
        if self.quoted {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.quoted = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.quoted = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' if self.depth == 0 => return true,
            b']' | b'}' => self.depth -= 1,
            _ => return self.depth == 0 && stops.contains(&byte),
        }
        false
    }
}

/// `"key": value` as both.
fn split_member(text: &[u8]) -> Option<(String, &[u8])> {
    let mut keys = serde_json::Deserializer::from_slice(text).into_iter::<String>();
    let key = keys.next()?.ok()?;
    let rest = text.get(keys.byte_offset()..)?.trim_ascii_start();
    Some((key, rest.strip_prefix(b":")?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(text: &str, format: Format) -> (tempfile::TempDir, Result<JsonFile>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        std::fs::write(&path, text).unwrap();
        let file = JsonFile::open(&path, "rows.json".to_owned(), format, Some("image"));
        (folder, file)
    }

    fn rows(text: &str, format: Format) -> Vec<Result<Row>> {
        let (_folder, file) = open(text, format);
        let mut file = file.unwrap();
        std::iter::from_fn(|| file.next()).collect()
    }

    fn error(text: &str, format: Format) -> String {
        let (folder, file) = open(text, format);
        let error = file.and_then(|mut file| std::iter::from_fn(|| file.next()).collect::<Result<Vec<_>>>());
        error.err().unwrap().to_string().replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn every_format_gives_the_same_rows() {
        let [a, b] = [r#"{"id":"]\"}","n":[1,{"x":2}]}"#, r#"{ "id": "é,", "image": "QUJD" }"#];
        for (text, format) in [
            (format!("\u{feff} [{a} ,\n{b}\n]\n"), Format::JsonArray),
            (format!("{{\"data\": [{a},{b}]}}"), Format::JsonArray),
            (
                format!(
                    "{{\"v\": {{\"data\": [1]}}, \"data\": 1, \"x]\": \"}}\", \"data\" : [{a},{b}], \"y\": [1]}}"
                ),
                Format::JsonArray,
            ),
            (format!("{a}\r\n\n  {b}"), Format::JsonLines),
            (format!("{{\"k\\\"1\":{a},\n \"2\" : {b} }}"), Format::JsonByKey),
        ] {
            let (_folder, file) = open(&text, format);
            let mut file = file.unwrap();
            let rows: Vec<Row> = std::iter::from_fn(|| file.next()).collect::<Result<_>>().unwrap();
            let ids: Vec<_> = rows.iter().map(|row| row.fields["id"].as_str().unwrap()).collect();
            assert_eq!(ids, ["]\"}", "é,"], "{text}");
            assert_eq!(rows[1].image, ImageCell::Base64("QUJD".to_owned()));
            if format == Format::JsonByKey {
                assert_eq!(rows.iter().map(|row| &row.fields[KEY_FIELD]).collect::<Vec<_>>(), ["k\"1", "2"]);
                assert_eq!(rows[1].place, "rows.json, \"2\"");
            } else {
                assert_eq!(rows[1].place, "rows.json, row 2");
            }
            for row in rows.iter().rev() {
                file.seek(row.number, row.offset).unwrap();
                let again = file.next().unwrap().unwrap();
                assert_eq!((&again.fields, &again.place), (&row.fields, &row.place));
            }
            file.columns().unwrap();
            assert_eq!(file.next().unwrap().unwrap().fields, rows[0].fields, "it is left where it was");
        }
        for (text, format) in
            [("[]", Format::JsonArray), ("{ }", Format::JsonByKey), ("\n", Format::JsonLines)]
        {
            assert!(rows(text, format).is_empty());
        }
    }

    #[test]
    fn a_bad_row_does_not_hide_the_next() {
        for (text, format) in [
            ("[{\"a\": NaN}, {\"a\": 1}]", Format::JsonArray),
            ("{\"a\": NaN}\n{\"a\": 1}", Format::JsonLines),
        ] {
            let rows = rows(text, format);
            let message = rows[0].as_ref().unwrap_err().to_string();
            assert!(
                message.starts_with("rows.json, row 1: the row is no JSON object (expected value"),
                "{message}"
            );
            assert_eq!(rows[1].as_ref().unwrap().fields["a"], 1);
        }
        let rows = rows("{\"x\": 1, \"y\": {\"a\": 1}, z}", Format::JsonByKey);
        let messages: Vec<_> = rows.iter().filter_map(|row| Some(row.as_ref().err()?.to_string())).collect();
        assert!(messages[0].starts_with("rows.json, \"x\": the row is no JSON object"), "{messages:?}");
        assert!(
            messages[1].starts_with("rows.json, row 3: this is no field of a JSON object"),
            "{messages:?}"
        );
    }

    #[test]
    fn a_file_that_was_cut_short_or_is_another_is_named() {
        for (text, format, expected) in [
            (
                "[{}, {\"a\": \"",
                Format::JsonArray,
                "rows.json: the file was cut short or is damaged (it ends within row 2)",
            ),
            (
                "[{},",
                Format::JsonArray,
                "rows.json: the file was cut short or is damaged (it ends within row 2)",
            ),
            ("{\"1\": {}", Format::JsonByKey, "rows.json: the file was cut short"),
            ("{\"data\": [{}", Format::JsonArray, "rows.json: the file was cut short"),
            ("[{},]", Format::JsonArray, "rows.json: expected a JSON array of rows, but row 2 is empty"),
            ("[{},,{}]", Format::JsonArray, "rows.json: expected a JSON array of rows, but row 2 is empty"),
            ("[{}}", Format::JsonArray, "rows.json: expected a JSON array of rows, but row 1 ends with '}'"),
            (
                "{}",
                Format::JsonArray,
                "rows.json: expected a JSON array of rows, but it is an object without an array",
            ),
            (
                "{\"rows\": []}",
                Format::JsonArray,
                "rows.json: expected a JSON array of rows, but it is an object without",
            ),
            ("", Format::JsonArray, "rows.json: expected a JSON array of rows, but it begins with neither"),
            (
                "[]",
                Format::JsonByKey,
                "rows.json: expected a JSON object with a row under each key, but it does not",
            ),
        ] {
            let message = error(text, format);
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn rows_equal_those_of_a_whole_parse(
            rows in proptest::collection::vec(proptest::collection::btree_map("[a-z\\\\\"{}\\[\\],:é]{0,3}", "[a\\\\\"{}\\[\\],:é\n]{0,5}", 0..3), 1..5),
            indent: bool,
        ) {
            let text = if indent { serde_json::to_string_pretty(&rows) } else { serde_json::to_string(&rows) }.unwrap();
            let (_folder, file) = open(&text, Format::JsonArray);
            let mut file = file.unwrap();
            file.image = None;
            let read: Vec<_> = std::iter::from_fn(|| file.next()).map(|row| Value::Object(row.unwrap().fields)).collect();
            prop_assert_eq!(Value::Array(read), serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}
