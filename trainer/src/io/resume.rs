//! The state of an interrupted training: a folder that is whole or not there.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::adapter::write_safetensors;
use super::atomic;
use crate::error::{Error, Result};
use crate::training::adamw::AdamW;

const PREFIX: &str = "state-";
const TENSORS: &str = "state.safetensors";
const FACTS: &str = "state.json";

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    step: u64,
}

/// A saved state.
#[derive(Debug)]
pub struct Saved {
    /// Steps taken.
    pub step: u64,
    /// Weights and moments by name.
    pub tensors: HashMap<String, Tensor>,
}

/// Saves the optimizer's state, then removes older ones.
///
/// # Errors
/// [`Error::Storage`]; the older state is then still there.
pub fn save(dir: &Path, optimizer: &AdamW) -> Result<()> {
    let step = optimizer.steps();
    let place = dir.join(format!("{PREFIX}{step:08}"));
    if place.exists() {
        return Ok(());
    }
    let draft = dir.join(format!("{PREFIX}{step:08}.partial"));
    let result = fill(&draft, optimizer, step).and_then(|()| atomic::rename_dir(&draft, &place));
    if let Err(error) = result {
        let _ = fs::remove_dir_all(&draft);
        return Err(error);
    }
    for older in states(dir)?.into_iter().filter(|(other, _)| *other < step) {
        fs::remove_dir_all(&older.1).map_err(Error::storage(&older.1))?;
    }
    Ok(())
}

fn fill(draft: &Path, optimizer: &AdamW, step: u64) -> Result<()> {
    atomic::create_dir(draft)?;
    write_safetensors(&draft.join(TENSORS), &optimizer.state())?;
    let facts = serde_json::to_vec(&Facts { step })
        .map_err(|e| Error::Storage { path: draft.to_owned(), source: std::io::Error::other(e) })?;
    atomic::write(&draft.join(FACTS), &facts)
}

/// The latest saved state.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Data`] when it cannot be read.
pub fn load(dir: &Path) -> Result<Option<Saved>> {
    let Some((_, place)) = states(dir)?.into_iter().max() else { return Ok(None) };
    let damaged = |file: &str, reason: String| {
        Error::Data(format!(
            "{}: {reason}; delete the folder to go on from the state before it or from the start",
            place.join(file).display()
        ))
    };
    let text = fs::read_to_string(place.join(FACTS)).map_err(Error::storage(place.join(FACTS)))?;
    let facts: Facts = serde_json::from_str(&text).map_err(|e| damaged(FACTS, e.to_string()))?;
    let tensors = candle_core::safetensors::load(place.join(TENSORS), &Device::Cpu)
        .map_err(|e| damaged(TENSORS, e.to_string()))?;
    Ok(Some(Saved { step: facts.step, tensors }))
}

/// Removes every saved state.
///
/// # Errors
/// [`Error::Storage`].
pub fn clear(dir: &Path) -> Result<()> {
    states(dir)?.iter().try_for_each(|(_, place)| fs::remove_dir_all(place).map_err(Error::storage(place)))
}

fn states(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::storage(dir))? {
        let path = entry.map_err(Error::storage(dir))?.path();
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    Ok(found)
}
