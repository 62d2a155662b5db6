//! Safetensors files, written deterministically: the same tensors give the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};

use super::atomic;
use crate::error::{Error, Result};

/// Writes `tensors` in the order of their names.
///
/// # Errors
/// [`Error::Storage`].
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    // safetensors keeps the metadata in a hash map: with more than one entry the bytes would vary.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let contiguous: Vec<(&String, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let bytes = safetensors::serialize(
        contiguous.iter().map(|(name, tensor)| (name.as_str(), tensor)),
        Some(metadata),
    )
    .map_err(|e| Error::Storage { path: path.to_owned(), source: std::io::Error::other(e.to_string()) })?;
    atomic::write(path, &bytes)
}
