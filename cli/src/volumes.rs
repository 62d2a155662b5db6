//! Volumes as folders of this machine.

use std::path::{Path, PathBuf};

use stic_contract::VolumePath;
use stic_operator::Validated;
use stic_operator::validated::MODEL_IMAGE;

use crate::error::{Failure, Result};

/// How claims become folders.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    /// Those given on the command line.
    pub given: Vec<(String, PathBuf)>,
    /// The work folder, absolute.
    pub work_dir: PathBuf,
}

impl Volumes {
    /// The folder of `claim`, for a manifest in `folder`.
    pub(crate) fn locate(&self, claim: &str, folder: &Path) -> PathBuf {
        if let Some((_, given)) = self.given.iter().rev().find(|(name, _)| name == claim) {
            return absolute(given);
        }
        let beside = folder.join("volumes").join(claim);
        if beside.is_dir() { absolute(&beside) } else { self.made(claim) }
    }

    /// Where `location` is.
    pub(crate) fn resolve(&self, location: &VolumePath, folder: &Path) -> PathBuf {
        let root = self.locate(&location.volume, folder);
        if location.path.is_empty() { root } else { root.join(&location.path) }
    }

    fn made(&self, claim: &str) -> PathBuf {
        self.work_dir.join("volumes").join(claim)
    }

    /// A folder with one link per volume of `run`, as the trainer expects them.
    pub(crate) fn mount(&self, run: &Validated, folder: &Path, mounts: &Path) -> Result<()> {
        std::fs::create_dir_all(mounts).map_err(Failure::storage(mounts))?;
        let output = run.output.location.volume.as_str();
        let image = run.model.image.is_some().then_some(MODEL_IMAGE);
        for claim in run.input_claims().into_iter().chain(image).chain([output]) {
            let target = self.locate(claim, folder);
            if claim == output {
                std::fs::create_dir_all(&target).map_err(Failure::storage(&target))?;
            }
            if !target.is_dir() {
                let beside = folder.join("volumes").join(claim);
                return Err(Failure::config(format!(
                    "volume {claim} of {}: no folder {} and none {}; name its folder with --volume {claim}=DIR",
                    run.run.name,
                    beside.display(),
                    target.display(),
                )));
            }
            let link = mounts.join(claim);
            if std::fs::read_link(&link).is_ok_and(|old| old == target) {
                continue;
            }
            if link.symlink_metadata().is_ok() {
                std::fs::remove_file(&link).map_err(Failure::storage(&link))?;
            }
            std::os::unix::fs::symlink(&target, &link).map_err(Failure::storage(&link))?;
        }
        Ok(())
    }
}

/// The path from the root, links resolved where it exists.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_then_the_manifests_neighbour_then_the_work_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path().canonicalize().expect("it exists");
        let manifests = root.join("manifests");
        std::fs::create_dir_all(manifests.join("volumes/models")).expect("a folder");
        let mut volumes = Volumes { given: Vec::new(), work_dir: root.join("work") };
        assert_eq!(volumes.locate("models", &manifests), manifests.join("volumes/models"));
        assert_eq!(volumes.locate("stic", &manifests), root.join("work/volumes/stic"));
        volumes.given.push(("models".into(), root.join("elsewhere")));
        assert_eq!(volumes.locate("models", &manifests), root.join("elsewhere"));
        let adapter = VolumePath { volume: "stic".into(), path: "a/b".into() };
        assert_eq!(volumes.resolve(&adapter, &manifests), root.join("work/volumes/stic/a/b"));
    }
}
