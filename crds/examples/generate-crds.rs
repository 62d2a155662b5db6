//! Writes the CustomResourceDefinitions to the folder of this crate: `cargo run -p stic-crds --example generate-crds`.
//! With `--check` it writes nothing, and fails if a file is not what it would write.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let check = std::env::args().any(|argument| argument == "--check");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, crd) in stic_crds::schema::all()? {
        let path = folder.join(&name);
        let wanted = format!(
            "# Generated from crds/src by `cargo run -p stic-crds --example generate-crds`. Do not edit.\n{}",
            serde_saphyr::to_string(&stic_crds::schema::manifest(&crd)?)?
        );
        if !check {
            std::fs::write(&path, wanted)?;
        } else if std::fs::read_to_string(&path).unwrap_or_default() != wanted {
            return Err(
                format!("{name} is out of date: run cargo run -p stic-crds --example generate-crds").into()
            );
        }
    }
    Ok(())
}
