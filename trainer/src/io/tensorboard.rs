//! TensorBoard event files: scalars only.
//!
//! tensorboard-rs writes from a thread that panics when the disk is full, and brings an image library along; the
//! format is a record frame and four protobuf fields (tensorflow `core/lib/io/record_writer.cc`,
//! `core/util/event.proto`, `core/framework/summary.proto`).

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// One event file.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventFile {
    /// Begins a file in `dir`; a resumed run has several, which TensorBoard reads as one.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn create(dir: &Path, first_step: u64) -> Result<Self> {
        let path = dir.join(format!("events.out.tfevents.{:010}.stic.{first_step}", now() as u64));
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(Error::storage(&path))?;
        let mut events = Self { path, out: BufWriter::new(file) };
        let mut version = Vec::new();
        field_bytes(&mut version, 3, b"brain.Event:2");
        events.record(&event(0, &version))?;
        Ok(events)
    }

    /// One scalar of one step.
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

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(Error::storage(&self.path))
    }

    /// Length, its checksum, the bytes, their checksum.
    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut frame = length.to_vec();
        frame.extend(masked_crc(&length).to_le_bytes());
        frame.extend(bytes);
        frame.extend(masked_crc(bytes).to_le_bytes());
        self.out.write_all(&frame).map_err(Error::storage(&self.path))
    }
}

/// An `Event`: wall time (1), step (2), and `body`.
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
}
