//! Writes the CustomResourceDefinitions to the folder of this crate, and to that of the Helm chart:
//! `cargo run -p stic-crds --example generate-crds`. With `--check` it writes nothing, and fails if a file is not what
//! it would write.

use std::error::Error;
use std::path::Path;

/// Seen from the folder of this crate.
const FOLDERS: [&str; 2] = [".", "../charts/stic-operator/files/crds"];

fn main() -> Result<(), Box<dyn Error>> {
    let check = std::env::args().any(|argument| argument == "--check");
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, crd) in stic_crds::schema::all()? {
        let wanted = format!(
            "# Generated from crds/src by `cargo run -p stic-crds --example generate-crds`. Do not edit.\n{}",
            serde_saphyr::to_string(&stic_crds::schema::manifest(&crd)?)?
        );
        for folder in FOLDERS {
            let path = crate_folder.join(folder).join(&name);
            if !check {
                std::fs::write(&path, &wanted)?;
            } else if std::fs::read_to_string(&path).unwrap_or_default() != wanted {
                return Err(format!("{} is out of date: run make crds", path.display()).into());
            }
        }
    }
    Ok(())
}
