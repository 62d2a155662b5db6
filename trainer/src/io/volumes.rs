//! Volumes, as folders under one root.

use std::path::{Component, Path, PathBuf};

use stic_contract::VolumePath;

use crate::error::{Error, Result};

/// The folder that volumes are mounted under.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
}

impl Volumes {
    /// Under `root`.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where `location` is on this machine.
    ///
    /// # Errors
    /// [`Error::Config`] for a path that would leave its volume, or a volume that is not mounted.
    pub fn resolve(&self, location: &VolumePath) -> Result<PathBuf> {
        let plain = |path: &str| {
            Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        };
        let one_folder =
            !location.volume.is_empty() && !location.volume.contains(['/', '\\']) && plain(&location.volume);
        if !one_folder || !plain(&location.path) {
            return Err(Error::Config(format!(
                "path {location}: leaves its volume; use a path inside the volume, without a leading / and without .."
            )));
        }
        let volume = self.root.join(&location.volume);
        if !volume.is_dir() {
            return Err(Error::Config(format!(
                "volume {:?}: {} is no folder; mount the volume there",
                location.volume,
                volume.display()
            )));
        }
        Ok(if location.path.is_empty() { volume } else { volume.join(&location.path) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_its_volume() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("data")).expect("a volume");
        let volumes = Volumes::new(root.path().to_owned());
        let at = |volume: &str, path: &str| {
            volumes.resolve(&VolumePath { volume: volume.into(), path: path.into() })
        };
        assert_eq!(at("data", "a/b").expect("inside"), root.path().join("data/a/b"));
        for (volume, path) in [("data", "../x"), ("data", "/etc"), ("..", ""), ("data/..", ""), ("", "a")] {
            assert!(
                at(volume, path).expect_err("outside").to_string().contains("leaves its volume"),
                "{volume} {path}"
            );
        }
        assert!(at("other", "").expect_err("not there").to_string().contains("mount the volume"));
    }
}
