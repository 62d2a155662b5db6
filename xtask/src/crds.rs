//! The CustomResourceDefinitions, for `kubectl apply -f crds/` and for the Helm chart.

use std::path::{Path, PathBuf};

use anyhow::Result;

const FOLDERS: [&str; 2] = ["crds", "charts/stic-operator/files/crds"];

pub(crate) fn files() -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for (name, crd) in stic_crds::schema::all()? {
        let text = format!(
            "# Generated from crds/src by `cargo xtask generate`. Do not edit.\n{}",
            serde_saphyr::to_string(&stic_crds::schema::manifest(&crd)?)?
        );
        files.extend(FOLDERS.map(|folder| (Path::new(folder).join(&name), text.clone())));
    }
    Ok(files)
}
