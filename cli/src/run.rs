//! `run`: manifests executed on this machine, with the controller's own decisions.

mod execute;
mod progress;
mod records;
mod supervise;

use std::collections::BTreeMap;
use std::path::PathBuf;

use stic_contract::ArtifactKind;
use stic_crds::status::{ArtifactState, ArtifactStatus, RunStatus, SUCCEEDED};
use stic_crds::volumes::VolumeFolder;
use stic_crds::{StageOneRun, StageTwoRun};
use stic_operator::controllers::stage_two::Upstream;
use stic_operator::controllers::{stage_one, stage_two};
use stic_operator::validated::Hardware;
use stic_operator::{Refusal, Validated};

use self::execute::Machine;
use self::supervise::Interrupts;
use crate::args::{Output, RunArgs};
use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest, Manifests};
use crate::say::tell;
use crate::state::{self, State};
use crate::volumes::{Volumes, absolute};
use crate::{locate, table};

/// Runs what the manifests say.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let Manifests { runs, skipped } = manifests::load(&args.files, &args.namespace)?;
    for what in skipped {
        tell(format_args!("note: {what} is left out: it means nothing without a cluster"));
    }
    std::fs::create_dir_all(&args.work_dir).map_err(Failure::storage(&args.work_dir))?;
    let work_dir = absolute(&args.work_dir);
    let volumes = Volumes { given: args.volumes.clone(), work_dir: work_dir.clone() };
    let mut states = Vec::new();
    for manifest in &runs {
        states.push(State::open(&work_dir, manifest)?);
    }
    // Nothing runs while anything is wrong: a missing folder of stage 2 is found before hours of stage 1.
    for (manifest, state) in runs.iter().zip(&states) {
        let run = settle(manifest, state, &states, &work_dir, Expecting::Success)?;
        volumes.mount(&run, &manifest.folder, &state.mounts())?;
    }
    let machine = Machine { trainer: locate::trainer(args.trainer.as_deref())?, volumes };
    states.iter().try_for_each(State::record)?;
    let mut interrupts = Interrupts::listen()?;
    let mut ended = Ok(());
    for (i, manifest) in runs.iter().enumerate() {
        ended = settle(manifest, &states[i], &states, &work_dir, Expecting::Nothing)
            .and_then(|run| machine.execute(&run, manifest, &mut states[i], &mut interrupts));
        if ended.is_err() {
            break;
        }
    }
    let told = match args.output {
        Output::Table => table::print(&states, &runs, &machine.volumes),
        Output::Json => table::print_json(&states, &runs, &machine.volumes),
    };
    // Why a run ended comes before that its table could not be printed.
    ended.and(told)
}

/// What to take for granted of a `StageOneRun` that has not run yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expecting {
    /// That it will succeed.
    Success,
    Nothing,
}

fn settle(
    manifest: &Manifest,
    state: &State,
    states: &[State],
    work_dir: &std::path::Path,
    expecting: Expecting,
) -> Result<Validated> {
    let settled = if manifest.kind() == "StageOneRun" {
        stage_one::validate(&state.typed::<StageOneRun>()?, Hardware::Cpu)
    } else {
        let upstream = match manifest.upstream() {
            Some(name) => upstream(manifest, name, states, work_dir, expecting)?,
            None => None,
        };
        let upstream = upstream.as_ref().map_or(Upstream::Missing, Upstream::Found);
        stage_two::validate(&state.typed::<StageTwoRun>()?, upstream, Hardware::Cpu)
    };
    settled.map_err(|refusal| match &refusal {
        Refusal::Invalid { field, .. } => Failure::config(manifest.about(field, &refusal)),
        Refusal::Wait { .. } => Failure::config(manifest.about("spec.initFrom.stageOneRunRef", &refusal)),
    })
}

/// The `StageOneRun` that `manifest` starts from: of this command, or one that ran in this work folder before.
fn upstream(
    manifest: &Manifest,
    name: &str,
    states: &[State],
    work_dir: &std::path::Path,
    expecting: Expecting,
) -> Result<Option<StageOneRun>> {
    let here = states.iter().find(|state| state.is("StageOneRun", manifest.namespace(), name));
    let earlier = match here {
        Some(_) => None,
        None => State::finished(work_dir, "StageOneRun", manifest.namespace(), name)?,
    };
    let Some(mut run) = here.map(State::typed::<StageOneRun>).transpose()?.or(earlier) else {
        return Err(Failure::config(manifest.about(
            "spec.initFrom.stageOneRunRef.name",
            format!("no StageOneRun {name} is among the manifests, and none was run in this work folder; add its manifest with -f"),
        )));
    };
    if here.is_some() && expecting == Expecting::Success {
        run.status = Some(successful(&run));
    }
    Ok(Some(run))
}

/// The status `run` will have, as far as others depend on it. The adapter's folder and digest are not known yet.
fn successful(run: &StageOneRun) -> RunStatus {
    let now = state::now();
    let condition = k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
        type_: SUCCEEDED.into(),
        status: "True".into(),
        reason: SUCCEEDED.into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: now,
    };
    let made = || format!("{}-output", run.metadata.name.as_deref().unwrap_or_default());
    let volume = run
        .spec
        .output
        .volume
        .clone()
        .unwrap_or_else(|| VolumeFolder { claim_name: made(), path: String::new() });
    let adapter = ArtifactStatus {
        kind: ArtifactKind::Adapter,
        volume,
        digest: stic_contract::Digest::of(b"").to_string(),
        size_bytes: 0,
        step: stic_contract::StepName::Train,
        state: ArtifactState::Created,
    };
    RunStatus { conditions: vec![condition], artifacts: vec![adapter], ..RunStatus::default() }
}

/// The claims of a run and the folders that stand for them.
fn folders(run: &Validated, manifest: &Manifest, volumes: &Volumes) -> BTreeMap<String, PathBuf> {
    let output = run.output.location.volume.as_str();
    run.input_claims()
        .into_iter()
        .chain([output])
        .map(|claim| (claim.to_owned(), volumes.locate(claim, &manifest.folder)))
        .collect()
}
