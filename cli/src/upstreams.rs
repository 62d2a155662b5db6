//! The runs that a manifest starts from.

use std::collections::BTreeMap;

use serde_json::Value;
use stic_contract::RunKind;
use stic_crds::{StageOneRun, StageTwoRun};
use stic_operator::controllers::upstream::{Upstream, Upstreams};

use crate::error::{Failure, Result};
use crate::manifests::Manifest;
use crate::run_name::RunName;

/// The runs that a manifest starts from, with their statuses.
#[derive(Debug, Default)]
pub(crate) struct Found {
    stage_ones: BTreeMap<String, StageOneRun>,
    stage_twos: BTreeMap<String, StageTwoRun>,
}

impl Found {
    /// Those of `manifest`. `find` returns the object of a run with its status.
    ///
    /// # Errors
    /// There is no such run; and those of `find`.
    pub(crate) fn of(
        manifest: &Manifest,
        advice: &str,
        mut find: impl FnMut(&RunName) -> Result<Option<Value>>,
    ) -> Result<Self> {
        let mut found = Self::default();
        for (run, field) in manifest.upstreams() {
            let RunName { kind, name } = &run;
            let Some(object) = find(&run)? else {
                let message = format!("there is no {kind} {name} among the manifests{advice}");
                return Err(Failure::config(manifest.message_at(&field, message)));
            };
            match kind {
                RunKind::StageTwoRun => {
                    let typed = serde_json::from_value(object).map_err(Failure::bug)?;
                    found.stage_twos.insert(name.clone(), typed);
                }
                RunKind::StageOneRun | RunKind::EvaluationRun => {
                    let typed = serde_json::from_value(object).map_err(Failure::bug)?;
                    found.stage_ones.insert(name.clone(), typed);
                }
            }
        }
        Ok(found)
    }

    /// Calls `validate` with them.
    pub(crate) fn with<T>(&self, validate: impl FnOnce(Upstreams<'_>) -> T) -> T {
        validate(Upstreams {
            stage_one: &|name| self.stage_ones.get(name).map_or(Upstream::Missing, Upstream::Found),
            stage_two: &|name| self.stage_twos.get(name).map_or(Upstream::Missing, Upstream::Found),
        })
    }
}
