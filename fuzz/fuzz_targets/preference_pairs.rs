#![no_main]
//! Preference pairs from a file.

use libfuzzer_sys::fuzz_target;
use stic_fuzz::folder;
use stic_trainer::data::preferences::{self, FIELDS};
use stic_trainer::data::rows;
use stic_trainer::data::template::IMAGE_PLACEHOLDER;

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&[("pairs.jsonl", bytes)]);
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    let _ = rows::for_each(&folder.path().join("pairs.jsonl"), FIELDS, |row| {
        assert!((1..=lines).contains(&row.line));
        if let Ok(pair) = preferences::parse(&row) {
            assert_eq!(preferences::id(&row).as_ref(), Some(&pair.id));
            assert!(!pair.id.is_empty() && !pair.image.is_empty());
            for text in [&pair.prompt, &pair.chosen, &pair.rejected] {
                assert!(!text.trim().is_empty() && !text.contains(IMAGE_PLACEHOLDER), "{pair:?}");
            }
        }
        Ok(())
    });
});
