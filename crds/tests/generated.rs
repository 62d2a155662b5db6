//! The YAML in this folder is what the types say.

use std::path::Path;

#[test]
fn the_definitions_on_disk_are_the_generated_ones() {
    for (name, crd) in stic_crds::schema::all().expect("the schemas are JSON") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
        let text = std::fs::read_to_string(&path).expect("the file is there");
        let stored: serde_json::Value = serde_saphyr::from_str(&text).expect("the file is YAML");
        let wanted = serde_json::Value::Object(stic_crds::schema::manifest(&crd).expect("it is JSON"));
        assert!(
            stored == wanted,
            "{name} is out of date: run cargo run -p stic-crds --example generate-crds"
        );
    }
}
