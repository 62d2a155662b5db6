//! `run`: executes manifests on this machine, with the same decisions as the controller.

mod execute;
mod process;
mod progress_display;
mod step_results;

use std::collections::BTreeSet;
use std::path::Path;

use stic_contract::{ArtifactKind, RunKind};
use stic_crds::status::{ArtifactState, ArtifactStatus, RunStatus};
use stic_crds::volumes::VolumeFolder;
use stic_crds::{ConditionType, Reason, StageOneRun, StageTwoRun};
use stic_operator::controllers::stage_two::Upstream;
use stic_operator::controllers::{stage_one, stage_two};
use stic_operator::validated::Hardware;
use stic_operator::{Refusal, Validated};

use self::execute::Machine;
use self::process::Interrupts;
use crate::args::{Output, RunArgs};
use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest, Manifests};
use crate::run_name::RunName;
use crate::state::{self, State};
use crate::stdio::print_stderr;
use crate::volumes::{Volumes, absolute, require_folder};
use crate::{table, trainer};

pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let Manifests { runs, skipped } = manifests::load(&args.files, &args.namespace)?;
    for what in skipped {
        print_stderr(format_args!("note: skipped {what}: it has no meaning without a cluster"));
    }
    require_folder("--work-dir", &args.work_dir)?;
    std::fs::create_dir_all(&args.work_dir).map_err(Failure::storage(&args.work_dir))?;
    let work_dir = absolute(&args.work_dir);
    let volumes = Volumes { given: args.volumes.clone(), work_dir: work_dir.clone() };
    let mut states = Vec::new();
    for manifest in &runs {
        states.push(State::open(&work_dir, manifest)?);
    }
    // Check everything before anything runs, so that a missing folder of stage 2 is found before hours of stage 1.
    let mut validated = Vec::new();
    for (manifest, state) in runs.iter().zip(&states) {
        validated.push(validate(manifest, state, &states, &work_dir, Upstreams::Assumed)?);
    }
    for unused in volumes.unused(&validated) {
        let used: BTreeSet<&str> = validated.iter().flat_map(Validated::claims).collect();
        print_stderr(format_args!(
            "note: --volume {unused} is not used: the manifests name the claims {}",
            used.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    for run in &validated {
        for ineffective in &run.ineffective {
            print_stderr(format_args!("note: {}: {ineffective}", run.run.name));
        }
    }
    for ((manifest, state), run) in runs.iter().zip(&states).zip(&validated) {
        volumes.mount(run, &manifest.folder, &state.mounts())?;
    }
    let machine = Machine { trainer: trainer::find(args.trainer.as_deref())?, volumes };
    states.iter().try_for_each(State::save_manifest)?;
    let mut interrupts = Interrupts::listen()?;
    let mut result = Ok(());
    for (i, manifest) in runs.iter().enumerate() {
        result = validate(manifest, &states[i], &states, &work_dir, Upstreams::Actual)
            .and_then(|run| machine.execute(&run, manifest, &mut states[i], &mut interrupts));
        if result.is_err() {
            break;
        }
    }
    let printed = match args.output {
        Output::Table => table::print(&states, &runs, &machine.volumes),
        Output::Json => table::print_json(&states, &runs, &machine.volumes),
    };
    // A failed run is more important than a table that could not be printed.
    result.and(printed)
}

/// Which status a `StageOneRun` of the same command has for the runs that start from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upstreams {
    /// It is assumed to succeed, because it has not run yet.
    Assumed,
    Actual,
}

fn validate(
    manifest: &Manifest,
    state: &State,
    states: &[State],
    work_dir: &Path,
    upstreams: Upstreams,
) -> Result<Validated> {
    let validated = match manifest.kind() {
        RunKind::StageOneRun => stage_one::validate(&state.typed::<StageOneRun>()?, Hardware::Cpu),
        RunKind::StageTwoRun => {
            let upstream = match manifest.upstream() {
                Some(name) => Some(upstream(manifest, name, states, work_dir, upstreams)?),
                None => None,
            };
            let upstream = upstream.as_ref().map_or(Upstream::Missing, Upstream::Found);
            stage_two::validate(&state.typed::<StageTwoRun>()?, upstream, Hardware::Cpu)
        }
    };
    validated.map_err(|refusal| match &refusal {
        Refusal::Invalid { field, .. } => Failure::config(manifest.message_at(field, &refusal)),
        Refusal::Wait { .. } => {
            Failure::config(manifest.message_at("spec.initFrom.stageOneRunRef", &refusal))
        }
    })
}

/// The `StageOneRun` that `manifest` starts from: one of this command, or one that ran in this work folder before.
fn upstream(
    manifest: &Manifest,
    name: &str,
    states: &[State],
    work_dir: &Path,
    upstreams: Upstreams,
) -> Result<StageOneRun> {
    let run_name = RunName::new(RunKind::StageOneRun, name);
    let here = states.iter().find(|state| state.is(&manifest.namespace, &run_name));
    let earlier = match here {
        Some(_) => None,
        None => State::load_earlier(work_dir, &manifest.namespace, &run_name)?,
    };
    let Some(mut run) = here.map(State::typed::<StageOneRun>).transpose()?.or(earlier) else {
        return Err(Failure::config(manifest.message_at(
            "spec.initFrom.stageOneRunRef.name",
            format!("there is no StageOneRun {name} among the manifests, and none has run in this work folder. Add its manifest with -f."),
        )));
    };
    if here.is_some() && upstreams == Upstreams::Assumed {
        run.status = Some(assumed_status(&run));
    }
    Ok(run)
}

/// The status that `run` will have if it succeeds, as far as others depend on it. Folder and digest of the adapter are
/// not known yet.
fn assumed_status(run: &StageOneRun) -> RunStatus {
    let now = state::now();
    let condition = k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
        type_: ConditionType::Succeeded.as_str().into(),
        status: "True".into(),
        reason: Reason::Succeeded.as_str().into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: now,
    };
    let created_claim = || format!("{}-output", run.metadata.name.as_deref().unwrap_or_default());
    let volume = run
        .spec
        .output
        .volume
        .clone()
        .unwrap_or_else(|| VolumeFolder { claim_name: created_claim(), path: String::new() });
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
