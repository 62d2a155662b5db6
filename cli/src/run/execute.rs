//! One run: its steps in the order that the controller's plan gives them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use stic_contract::artifact::progress_file;
use stic_contract::{ExitCode, Progress, StepResult};
use stic_operator::plan::{Launch, Observed, StepObservation, StepOutcome};
use stic_operator::refusal::Reason;
use stic_operator::status::{Facts, status};
use stic_operator::{Plan, Refusal, Validated, plan};

use super::progress::{self, Display};
use super::supervise::{Ended, Event, Interrupts, Process};
use super::{folders, records};
use crate::error::{Failure, Result};
use crate::manifests::Manifest;
use crate::state::{self, State};
use crate::volumes::Volumes;

/// Time between two statuses of a running step.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// This machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub trainer: PathBuf,
    pub volumes: Volumes,
}

impl Machine {
    /// Takes a run to its end.
    pub(super) fn execute(
        &self,
        run: &Validated,
        manifest: &Manifest,
        state: &mut State,
        interrupts: &mut Interrupts,
    ) -> Result<()> {
        let mounted = folders(run, manifest, &self.volumes);
        let mut observed = records::observe(run, state, &mounted)?;
        progress::headline(&state.title());
        for step in observed.steps.keys() {
            progress::reused(&state.title(), *step);
        }
        // A step that failed in an earlier command was mended since, or nobody would run it again.
        let settled: Settled = Ok(run.clone());
        loop {
            let next = plan(&settled, &observed);
            report(state, run, &settled, &observed, &next, None)?;
            match next {
                Plan::Start(launch) | Plan::Retry(launch) => {
                    self.volumes.mount(run, &manifest.folder, &state.mounts())?;
                    records::begin(run, state, launch.step, &mounted)?;
                    let result =
                        self.launch(&launch, run, manifest, state, interrupts, &settled, &observed)?;
                    let outcome = StepOutcome::Succeeded(Box::new(result));
                    observed.steps.insert(launch.step, StepObservation::new(launch.attempt, outcome));
                }
                Plan::Done { .. } => return Ok(()),
                Plan::Wait { message, .. } => {
                    return Err(Failure::config(format!("{}: {message}", state.title())));
                }
                Plan::Fail { reason, message } => {
                    return Err(Failure::new(exit_of(reason), format!("{}: {message}", state.title())));
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is another thing, and there is one caller")]
    fn launch(
        &self,
        launch: &Launch,
        run: &Validated,
        manifest: &Manifest,
        state: &mut State,
        interrupts: &mut Interrupts,
        settled: &Settled,
        observed: &Observed,
    ) -> Result<StepResult> {
        let step = launch.step;
        state::write(&state.config(step), &launch.config)?;
        let output = self.volumes.resolve(&run.output.location, &manifest.folder);
        let mut display = Display::begin(state.title(), step);
        let running = Plan::Wait { reason: Reason::of_step(step), message: format!("step {step} runs") };
        let mut observed = observed.clone();
        let attempt = StepObservation::new(launch.attempt, StepOutcome::Running);
        observed.steps.insert(step, attempt);
        for shard in 0..launch.shards {
            let process = Process {
                trainer: self.trainer.clone(),
                config: state.config(step),
                volumes: state.mounts(),
                shard,
                said: state.said(step, shard),
                log: state.log(step),
                progress: output.join(progress_file(&run.run, step, shard)),
            };
            let mut written = Instant::now();
            let mut last = None;
            let mut failure = None;
            let ended = if interrupts.count() > 0 {
                Ended::Exited(ExitCode::Interrupted)
            } else {
                process.run(interrupts, |event| match event {
                    Event::Progress(progress) => {
                        display.progress(progress);
                        last = Some(progress.clone());
                        if written.elapsed() >= STATUS_INTERVAL {
                            written = Instant::now();
                            failure = report(state, run, settled, &observed, &running, Some(progress)).err();
                        }
                    }
                    Event::Stopping => {
                        display.say("saving; press Ctrl-C again to stop at once and lose what is not saved")
                    }
                    Event::Killing => display.say("stopped at once"),
                })?
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
            report(state, run, settled, &observed, &running, last.as_ref())?;
            let said: Option<StepResult> = state::read(&process.said)?;
            if ended != Ended::Exited(ExitCode::Done) {
                return Err(give_up(
                    ended,
                    said,
                    &process,
                    display,
                    state,
                    run,
                    settled,
                    &mut observed,
                    launch,
                ));
            }
            let said = said.ok_or_else(|| {
                Failure::bug(format!(
                    "the trainer ended well but wrote no result to {}",
                    process.said.display()
                ))
            })?;
            records::add(run, state, shard, &said)?;
        }
        let result = records::recorded(&state.records(run.run.rerun), step, launch.shards)?
            .ok_or_else(|| Failure::bug(format!("the results of step {step} are gone")))?;
        display.done(&result);
        Ok(result)
    }
}

type Settled = std::result::Result<Validated, Refusal>;

#[expect(clippy::too_many_arguments, reason = "it is the end of a step that failed, and knows all about it")]
fn give_up(
    ended: Ended,
    said: Option<StepResult>,
    process: &Process,
    display: Display,
    state: &mut State,
    run: &Validated,
    settled: &Settled,
    observed: &mut Observed,
    launch: &Launch,
) -> Failure {
    let title = format!("{} {}", state.title(), launch.step);
    let (exit, message) = match ended {
        Ended::Exited(ExitCode::Interrupted) => {
            display.stopped();
            let message = "interrupted and saved; run the same command again to go on";
            return Failure::new(ExitCode::Interrupted, format!("{title}: {message}"));
        }
        Ended::Abandoned => {
            display.stopped();
            let message = "stopped at once; run the same command again to go on from what was saved";
            return Failure::new(ExitCode::Interrupted, format!("{title}: {message}"));
        }
        Ended::Exited(exit) => {
            let said = said.and_then(|result| result.message);
            (exit, said.unwrap_or_else(|| "the trainer left no message; see its log".into()))
        }
        Ended::Killed(signal) => {
            let hint = if signal == 9 { ": most often memory ran out; free some, then" } else { ";" };
            (
                ExitCode::Bug,
                format!(
                    "the trainer was killed by signal {signal}{hint} run the same command again to go on"
                ),
            )
        }
    };
    display.failed();
    let outcome = StepOutcome::failed(exit, message.clone());
    observed.steps.insert(launch.step, StepObservation::new(launch.attempt, outcome));
    let fail = Plan::Fail { reason: Reason::of_exit(exit), message: message.clone() };
    if let Err(failure) = report(state, run, settled, observed, &fail, None) {
        return failure;
    }
    Failure::new(exit, format!("{title}: {message}\n  log: {}", process.log.display()))
}

fn report(
    state: &mut State,
    run: &Validated,
    settled: &Settled,
    observed: &Observed,
    plan: &Plan,
    progress: Option<&Progress>,
) -> Result<()> {
    let facts = Facts {
        kind: run.run.kind,
        generation: state.generation(),
        rerun: state.rerun(),
        run: settled,
        observed,
        plan,
        progress,
        trainer_image: None,
        now: &state::now(),
    };
    let next = status(&state.status, &facts);
    state.set_status(next)
}

const fn exit_of(reason: Reason) -> ExitCode {
    match reason {
        Reason::DataInvalid | Reason::ModelChanged => ExitCode::DataInvalid,
        Reason::StorageFailed => ExitCode::StorageFailed,
        Reason::Interrupted => ExitCode::Interrupted,
        Reason::TrainerFailed | Reason::ResultIncomplete => ExitCode::Bug,
        _ => ExitCode::ConfigInvalid,
    }
}
