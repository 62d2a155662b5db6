//! A row of a published file, whatever its format.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// A row of a published file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its file and row, for messages.
    pub place: String,
    /// The name of its file, without folders.
    pub file: String,
    /// Its number in its file, from 1.
    pub row: u64,
    /// By column. Text in TSV is always a string; an empty cell is null.
    pub fields: Map<String, Value>,
    pub image: Option<Image>,
}

/// An image of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    File(PathBuf),
    /// The bytes of a JPEG or PNG file.
    Bytes(Vec<u8>),
}
