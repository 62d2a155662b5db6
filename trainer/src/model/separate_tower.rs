//! A vision tower in a folder of its own, which original LLaVA-1.5 repositories need.

use std::path::{Path, PathBuf};

use super::config::{CONFIG_FILE, VisionConfig};
use super::families::{CheckpointLayout, ModelConfig};
use super::weights::Weights;
use crate::error::{Error, Result};

/// The folder of a separate vision tower, which holds at least its config.
#[derive(Debug)]
pub(super) struct SeparateTower {
    pub(super) dir: PathBuf,
    /// Whether it also holds the weights, because the checkpoint has none.
    pub(super) has_weights: bool,
}

impl SeparateTower {
    /// Finds the tower of the model in `dir`; `None` where the checkpoint has its own, or there is no folder.
    pub(super) fn find(dir: &Path, config: &ModelConfig, weights: &Weights) -> Option<Self> {
        let has_weights = !has_tower(weights);
        if !has_weights && config.vision.is_some() {
            return None;
        }
        let dir = tower_dir(dir, config.vision_tower_name.as_deref().unwrap_or_default())?;
        Some(Self { dir, has_weights })
    }
}

/// The config of the model in `dir`, with that of its vision tower, wherever that is.
///
/// # Errors
/// [`Error::Config`] naming the file and the field, or the folder where the tower is expected.
pub fn complete_config(dir: &Path) -> Result<ModelConfig> {
    let mut config = ModelConfig::from_dir(dir)?;
    if config.layout == CheckpointLayout::Original {
        let mut weights = Weights::open_to_check(dir, config.family.renames(), candle_core::DType::F32)?;
        config.vision = Some(resolve_vision(dir, &config, &mut weights)?);
    }
    Ok(config)
}

/// The config of the vision tower. The weights of a separate tower are added to `weights`.
pub(super) fn resolve_vision(
    dir: &Path,
    config: &ModelConfig,
    weights: &mut Weights,
) -> Result<VisionConfig> {
    let name = config.vision_tower_name.as_deref().unwrap_or_default();
    if let Some(tower) = SeparateTower::find(dir, config, weights) {
        if tower.has_weights {
            weights.add_dir(&tower.dir)?;
        }
        return VisionConfig::from_tower_dir(&tower.dir, config.family.vision_tower());
    }
    let place = dir.join("vision_tower");
    if !has_tower(weights) {
        return Err(Error::Config(format!(
            "{}: the checkpoint has no vision tower of its own (original LLaVA-1.5 repositories keep it in {name:?}); copy that repository to {}",
            dir.display(),
            place.display()
        )));
    }
    config.vision.clone().ok_or_else(|| {
        Error::Config(format!(
            "{}: field mm_vision_tower is {name:?}, whose sizes are not known; copy its config.json to {}",
            dir.join(CONFIG_FILE).display(),
            place.display()
        ))
    })
}

fn has_tower(weights: &Weights) -> bool {
    weights.contains("vision_tower.embeddings.class_embedding")
}

/// `vision_tower/`, or a folder with the last part of `name`, in the model's folder or next to it.
fn tower_dir(dir: &Path, name: &str) -> Option<PathBuf> {
    let last = name.rsplit('/').next().filter(|last| !last.is_empty() && *last != "..");
    let mut places = vec![dir.join("vision_tower")];
    if let Some(last) = last {
        places.push(dir.join(last));
        places.extend(dir.parent().map(|parent| parent.join(last)));
    }
    places.into_iter().find(|place| place.join(CONFIG_FILE).is_file())
}
