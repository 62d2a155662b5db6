//! `run`: executes manifests on this machine, with the same decisions as the controller.

mod execute;
mod judge;
mod process;
mod progress_display;
mod step_results;

use std::collections::BTreeSet;
use std::path::Path;

use stic_contract::{Digest, RunIdentity};
use stic_operator::Validated;
use stic_operator::validated::Hardware;

use self::execute::Machine;
use self::process::Interrupts;
use crate::args::{Output, RunArgs};
use crate::assumed::{self, Unknown};
use crate::error::{Failure, Result};
use crate::manifests::{self, Manifest, Manifests};
use crate::run_name::RunName;
use crate::state::State;
use crate::stdio::print_stderr;
use crate::upstreams::Found;
use crate::volumes::{Volumes, absolute, require_folder};
use crate::{table, trainer, validate};

pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let Manifests { runs, config_maps, skipped } = manifests::load(&args.files, &args.namespace)?;
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
        let run = validate(manifest, state, &states, &work_dir, Statuses::Assumed(&validated))?;
        judge::check(&run, manifest, &config_maps)?;
        validated.push(run);
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
        judge::write_prompts(run, &config_maps, &state.mounts())?;
    }
    let machine = Machine { trainer: trainer::find(args.trainer.as_deref())?, volumes };
    states.iter().try_for_each(State::save_manifest)?;
    let mut interrupts = Interrupts::listen()?;
    let mut result = Ok(());
    for (i, manifest) in runs.iter().enumerate() {
        result = validate(manifest, &states[i], &states, &work_dir, Statuses::Actual)
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

/// Which statuses the runs of the same command have for those that start from them.
#[derive(Clone, Copy)]
enum Statuses<'a> {
    /// They are assumed to succeed, because they have not run yet. These are resolved.
    Assumed(&'a [Validated]),
    Actual,
}

fn validate(
    manifest: &Manifest,
    state: &State,
    states: &[State],
    work_dir: &Path,
    statuses: Statuses<'_>,
) -> Result<Validated> {
    let advice = ", and none has run in this work folder. Add its manifest with -f.";
    let upstreams = Found::of(manifest, advice, |run| {
        let here = states.iter().find(|state| state.is(&manifest.namespace, run));
        let Some(here) = here else { return State::load_earlier(work_dir, &manifest.namespace, run) };
        let mut object = here.object()?;
        if let Statuses::Assumed(resolved) = statuses {
            let resolved = resolved.iter().find(|other| {
                let RunIdentity { kind, namespace, name, .. } = &other.run;
                here.is(namespace, &RunName::new(*kind, name))
            });
            let status = resolved.map(|run| assumed::success(run, &unknown()));
            object["status"] = serde_json::to_value(status).map_err(Failure::bug)?;
        }
        Ok(Some(object))
    })?;
    validate::validate(manifest, state.object()?, &upstreams, Hardware::Cpu)
}

fn unknown() -> Unknown {
    Unknown { folder: String::new(), adapter: Digest::of(b""), model: None }
}
