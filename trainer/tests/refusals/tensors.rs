//! safetensors files, spoiled.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Edits the header of a file and leaves its data.
pub(crate) fn edit_header(sandbox: &Sandbox, file: &str, edit: impl FnOnce(&mut Value)) {
    let bytes = sandbox.read(file);
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    sandbox.put(file, with_header(header.to_string().as_bytes(), &bytes[8 + length..]));
}

pub(crate) fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// The name of a header's first tensor that holds `part`.
pub(crate) fn named(header: &Value, part: &str) -> String {
    header.as_object().unwrap().keys().find(|name| name.contains(part)).unwrap().clone()
}
