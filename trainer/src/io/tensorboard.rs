//! TensorBoard event files, with scalars only.
//!
//! The format is a record frame and four protobuf fields (tensorflow `core/lib/io/record_writer.cc`,
//! `core/util/event.proto`, `core/framework/summary.proto`). The crate tensorboard-rs is not used because it writes from
//! a thread that panics when the disk is full.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// The prefix of every file's name.
const PREFIX: &str = "events.out.tfevents.";
/// The bytes of a record before and after its event.
const FRAME: (usize, usize) = (8 + 4, 4);
/// The bytes of an event before its step: tag and value of the wall time, and the step's tag.
const BEFORE_STEP: usize = 1 + 8 + 1;

/// An event file that is open for appending.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventFile {
    /// Creates a file in `dir`. A resumed run has several, which TensorBoard reads as one.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn create(dir: &Path, first_step: u64) -> Result<Self> {
        let path = dir.join(format!("{PREFIX}{:010}.stic.{first_step}", now() as u64));
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(Error::storage(&path))?;
        let mut events = Self { path, out: BufWriter::new(file) };
        let mut version = Vec::new();
        field_bytes(&mut version, 3, b"brain.Event:2");
        events.record(&event(0, &version))?;
        Ok(events)
    }

    /// Appends a scalar of one step.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<()> {
        let mut scalar = Vec::new();
        field_bytes(&mut scalar, 1, tag.as_bytes());
        scalar.push(2 << 3 | 5);
        scalar.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        field_bytes(&mut summary, 1, &scalar);
        let mut body = Vec::new();
        field_bytes(&mut body, 5, &summary);
        self.record(&event(step, &body))
    }

    /// Writes the buffered records to the file.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(Error::storage(&self.path))
    }

    /// Appends a record: length, its checksum, the bytes, their checksum.
    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut frame = length.to_vec();
        frame.extend(masked_crc(&length).to_le_bytes());
        frame.extend(bytes);
        frame.extend(masked_crc(bytes).to_le_bytes());
        self.out.write_all(&frame).map_err(Error::storage(&self.path))
    }
}

/// Truncates the event files in `dir` to the first `steps` steps, because later steps will be written again, and cuts off
/// incomplete records. A file without a remaining scalar is deleted.
///
/// # Errors
/// [`Error::Storage`].
pub fn truncate_after(dir: &Path, steps: u64) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::storage(dir))? {
        let path = entry.map_err(Error::storage(dir))?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(Error::storage(&path))?;
        let mut kept = 0;
        let mut scalars = 0;
        while let Some((step, length)) = first_record(&bytes[kept..]).filter(|(step, _)| *step <= steps) {
            kept += length;
            scalars += usize::from(step > 0);
        }
        let result = if scalars == 0 {
            std::fs::remove_file(&path)
        } else {
            OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(kept as u64))
        };
        result.map_err(Error::storage(&path))?;
    }
    Ok(())
}

/// The step and the length of the record that `bytes` begin with; `None` where it is incomplete or damaged.
fn first_record(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    let end = FRAME.0.checked_add(length)?;
    let event = bytes.get(FRAME.0..end)?;
    let checksum = bytes.get(end..end + FRAME.1)?;
    if checksum != masked_crc(event).to_le_bytes() {
        return None;
    }
    let mut step = 0;
    for (place, byte) in event.get(BEFORE_STEP..)?.iter().take(10).enumerate() {
        step |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some((step, end + FRAME.1))
}

/// An `Event` with the fields wall time (1), step (2), and `body`.
fn event(step: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(now().to_le_bytes());
    bytes.push(2 << 3);
    varint(&mut bytes, step);
    bytes.extend(body);
    bytes
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_masked_castagnoli() {
        // RFC 3720, B.4: CRC-32C of 32 zero bytes.
        assert_eq!(CRC.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn varints_are_those_of_protobuf() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }

    #[test]
    fn files_are_truncated_after_a_step_and_deleted_without_scalars() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |first: u64, steps: std::ops::RangeInclusive<u64>| {
            let mut events = EventFile::create(dir.path(), first).expect("a file");
            for step in steps {
                events.scalar("train/loss", 0.5, step).expect("written");
                events.scalar("train/norm", 1.5, step).expect("written");
            }
            events.flush().expect("written");
            events.path
        };
        let lengths = |path: &Path| {
            let bytes = std::fs::read(path).expect("there");
            let mut steps = Vec::new();
            let mut at = 0;
            while let Some((step, length)) = first_record(&bytes[at..]) {
                steps.push(step);
                at += length;
            }
            assert_eq!(at, bytes.len(), "no incomplete record is left");
            steps
        };
        let (first, second) = (write(0, 1..=200), write(200, 201..=203));
        let whole = std::fs::read(&first).expect("there");
        std::fs::write(&first, &whole[..whole.len() - 5]).expect("torn");
        truncate_after(dir.path(), 201).expect("cut");
        assert_eq!(lengths(&first).len(), 1 + 2 * 200 - 1);
        assert_eq!(lengths(&second), [0, 201, 201]);
        truncate_after(dir.path(), 150).expect("cut");
        assert_eq!(lengths(&first).last(), Some(&150));
        assert!(!second.exists());
        let mut broken = std::fs::read(&first).expect("there");
        let middle = broken.len() / 2;
        broken[middle] ^= 1;
        std::fs::write(&first, broken).expect("written");
        truncate_after(dir.path(), 150).expect("cut");
        assert!(lengths(&first).last().is_some_and(|step| (70..80).contains(step)));
    }
}
