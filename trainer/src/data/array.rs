//! The items of a JSON array, one in memory at a time.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use serde::Deserializer as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::data::files;
use crate::{Error, Result};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Hands each item of the array in `path` to `take`, unparsed, with the line it begins on, from 1.
///
/// # Errors
/// [`Error::Data`] where it is no array of JSON; [`Error::Storage`]; those of `take`.
pub(crate) fn each(path: &Path, take: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(files::open(path)?);
    if reader.fill_buf().map_err(Error::storage(path))?.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    let breaks = Rc::new(Cell::new(0));
    let mut deserializer =
        serde_json::Deserializer::from_reader(Counted { reader, breaks: Rc::clone(&breaks) });
    let mut refused = None;
    let read = deserializer
        .deserialize_seq(Items { breaks: &breaks, take, refused: &mut refused })
        .and_then(|()| deserializer.end());
    if let Some(error) = refused {
        return Err(error);
    }
    read.map_err(|error| {
        if error.is_io() {
            return Error::storage(path)(error.into());
        }
        if error.to_string().starts_with("invalid unicode code point") {
            return Error::Data(format!("{}: is not UTF-8; save the file as UTF-8", path.display()));
        }
        Error::Data(format!("{}:{}: {error}; mend the JSON there", path.display(), error.line()))
    })
}

/// Counts the line breaks that were read. The parser reads byte by byte, so they are those before its place.
struct Counted {
    reader: BufReader<File>,
    breaks: Rc<Cell<usize>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let breaks = buffer[..read].iter().filter(|byte| **byte == b'\n').count();
        self.breaks.set(self.breaks.get() + breaks);
        Ok(read)
    }
}

struct Items<'a, F> {
    breaks: &'a Cell<usize>,
    take: F,
    refused: &'a mut Option<Error>,
}

impl<'de, F: FnMut(usize, &str) -> Result<()>> Visitor<'de> for Items<'_, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<Box<RawValue>>()? {
            let item = item.get();
            let within = item.bytes().filter(|byte| *byte == b'\n').count();
            if let Err(error) = (self.take)(1 + self.breaks.get() - within, item) {
                *self.refused = Some(error);
                return Err(A::Error::custom("an item was refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_with_the_lines_they_begin_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.json");
        let text = "\u{feff}\n[{\"a\":\n 1}, {}\n,\n{\"b\": \"é\"}\n]\n";
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        each(&path, |line, item| {
            found.push((line, item.to_owned()));
            Ok(())
        })
        .unwrap();
        let item = |line, text: &str| (line, text.to_owned());
        assert_eq!(found, [item(2, "{\"a\":\n 1}"), item(3, "{}"), item(5, "{\"b\": \"é\"}")]);
        let refused = each(&path, |line, _| if line == 3 { Err(Error::Interrupted) } else { Ok(()) });
        assert!(matches!(refused, Err(Error::Interrupted)));
        for (text, says) in [("[1,\n2", ":2: EOF"), ("[1]\n\n x", ":3: trailing"), ("{}", ":1: invalid type")]
        {
            std::fs::write(&path, text).unwrap();
            let message = each(&path, |_, _| Ok(())).unwrap_err().to_string();
            assert!(message.contains(&format!("rows.json{says}")), "{message}");
        }
    }
}
