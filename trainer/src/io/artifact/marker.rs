//! Reads `_SUCCESS.json` and verifies artifacts against it.

use std::fs;
use std::path::{Path, PathBuf};

use stic_contract::artifact::SUCCESS_FILE;
use stic_contract::{ArtifactRef, Digest, SuccessMarker};

use crate::error::{Error, Result};
use crate::io::file_digest;
use crate::io::volumes::Volumes;

/// The folder of an artifact that another step created, verified against `reference`.
///
/// # Errors
/// [`Error::Data`] when the artifact is not complete or has another digest.
pub fn open_input(volumes: &Volumes, reference: &ArtifactRef) -> Result<PathBuf> {
    let dir = volumes.resolve(&reference.location)?;
    let marker = read_marker(&dir)?.ok_or_else(|| not_complete(&dir))?;
    if marker.digest != reference.digest {
        return Err(digest_differs(&dir, &reference.digest, &marker.digest));
    }
    verify(&dir, &marker)?;
    Ok(dir)
}

/// The marker of the artifact in `dir`, which is verified.
///
/// # Errors
/// [`Error::Data`] when the artifact is not complete or was changed.
pub fn inspect(dir: &Path) -> Result<SuccessMarker> {
    let marker = read_marker(dir)?.ok_or_else(|| not_complete(dir))?;
    verify(dir, &marker)?;
    Ok(marker)
}

/// `_SUCCESS.json` of `dir`; `None` when there is no such file.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] when it cannot be deserialized.
pub fn read_marker(dir: &Path) -> Result<Option<SuccessMarker>> {
    let path = dir.join(SUCCESS_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::storage(&path)(e)),
    };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        Error::Data(format!("{}: {e}; delete the folder and run the step again", path.display()))
    })
}

/// Checks that the payload and its companions have the digests of `marker`.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] naming the file that was changed.
pub fn verify(dir: &Path, marker: &SuccessMarker) -> Result<()> {
    let companions = marker.companions.iter().map(|(name, digest)| (name.as_str(), digest));
    for (name, recorded) in companions.chain([(marker.kind.payload_file(), &marker.digest)]) {
        let path = dir.join(name);
        let found = file_digest(&path)?;
        if found != *recorded {
            return Err(digest_differs(&path, recorded, &found));
        }
    }
    Ok(())
}

fn not_complete(dir: &Path) -> Error {
    Error::Data(format!(
        "{}: {SUCCESS_FILE} not found, so the artifact is not complete; run the step that creates it",
        dir.display()
    ))
}

fn digest_differs(path: &Path, expected: &Digest, found: &Digest) -> Error {
    Error::Data(format!(
        "{}: has digest {found}, but {expected} was recorded, so the file was changed later; restore it or run the step again with a raised rerun",
        path.display()
    ))
}
