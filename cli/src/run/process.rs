//! One trainer process: start, supervision, shutdown.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stic_contract::{ExitCode, Progress};

use crate::error::{Failure, Result};

const WAIT_INTERVAL: Duration = Duration::from_millis(50);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Ctrl-C and SIGTERM. The first one makes the trainer save and stop, the second one kills it.
#[derive(Debug)]
pub(super) struct Interrupts {
    signals: Signals,
    count: usize,
}

impl Interrupts {
    pub(super) fn listen() -> Result<Self> {
        let signals =
            Signals::new([SIGINT, SIGTERM]).map_err(Failure::storage(Path::new("signal handler")))?;
        Ok(Self { signals, count: 0 })
    }

    /// The number of signals since the start.
    pub(super) fn count(&mut self) -> usize {
        self.count += self.signals.pending().count();
        self.count
    }
}

/// The trainer's arguments and files.
#[derive(Debug)]
pub(super) struct Process {
    pub trainer: PathBuf,
    pub config: PathBuf,
    pub volumes: PathBuf,
    pub shard: u32,
    /// The file to which the trainer writes its result.
    pub result: PathBuf,
    pub log: PathBuf,
    /// The file to which the trainer writes its progress.
    pub progress: PathBuf,
}

/// An event while a process runs.
pub(super) enum Event<'a> {
    Progress(&'a Progress),
    /// The process was sent SIGTERM.
    Stopping,
    /// The process was sent SIGKILL.
    Killing,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(ExitCode),
    /// By a signal that this program did not send.
    Killed(i32),
    /// Killed by this program, after a second interrupt.
    Abandoned,
}

impl Process {
    /// Runs the process to its end.
    pub(super) fn run(
        &self,
        interrupts: &mut Interrupts,
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<Ended> {
        // Files of an earlier attempt would be mistaken for those of this one.
        for stale in [&self.result, &self.progress] {
            match std::fs::remove_file(stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::storage(stale)(error));
                }
                _ => {}
            }
        }
        let mut child = self.spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let signal = |signal| {
            // An error means that the process has just ended.
            let _ = group.map(|group| kill_process_group(group, signal));
        };
        let mut handled = interrupts.count();
        let mut progress = ProgressFile::new(&self.progress);
        loop {
            if let Some(status) = child.try_wait().map_err(Failure::storage(&self.trainer))? {
                progress.poll(&mut on_event);
                return Ok(ended(status, handled));
            }
            let received = interrupts.count();
            if received > handled {
                if handled == 0 {
                    on_event(Event::Stopping);
                    signal(Signal::TERM);
                }
                if received > 1 {
                    on_event(Event::Killing);
                    signal(Signal::KILL);
                }
                handled = received;
            }
            if progress.polled.elapsed() >= PROGRESS_INTERVAL {
                progress.poll(&mut on_event);
            }
            sleep(WAIT_INTERVAL);
        }
    }

    fn spawn(&self) -> Result<Child> {
        let log =
            File::options().create(true).append(true).open(&self.log).map_err(Failure::storage(&self.log))?;
        Command::new(&self.trainer)
            .arg("step")
            .arg("--config")
            .arg(&self.config)
            .arg("--volumes")
            .arg(&self.volumes)
            .args(["--shard-index", &self.shard.to_string()])
            .arg("--result")
            .arg(&self.result)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // In a process group of its own, the trainer does not receive the terminal's Ctrl-C; this program forwards it once.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Failure::config(format!(
                    "cannot start the trainer {}: {error}. Give the path of a working stic-trainer with --trainer.",
                    self.trainer.display()
                ))
            })
    }
}

fn ended(status: ExitStatus, interrupts: usize) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(ExitCode::from_status(code)),
        (None, _) if interrupts > 1 => Ended::Abandoned,
        // A trainer that has not installed its signal handler yet dies of SIGTERM, with nothing to save.
        (None, Some(signal)) if interrupts == 1 && signal == SIGTERM => Ended::Exited(ExitCode::Interrupted),
        (None, signal) => Ended::Killed(signal.unwrap_or_default()),
    }
}

/// A progress file, which is read when it has changed.
struct ProgressFile<'a> {
    path: &'a Path,
    modified: Option<SystemTime>,
    polled: Instant,
}

impl<'a> ProgressFile<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, modified: None, polled: Instant::now() }
    }

    fn poll(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        self.polled = Instant::now();
        let modified = std::fs::metadata(self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_none() || modified == self.modified {
            return;
        }
        // Progress is only displayed, so a file that cannot be read is ignored.
        let bytes = std::fs::read(self.path).unwrap_or_default();
        if let Ok(progress) = serde_json::from_slice::<Progress>(&bytes) {
            self.modified = modified;
            on_event(Event::Progress(&progress));
        }
    }
}
