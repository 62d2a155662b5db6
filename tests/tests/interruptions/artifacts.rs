//! Artifacts without the parts that depend on time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::sandbox::read_all;

/// Files by name, byte for byte except for times and speeds: `metrics.jsonl` is compared without `tokens/s`, TensorBoard
/// events without wall time and `tokens/s`, and an adapter's `_SUCCESS.json` without its size, which includes both.
pub(crate) type Comparable = BTreeMap<String, Content>;

#[derive(Debug, PartialEq)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    Json(Vec<Value>),
    /// (step, tag, bits of the value), each step once.
    Events(Vec<(u64, String, u32)>),
}

/// The published artifacts under `output`.
pub(crate) fn comparable(output: &Path) -> Comparable {
    let mut found = Comparable::new();
    for (name, bytes) in read_all(output) {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
        if name.starts_with(".partial") {
            continue;
        } else if folder.ends_with("tensorboard") {
            // A resumed run has several files, with times in their names.
            let events = Content::Events(Vec::new());
            let Content::Events(all) = found.entry(folder.to_owned()).or_insert(events) else {
                panic!("{folder} is no file");
            };
            all.extend(events_of(&bytes));
            all.sort();
        } else if file == "metrics.jsonl" {
            let rows = String::from_utf8(bytes).unwrap();
            let rows = rows.lines().map(|line| {
                let mut row: Value = serde_json::from_str(line).unwrap();
                let speed = row.as_object_mut().unwrap().remove("tokens/s");
                assert!(speed.is_some_and(|speed| speed.as_f64() > Some(0.0)), "{line}");
                row
            });
            found.insert(name.clone(), Content::Json(rows.collect()));
        } else {
            found.insert(name.clone(), Content::Bytes(bytes));
        }
    }
    found
}

/// The scalars of an event file: frames of length, checksum, `Event`, checksum.
fn events_of(mut bytes: &[u8]) -> Vec<(u64, String, u32)> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length) as usize;
        let Some(event) = rest.get(4..4 + length) else { break };
        bytes = rest.get(4 + length + 4..).unwrap_or_default();
        let event = fields(event);
        let step = event.iter().find(|(field, _)| *field == 2).map_or(0, |(_, value)| value.number());
        for (_, summary) in event.iter().filter(|(field, _)| *field == 5) {
            for (_, value) in fields(summary.bytes()) {
                let value = fields(value.bytes());
                let tag = String::from_utf8(value[0].1.bytes().to_vec()).unwrap();
                if tag != "train/tokens/s" {
                    found.push((step, tag, value[1].1.number() as u32));
                }
            }
        }
    }
    found
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Field<'_> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("a number was expected"),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => panic!("bytes were expected"),
        }
    }
}

/// The fields of a protobuf message.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let fixed = |message: &mut &[u8], width: usize| {
            let (value, rest) = message.split_at(width);
            *message = rest;
            value.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)),
            1 => Field::Number(fixed(&mut message, 8)),
            5 => Field::Number(fixed(&mut message, 4)),
            2 => {
                let length = varint(&mut message) as usize;
                let (value, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(value)
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, field));
    }
    found
}

fn varint(message: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((byte, rest)) = message.split_first() {
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// The complete lines of a file; none if it does not exist.
pub(crate) fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}
