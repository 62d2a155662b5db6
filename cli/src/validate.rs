//! Resolves a run of any kind.

use serde::de::DeserializeOwned;
use serde_json::Value;
use stic_contract::RunKind;
use stic_crds::{EvaluationRun, StageOneRun, StageTwoRun};
use stic_operator::controllers::upstream::Upstream;
use stic_operator::controllers::{evaluation, stage_one, stage_two};
use stic_operator::validated::Hardware;
use stic_operator::{Refusal, Validated};

use crate::error::{Failure, Result};
use crate::manifests::Manifest;
use crate::upstreams::Found;

/// Resolves `object`, which was made from `manifest`.
///
/// # Errors
/// The run cannot start; the message names file, line and field.
pub(crate) fn validate(
    manifest: &Manifest,
    object: Value,
    upstreams: &Found,
    hardware: Hardware,
) -> Result<Validated> {
    let validated = match manifest.kind() {
        RunKind::StageOneRun => stage_one::validate(&typed::<StageOneRun>(object)?, hardware),
        RunKind::StageTwoRun => {
            let run = typed::<StageTwoRun>(object)?;
            let reference = run.spec.init_from.stage_one_run_ref.as_ref();
            upstreams.with(|upstreams| {
                let upstream = reference.map_or(Upstream::Missing, |run| (upstreams.stage_one)(&run.name));
                stage_two::validate(&run, upstream, hardware)
            })
        }
        RunKind::EvaluationRun => {
            let run = typed::<EvaluationRun>(object)?;
            upstreams.with(|upstreams| evaluation::validate(&run, upstreams, hardware))
        }
    };
    validated.map_err(|refusal| {
        let field = match (&refusal, manifest.kind()) {
            (Refusal::Invalid { field, .. }, _) => field.as_str(),
            (Refusal::Wait { .. }, RunKind::EvaluationRun) => "spec.subjects",
            (Refusal::Wait { .. }, _) => "spec.initFrom.stageOneRunRef",
        };
        Failure::config(manifest.message_at(field, &refusal))
    })
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T> {
    serde_json::from_value(object).map_err(Failure::bug)
}
