//! Volumes, which are folders under one root.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use stic_contract::VolumePath;

use crate::error::{Error, Result};

/// The folder that volumes are mounted under.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
}

impl Volumes {
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The path of `location` on this machine.
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
                "volume {:?}: {} is not a folder; mount the volume there",
                location.volume,
                volume.display()
            )));
        }
        // `kubectl-stic run` links a user's folder. Messages show that folder, not the link.
        let volume = match volume.read_link() {
            Ok(target) if target.is_absolute() => target,
            _ => volume,
        };
        Ok(if location.path.is_empty() { volume } else { volume.join(&location.path) })
    }

    /// The folder at `location`, which must exist. `field` names it, and `unusable` makes the error of another kind.
    ///
    /// # Errors
    /// `unusable`, with what there is instead of the folder and `fix`; [`Error::Storage`].
    pub fn folder(
        &self,
        location: &VolumePath,
        field: &str,
        unusable: fn(String) -> Error,
        fix: &str,
    ) -> Result<PathBuf> {
        let folder = self.resolve(location)?;
        let what = match std::fs::metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => return Ok(folder),
            Ok(_) => "is a file, not a folder".to_owned(),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                format!("does not exist; {}", contents(&folder))
            }
            Err(error) => return Err(Error::storage(&folder)(error)),
        };
        Err(unusable(format!("{field}: {} {what}; {fix}", folder.display())))
    }
}

/// What there is in the deepest folder on the way to `wanted` that exists, for a message.
#[must_use]
pub fn contents(wanted: &Path) -> String {
    const SHOWN: usize = 8;
    let Some(folder) = wanted.ancestors().find(|folder| folder.is_dir()) else {
        return format!("there is no folder on the way to {}", wanted.display());
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let slash = if entry.file_type().is_ok_and(|kind| kind.is_dir()) { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let list = match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    };
    format!("{} contains {list}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_volume() {
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
