//! Volumes as folders on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stic_contract::VolumePath;
use stic_operator::Validated;
use stic_operator::validated::MODEL_IMAGE;

use crate::error::{Failure, Result};

/// Maps claims to folders.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    /// The folders given on the command line, by claim.
    pub given: Vec<(String, PathBuf)>,
    /// The work folder, absolute.
    pub work_dir: PathBuf,
}

impl Volumes {
    /// The folder that the command line gives for `claim`.
    fn given(&self, claim: &str) -> Option<&Path> {
        self.given.iter().rev().find(|(name, _)| name == claim).map(|(_, given)| given.as_path())
    }

    /// The folder of `claim`, for a manifest in `folder`.
    pub(crate) fn folder_of(&self, claim: &str, folder: &Path) -> PathBuf {
        if let Some(given) = self.given(claim) {
            return absolute(given);
        }
        let beside = folder.join("volumes").join(claim);
        if beside.is_dir() { absolute(&beside) } else { self.work_dir.join("volumes").join(claim) }
    }

    /// The path of `location`, for a manifest in `folder`.
    pub(crate) fn resolve(&self, location: &VolumePath, folder: &Path) -> PathBuf {
        let root = self.folder_of(&location.volume, folder);
        if location.path.is_empty() { root } else { root.join(&location.path) }
    }

    /// The folders of all claims that `run` uses, by claim.
    pub(crate) fn claim_folders(&self, run: &Validated, folder: &Path) -> BTreeMap<String, PathBuf> {
        let output = run.output.location.volume.as_str();
        let claims = run.input_claims().into_iter().chain([output]);
        claims.map(|claim| (claim.to_owned(), self.folder_of(claim, folder))).collect()
    }

    /// The names given on the command line that none of `runs` uses.
    pub(crate) fn unused(&self, runs: &[Validated]) -> Vec<&str> {
        let is_used = |name: &str| runs.iter().any(|run| run.claims().any(|claim| claim == name));
        // The model of an image is a folder, too, when there is no cluster.
        let is_model = |name: &str| name == MODEL_IMAGE && runs.iter().any(|run| run.model_image().is_some());
        self.given
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !is_used(name) && !is_model(name))
            .collect()
    }

    /// Fills the folder `mounts` with a link per volume of `run`, as the trainer expects them.
    pub(crate) fn mount(&self, run: &Validated, folder: &Path, mounts: &Path) -> Result<()> {
        std::fs::create_dir_all(mounts).map_err(Failure::storage(mounts))?;
        let output = run.output.location.volume.as_str();
        let image = run.model_image().is_some().then_some(MODEL_IMAGE);
        for claim in run.input_claims().into_iter().chain(image).chain([output]) {
            let target = self.folder_of(claim, folder);
            if target.is_file() {
                return Err(Failure::config(format!(
                    "{} is a file; --volume needs a folder. Give one with --volume {claim}=DIR.",
                    target.display()
                )));
            }
            if claim == output {
                require_folder("spec.output.volume.path", &self.resolve(&run.output.location, folder))?;
                std::fs::create_dir_all(&target).map_err(Failure::storage(&target))?;
            }
            if !target.is_dir() {
                if let Some(given) = self.given(claim) {
                    return Err(Failure::config(format!(
                        "--volume {claim}={}: no such folder. Create it or correct the path.",
                        given.display()
                    )));
                }
                let beside = folder.join("volumes").join(claim);
                return Err(Failure::config(format!(
                    "volume {claim} of {}: there is neither a folder {} nor a folder {}. Give its folder with --volume {claim}=DIR.",
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

/// Refuses a path that is a file, or that leads through one, where a folder is made. `name` is what gave the path.
pub(crate) fn require_folder(name: &str, path: &Path) -> Result<()> {
    let Some(file) = path.ancestors().find(|part| part.is_file()) else { return Ok(()) };
    let file = file.display();
    Err(Failure::config(format!(
        "{name}: {file} is a file where a folder is needed. Remove it or give another path."
    )))
}

/// The absolute path; with links resolved if it exists.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_manifest_s_folder_and_that_over_the_work_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path().canonicalize().expect("it exists");
        let manifests = root.join("manifests");
        std::fs::create_dir_all(manifests.join("volumes/models")).expect("a folder");
        let mut volumes = Volumes { given: Vec::new(), work_dir: root.join("work") };
        assert_eq!(volumes.folder_of("models", &manifests), manifests.join("volumes/models"));
        assert_eq!(volumes.folder_of("stic", &manifests), root.join("work/volumes/stic"));
        volumes.given.push(("models".into(), root.join("elsewhere")));
        assert_eq!(volumes.folder_of("models", &manifests), root.join("elsewhere"));
        let adapter = VolumePath { volume: "stic".into(), path: "a/b".into() };
        assert_eq!(volumes.resolve(&adapter, &manifests), root.join("work/volumes/stic/a/b"));
    }
}
