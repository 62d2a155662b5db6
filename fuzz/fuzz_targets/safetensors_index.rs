#![no_main]
//! `model.safetensors.index.json`: every shard is a file beside it.

use libfuzzer_sys::fuzz_target;
use stic_fuzz::folder;
use stic_trainer::model::weight_files::weight_files;

fuzz_target!(|bytes: &[u8]| {
    let files = [("model.safetensors.index.json", bytes), ("a.safetensors", b""), ("b.safetensors", b"")];
    let folder = folder(&files);
    let Ok(shards) = weight_files(folder.path()) else { return };
    assert!(!shards.is_empty() && shards.is_sorted_by(|a, b| a < b));
    for shard in shards {
        assert!(["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name)).contains(&shard));
    }
});
