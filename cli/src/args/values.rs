//! Parsers of argument values.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use stic_contract::{ArtifactKind, StepName};

/// `NAME=DIR`.
pub(super) fn volume(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.into(), folder.into())),
        _ => Err("expected NAME=DIR, such as models=/data/models".into()),
    }
}

pub(super) fn step() -> impl TypedValueParser<Value = StepName> {
    PossibleValuesParser::new(StepName::ALL.map(StepName::as_str)).try_map(|name| name.parse::<StepName>())
}

/// Kinds of artifacts, named by the prefix of their folders.
pub(super) fn artifact_kind() -> impl TypedValueParser<Value = ArtifactKind> {
    let values =
        ArtifactKind::ALL.map(|kind| PossibleValue::new(kind.folder_prefix()).help(kind.spec().contents));
    PossibleValuesParser::new(values).try_map(|name| {
        let found = ArtifactKind::ALL.into_iter().find(|kind| kind.folder_prefix() == name);
        found.ok_or_else(|| format!("there is no artifact {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_name_and_a_folder() {
        assert_eq!(volume("models=/data=x"), Ok(("models".into(), "/data=x".into())));
        assert!(volume("models").is_err() && volume("=x").is_err());
    }
}
