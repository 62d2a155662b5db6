//! Executes one run: the controller's decisions, carried out by trainer processes on this machine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use stic_contract::artifact::{SKIPPED_FILE, progress_file};
use stic_contract::recipe::Precision;
use stic_contract::{ArtifactKind, ExitCode, Progress, StepName, StepResult};
use stic_operator::Validated;
use stic_operator::decide::decide;
use stic_operator::decision::{Decision, Launch, Verdict};
use stic_operator::snapshot::{Snapshot, StepOutcome, StepSnapshot};
use stic_operator::status::{limit_note, status};

use super::process::{Ended, Event, Interrupts, Process};
use super::progress_display::{self, ProgressDisplay};
use super::step_results;
use crate::error::{Failure, Result};
use crate::manifests::Manifest;
use crate::state::{self, State};
use crate::volumes::Volumes;

/// The time between two statuses of a running step.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The programs and volumes of this machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub trainer: PathBuf,
    pub volumes: Volumes,
}

/// A run that is being executed.
struct Execution<'a> {
    machine: &'a Machine,
    manifest: &'a Manifest,
    interrupts: &'a mut Interrupts,
    report: Report<'a>,
}

/// What is known of a run, and the status that reports it.
struct Report<'a> {
    state: &'a mut State,
    snapshot: Snapshot,
}

impl Machine {
    /// Executes a run until it has succeeded or cannot continue.
    pub(super) fn execute(
        &self,
        run: &Validated,
        manifest: &Manifest,
        state: &mut State,
        interrupts: &mut Interrupts,
    ) -> Result<()> {
        // Whoever runs the command decides how long it may take, and retries by running it again.
        let mut run = run.clone();
        run.operation.active_deadline_seconds = None;
        run.operation.backoff_limit = 0;
        // There are no pods, and in F32 every machine can do what a GPU would.
        if run.precision == Precision::F32 {
            run.operation.pods.clear();
        }
        let mounted = self.volumes.claim_folders(&run, &manifest.folder);
        let steps = step_results::load_valid(&run, state, &mounted)?;
        let title = state.title();
        progress_display::print_headline(&title);
        for step in steps.keys() {
            progress_display::print_already_done(&title, *step);
        }
        let snapshot = Snapshot::local(&run, state.generation(), &state.status, state::now());
        let report = Report { state, snapshot: Snapshot { steps, ..snapshot } };
        let mut execution = Execution { machine: self, manifest, interrupts, report };
        loop {
            match execution.report.decide()? {
                Decision::Launch(launch) => {
                    execution.report.write(&Verdict::Launching(launch.id.step), None)?;
                    self.volumes.mount(&run, &manifest.folder, &execution.report.state.mounts())?;
                    step_results::start_step(&run, execution.report.state, launch.id.step, &mounted)?;
                    execution.launch(&launch)?;
                }
                Decision::Report { verdict, .. } => {
                    execution.report.write(&verdict, None)?;
                    return outcome(&title, &verdict);
                }
                other @ (Decision::CleanUp | Decision::AwaitWatch | Decision::Replace(..)) => {
                    return Err(Failure::bug(format!("{title}: the decision is {other:?}")));
                }
            }
        }
    }
}

/// The outcome of a run that starts no more steps.
fn outcome(title: &str, verdict: &Verdict) -> Result<()> {
    match verdict {
        Verdict::Succeeded { .. } => Ok(()),
        Verdict::Launching(step) => Err(Failure::bug(format!("{title}: step {step} was not launched"))),
        Verdict::Waiting { message, .. } => Err(Failure::config(format!("{title}: {message}"))),
        Verdict::Failed { reason, message } => {
            Err(Failure::new(reason.classification().exit_code, format!("{title}: {message}")))
        }
    }
}

impl Report<'_> {
    fn decide(&self) -> Result<Decision> {
        decide(&self.snapshot)
            .map_err(|facts| Failure::bug(format!("{}: {facts:?} are not known", self.state.title())))
    }

    fn set_step(&mut self, step: StepName, attempts: u32, outcome: StepOutcome) {
        self.snapshot.steps.insert(step, StepSnapshot::new(attempts, outcome));
    }

    /// Writes the status.
    fn write(&mut self, verdict: &Verdict, progress: Option<&Progress>) -> Result<()> {
        self.snapshot.now = state::now();
        let next = status(&self.snapshot, verdict, progress, None);
        self.snapshot.previous = next.clone();
        self.state.set_status(next)
    }
}

impl Execution<'_> {
    /// Runs every shard of a step, one after the other.
    fn launch(&mut self, launch: &Launch) -> Result<()> {
        let step = launch.id.step;
        state::write(&self.report.state.config(step), &launch.config)?;
        let mut display = ProgressDisplay::start(self.report.state.title(), step);
        self.report.set_step(step, launch.id.number, StepOutcome::Running);
        for shard in 0..launch.shards {
            let process = self.process(launch, shard);
            let ended = self.supervise(&process, step, &mut display)?;
            let result: Option<StepResult> = state::read(&process.result)?;
            if ended != Ended::Exited(ExitCode::Done) {
                return Err(self.give_up(ended, result, &process, display, launch));
            }
            let result = result.ok_or_else(|| {
                Failure::bug(format!(
                    "the trainer succeeded but wrote no result to {}",
                    process.result.display()
                ))
            })?;
            step_results::save(&launch.run, self.report.state, shard, &result)?;
        }
        let results = self.report.state.results_dir(launch.run.run.rerun);
        let result = step_results::load(&results, step, launch.shards)?
            .ok_or_else(|| Failure::bug(format!("the results of step {step} have disappeared")))?;
        // What `prepare` says is for the log; of a later step it is what went wrong with some items.
        let message = result.message.clone().filter(|_| step != StepName::Prepare);
        let notes: Vec<String> = limit_note(&launch.run, &result).into_iter().chain(message).collect();
        display.done(&result, self.skipped_list(launch, &result).as_deref(), &notes);
        self.report.set_step(step, launch.id.number, StepOutcome::Succeeded(Box::new(result)));
        Ok(())
    }

    /// The list of skipped items beside the items that `result` reports.
    fn skipped_list(&self, launch: &Launch, result: &StepResult) -> Option<PathBuf> {
        let prepared = result.artifacts.iter().find(|artifact| {
            artifact.kind == ArtifactKind::Prepared && launch.id.step == StepName::Prepare
        })?;
        let folder = self.machine.volumes.resolve(&prepared.location, &self.manifest.folder);
        Some(folder.join(SKIPPED_FILE))
    }

    fn process(&self, launch: &Launch, shard: u32) -> Process {
        let (state, step) = (&self.report.state, launch.id.step);
        let output = self.machine.volumes.resolve(&launch.run.output.location, &self.manifest.folder);
        Process {
            trainer: self.machine.trainer.clone(),
            config: state.config(step),
            volumes: state.mounts(),
            shard,
            result: state.result_file(step, shard),
            log: state.log(step),
            progress: output.join(progress_file(&launch.run.run, step, shard)),
        }
    }

    /// Runs a process and reports its progress.
    fn supervise(
        &mut self,
        process: &Process,
        step: StepName,
        display: &mut ProgressDisplay,
    ) -> Result<Ended> {
        let running = Verdict::running(step);
        let mut last_write = Instant::now();
        let mut last_progress = None;
        let mut failure = None;
        let ended = if self.interrupts.count() > 0 {
            Ended::Exited(ExitCode::Interrupted)
        } else {
            process.run(self.interrupts, |event| match event {
                Event::Progress(progress) => {
                    display.progress(progress);
                    last_progress = Some(progress.clone());
                    if last_write.elapsed() >= STATUS_INTERVAL {
                        last_write = Instant::now();
                        failure = self.report.write(&running, Some(progress)).err();
                    }
                }
                Event::Stopping => display.print(
                    "saving the state; press Ctrl-C again to kill the trainer and lose what is not saved",
                ),
                Event::Killing => display.print("killed"),
            })?
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.report.write(&running, last_progress.as_ref())?;
        Ok(ended)
    }

    /// Reports a step that did not succeed, and returns the failure of the command.
    fn give_up(
        &mut self,
        ended: Ended,
        result: Option<StepResult>,
        process: &Process,
        display: ProgressDisplay,
        launch: &Launch,
    ) -> Failure {
        let step = launch.id.step;
        let title = format!("{} {step}", self.report.state.title());
        let (exit, message) = match ended {
            Ended::Exited(ExitCode::Interrupted) => {
                display.stopped();
                let message = "interrupted, and the state was saved. Run the same command again to resume.";
                return Failure::new(ExitCode::Interrupted, format!("{title}: {message}"));
            }
            Ended::Abandoned => {
                display.stopped();
                let message = "killed. Run the same command again to resume from what was saved.";
                return Failure::new(ExitCode::Interrupted, format!("{title}: {message}"));
            }
            Ended::Exited(exit) => {
                let message = result.and_then(|result| result.message);
                (exit, message.unwrap_or_else(|| "the trainer left no message. See its log.".into()))
            }
            Ended::Killed(signal) => {
                let hint = if signal == 9 {
                    ", most often because memory ran out. Free some, then run"
                } else {
                    ". Run"
                };
                (
                    ExitCode::Bug,
                    format!(
                        "the trainer was killed by signal {signal}{hint} the same command again to resume."
                    ),
                )
            }
        };
        display.failed();
        self.report.set_step(step, launch.id.number, StepOutcome::failed(exit, message.clone()));
        let reported = self.report.decide().and_then(|decision| match decision {
            Decision::Report { verdict, .. } => self.report.write(&verdict, None),
            other => Err(Failure::bug(format!("{title}: the decision is {other:?}"))),
        });
        match reported {
            Ok(()) => Failure::new(exit, format!("{title}: {message}\n  log: {}", process.log.display())),
            Err(failure) => failure,
        }
    }
}
