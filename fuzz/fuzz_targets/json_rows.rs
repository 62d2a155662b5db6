#![no_main]
//! The reader that holds one row in memory agrees with serde_json, which holds the whole document.

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use stic_fuzz::folder;
use stic_trainer::data::rows;

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&[("items.json", bytes)]);
    let mut found = Vec::new();
    let read = rows::for_each(&folder.path().join("items.json"), &["id"], |row| {
        found.push((row.line, String::from_utf8_lossy(row.bytes).into_owned()));
        Ok(())
    });
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    let is_blank = |text: &str| text.trim_matches([' ', '\t', '\r', '\n']).is_empty();
    assert!(found.iter().all(|(line, text)| (1..=lines).contains(line) && !is_blank(text)));
    // What is no array may be JSON Lines or an object.
    if let Some(items) = array(bytes) {
        read.expect("serde_json reads it");
        assert_eq!(found, items);
    }
});

/// The items and the lines they begin on.
fn array(bytes: &[u8]) -> Option<Vec<(usize, String)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let line = |item: &RawValue| {
        let start = item.get().as_ptr().addr() - text.as_ptr().addr();
        1 + text[..start].matches('\n').count()
    };
    Some(items.into_iter().map(|item| (line(item), item.get().to_owned())).collect())
}
