//! `KIND/NAME`, as kubectl writes it.

use std::fmt;
use std::str::FromStr;

use stic_contract::RunKind;
use stic_crds::ApiKind as _;

/// Kind and name of a run. Displayed as `stageonerun/scenes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunName {
    pub kind: RunKind,
    pub name: String,
}

impl RunName {
    pub(crate) fn new(kind: RunKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str().to_lowercase(), self.name)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("expected KIND/NAME, such as stageonerun/scenes or s2/scenes")]
pub(crate) struct InvalidRunName;

impl FromStr for RunName {
    type Err = InvalidRunName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = text.split_once('/').ok_or(InvalidRunName)?;
        let kind = RunKind::from_resource_name(kind).ok_or(InvalidRunName)?;
        if name.is_empty() { Err(InvalidRunName) } else { Ok(Self::new(kind, name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_as_kubectl_names_them() {
        let parse = |text: &str| text.parse::<RunName>().ok();
        assert_eq!(parse("StageOneRun/a"), Some(RunName::new(RunKind::StageOneRun, "a")));
        assert_eq!(parse("s2/b"), Some(RunName::new(RunKind::StageTwoRun, "b")));
        assert_eq!(parse("stageonerun.stic.dev/a"), Some(RunName::new(RunKind::StageOneRun, "a")));
        for text in ["scenes", "pod/scenes", "s1/"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(RunName::new(RunKind::StageTwoRun, "b").to_string(), "stagetworun/b");
    }
}
