#![no_main]
//! Instruction files, in every container.

use libfuzzer_sys::fuzz_target;
use stic_fuzz::folder;
use stic_trainer::data::instructions::{self, FIELDS};
use stic_trainer::data::rows;
use stic_trainer::data::template::{IMAGE_PLACEHOLDER, Role};

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&[("data.json", bytes)]);
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    let _ = rows::for_each(&folder.path().join("data.json"), FIELDS, |row| {
        assert!((1..=lines).contains(&row.line));
        let head = instructions::head(&row);
        match instructions::parse(&row) {
            Ok(instruction) => {
                assert!(head.image && head.id.as_ref() == Some(&instruction.id));
                assert!(!instruction.id.is_empty() && !instruction.image.is_empty());
                assert!(!instruction.turns.is_empty() && instruction.turns.len().is_multiple_of(2));
                for (index, turn) in instruction.turns.iter().enumerate() {
                    assert_eq!(turn.role == Role::User, index % 2 == 0);
                    assert_eq!(turn.image, index == 0);
                    assert!(!turn.text.trim().is_empty() && !turn.text.contains(IMAGE_PLACEHOLDER), "{turn:?}");
                }
            }
            Err(problem) => assert!((row.line..=lines).contains(&problem.line), "{problem:?}"),
        }
        Ok(())
    });
});
