//! Reads the expected values.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// `trainer/tests/data/<name>`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub(crate) fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

pub(crate) fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As `noise` in the script.
pub(crate) fn noise(width: u32, height: u32, seed: u32) -> RgbImage {
    let need = (width * height * 3) as usize;
    let mut data = Vec::with_capacity(need + 32);
    let mut n = 0_u32;
    while data.len() < need {
        data.extend(Sha256::new().chain_update(seed.to_le_bytes()).chain_update(n.to_le_bytes()).finalize());
        n += 1;
    }
    data.truncate(need);
    RgbImage::from_raw(width, height, data).unwrap()
}
