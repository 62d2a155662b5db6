//! The names of each kind of run in the Kubernetes API.

use kube::CustomResourceExt as _;
use kube::core::ApiResource;
use stic_contract::RunKind;

use crate::evaluation::EvaluationRun;
use crate::stage_one::StageOneRun;
use crate::stage_two::StageTwoRun;

/// The API names of a [`RunKind`], which the contract does not know.
pub trait ApiKind: Sized {
    /// Group, version, kind and plural, for dynamic clients.
    fn api_resource(self) -> ApiResource;

    /// The short names that kubectl accepts, such as `s1`.
    fn short_names(self) -> &'static [&'static str];

    /// The kind as kubectl accepts and prints it: kind, singular, plural or short name, in any case, optionally followed
    /// by the group. `None` if the text names no kind of this API.
    fn from_resource_name(text: &str) -> Option<Self>;
}

impl ApiKind for RunKind {
    fn api_resource(self) -> ApiResource {
        match self {
            Self::StageOneRun => StageOneRun::api_resource(),
            Self::StageTwoRun => StageTwoRun::api_resource(),
            Self::EvaluationRun => EvaluationRun::api_resource(),
        }
    }

    fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::StageOneRun => StageOneRun::shortnames(),
            Self::StageTwoRun => StageTwoRun::shortnames(),
            Self::EvaluationRun => EvaluationRun::shortnames(),
        }
    }

    fn from_resource_name(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        let name = text.strip_suffix(".stic.dev").unwrap_or(&text);
        Self::ALL.into_iter().find(|kind| {
            name == kind.as_str().to_lowercase()
                || name == kind.api_resource().plural
                || kind.short_names().contains(&name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_recognized_by_every_name_that_kubectl_accepts() {
        for text in ["StageOneRun", "stageonerun", "stageoneruns", "s1", "S1", "stageonerun.stic.dev"] {
            assert_eq!(RunKind::from_resource_name(text), Some(RunKind::StageOneRun), "{text}");
        }
        assert_eq!(RunKind::from_resource_name("s2"), Some(RunKind::StageTwoRun));
        assert_eq!(RunKind::from_resource_name("ev"), Some(RunKind::EvaluationRun));
        for text in ["", "pod", "s3", "stageonerun.example.com"] {
            assert_eq!(RunKind::from_resource_name(text), None, "{text}");
        }
    }
}
