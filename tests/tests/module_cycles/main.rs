//! No crate of the workspace has an import cycle between its modules.
//!
//! A module depends on another if its code names an item that the other one defines, wherever it imports the item from:
//! re-exports are followed to the definition, and a `mod` or `pub use` is no dependency by itself. Code under
//! `#[cfg(test)]` does not count.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod graph;
mod modules;
mod references;

use std::fs;
use std::path::{Path, PathBuf};

use crate::graph::Graph;
use crate::modules::Crate;

/// The root files of all crates: `src/lib.rs` and `src/main.rs` of every folder of the workspace.
fn roots() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = fs::read_dir(workspace)
        .expect("the workspace")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    let roots = folders.iter().flat_map(|folder| ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file)));
    roots.filter(|root| root.is_file()).collect()
}

#[test]
fn no_crate_has_an_import_cycle() {
    let roots = roots();
    assert!(roots.len() >= 8, "too few crates were found: {roots:?}");
    let report: String = roots.iter().flat_map(|root| cycles(&Crate::read(root))).collect();
    assert!(report.is_empty(), "move what both sides of a cycle need into a module of its own:\n{report}");
}

/// The cycles among the files of a crate, and among the children of each module.
fn cycles(read: &Crate) -> Vec<String> {
    let files = Graph::of_files(read).cycles();
    let siblings = Graph::of_siblings(read);
    let mut cycles = files;
    for cycle in siblings.iter().flat_map(Graph::cycles) {
        if !cycles.contains(&cycle) {
            cycles.push(cycle);
        }
    }
    cycles
}

/// Writes the files of a crate and lists its cycles.
fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    cycles(&Crate::read(&folder.path().join("lib.rs")))
}

#[test]
fn two_modules_that_import_each_other_are_a_cycle() {
    let cycles = cycles_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "pub struct B; fn f(_: &crate::a::A) {}"),
    ]);
    assert_eq!(cycles.len(), 1, "{cycles:?}");
    for part in ["a.rs -> ", "b.rs (B)", "b.rs -> ", "a.rs (A)"] {
        assert!(cycles[0].contains(part), "{part:?} is not in {}", cycles[0]);
    }
}

#[test]
fn a_child_that_imports_from_a_parent_that_uses_it_is_a_cycle() {
    let parent = "mod child; pub struct Shared; fn f() { child::g(&Shared) }";
    let child = "use super::Shared; pub fn g(_: &Shared) {}";
    assert_eq!(
        cycles_of(&[("lib.rs", "mod parent;"), ("parent.rs", parent), ("parent/child.rs", child)]).len(),
        1
    );
}

#[test]
fn a_parent_that_only_declares_and_reexports_its_child_is_no_cycle() {
    let parent = "mod child; pub use self::child::g; pub struct Shared;";
    let child = "use super::Shared; pub fn g(_: &Shared) {}";
    assert!(
        cycles_of(&[("lib.rs", "mod parent;"), ("parent.rs", parent), ("parent/child.rs", child)]).is_empty()
    );
}

#[test]
fn a_reexport_is_followed_to_the_definition() {
    let cycles = cycles_of(&[
        ("lib.rs", "mod a; mod b; pub use a::A as Renamed; pub use b::*;"),
        ("a.rs", "use crate::B; pub struct A; fn f(_: B) {}"),
        ("b.rs", "use crate::Renamed; pub struct B; fn f(_: Renamed) {}"),
    ]);
    assert_eq!(cycles.len(), 1, "{cycles:?}");
    assert!(!cycles[0].contains("lib.rs"), "{}", cycles[0]);
}

#[test]
fn folders_that_import_from_each_other_are_a_cycle_even_if_no_two_files_do() {
    let cycles = cycles_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub mod low; use crate::b::B; pub struct A(B);"),
        ("a/low.rs", "pub struct Low;"),
        ("b.rs", "pub struct B(crate::a::low::Low);"),
    ]);
    assert_eq!(cycles.len(), 1, "{cycles:?}");
}

#[test]
fn macros_count_and_tests_do_not() {
    let files = |b| {
        [("lib.rs", "mod a; mod b;"), ("a.rs", "pub const A: u8 = 0; fn f() { crate::b::B; }"), ("b.rs", b)]
    };
    assert_eq!(cycles_of(&files("pub const B: u8 = 0; fn f() { println!(\"{}\", crate::a::A); }")).len(), 1);
    assert!(cycles_of(&files("pub const B: u8 = 0; #[cfg(test)] mod tests { use crate::a::A; }")).is_empty());
}
