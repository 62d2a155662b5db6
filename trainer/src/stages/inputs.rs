//! The model and the adapter that a step starts from.

use std::path::{Path, PathBuf};

use candle_core::Device;
use stic_contract::config::ModelInput;
use stic_contract::recipe::Precision;
use stic_contract::{ArtifactRef, Digest};

use crate::checkpoint::adapter::{self, TrainedProjector};
use crate::error::{Error, Result};
use crate::inference::{ModelFiles, Vlm};
use crate::io::artifact::{open_input, read_marker};
use crate::io::file_digest;
use crate::io::volumes::Volumes;
use crate::model::lora::LoraAdapter;

pub(super) fn load_model(
    volumes: &Volumes,
    model: &ModelInput,
    precision: Precision,
    device: &Device,
) -> Result<Vlm> {
    Vlm::load(&volumes.resolve(&model.location)?, model.image_layout, precision, device)
}

/// The adapter that a run continues from.
pub(super) fn load_adapter(
    volumes: &Volumes,
    vlm: &Vlm,
    reference: Option<&ArtifactRef>,
) -> Result<Option<LoraAdapter>> {
    reference
        .map(|reference| vlm.load_adapter(&adapter_dir(volumes, reference)?, TrainedProjector::Refuse))
        .transpose()
}

/// The digest of the adapter in `dir`, which must fit the model and be the one that another run recorded, if one did.
pub(super) fn check_adapter(dir: &Path, recorded: Option<&Digest>, files: &ModelFiles) -> Result<Digest> {
    adapter::load(dir, &files.config.text, &Device::Cpu, TrainedProjector::Refuse)?;
    let Some(recorded) = recorded else { return adapter::digest(dir) };
    let path = dir.join(adapter::WEIGHTS_FILE);
    let found = file_digest(&path)?;
    if *recorded == found {
        return Ok(found);
    }
    Err(Error::Data(format!(
        "{}: has digest {found}, but the run that trained it recorded {recorded}; the adapter was changed, restore it or run that run again with a raised rerun",
        path.display()
    )))
}

/// The folder of an adapter, verified: an artifact of another run, or a user's own folder.
fn adapter_dir(volumes: &Volumes, reference: &ArtifactRef) -> Result<PathBuf> {
    let dir = volumes.resolve(&reference.location)?;
    if read_marker(&dir)?.is_some() {
        return open_input(volumes, reference);
    }
    // Another run recorded the digest of the weights alone.
    let found = adapter::digest(&dir)?;
    if found == reference.digest || file_digest(&dir.join(adapter::WEIGHTS_FILE))? == reference.digest {
        return Ok(dir);
    }
    Err(Error::Data(format!(
        "{}: has digest {found}, but {} was recorded; the adapter was changed after the run started, restore it",
        dir.display(),
        reference.digest
    )))
}
