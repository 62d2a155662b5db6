//! The YAML in this folder and in the Helm chart is what the types say.

use std::path::Path;

use stic_crds::schema;

/// Seen from the folder of this crate.
const FOLDERS: [&str; 2] = [".", "../charts/stic-operator/files/crds"];

#[test]
fn the_definitions_on_disk_are_the_generated_ones() {
    for (name, crd) in schema::all().expect("the schemas are JSON") {
        let wanted = serde_json::Value::Object(schema::manifest(&crd).expect("it is JSON"));
        for folder in FOLDERS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(&name);
            let text = std::fs::read_to_string(&path).expect("the file is there");
            let stored: serde_json::Value = serde_saphyr::from_str(&text).expect("the file is YAML");
            assert!(stored == wanted, "{} is out of date: run make crds", path.display());
        }
    }
}
