//! Renames stored tensors to their canonical names, which are those that transformers 5 saves.

/// (stored prefix, canonical prefix).
pub type Rename = (&'static str, &'static str);

/// The rename tables of a model family; the first match applies.
pub type RenameTables = &'static [&'static [Rename]];

/// The canonical name of the tensor that is `stored` in any layout of a family.
pub(super) fn canonical_name(stored: &str, tables: RenameTables) -> String {
    tables
        .iter()
        .copied()
        .flatten()
        .find_map(|(from, to)| stored.strip_prefix(from).map(|rest| format!("{to}{rest}")))
        .unwrap_or_else(|| stored.to_owned())
}
