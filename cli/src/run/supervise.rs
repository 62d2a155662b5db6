//! One trainer process: started, watched, stopped.

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

const TICK: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(200);

/// Ctrl-C and SIGTERM. The first asks the trainer to save and stop, the second kills it.
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

    /// How many came since the start.
    pub(super) fn count(&mut self) -> usize {
        self.count += self.signals.pending().count();
        self.count
    }
}

/// A process to start.
#[derive(Debug)]
pub(super) struct Process {
    pub trainer: PathBuf,
    pub config: PathBuf,
    pub volumes: PathBuf,
    pub shard: u32,
    /// Where the trainer writes its result.
    pub said: PathBuf,
    pub log: PathBuf,
    /// Where the trainer writes its progress.
    pub progress: PathBuf,
}

/// What happens while a process runs.
pub(super) enum Event<'a> {
    Progress(&'a Progress),
    /// It was asked to stop.
    Stopping,
    /// It was killed.
    Killing,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(ExitCode),
    /// By a signal that was not ours.
    Killed(i32),
    /// By our second signal.
    Abandoned,
}

impl Process {
    /// Runs it to its end.
    pub(super) fn run(&self, interrupts: &mut Interrupts, mut tell: impl FnMut(Event<'_>)) -> Result<Ended> {
        // What an earlier attempt left would be taken for this one's.
        for stale in [&self.said, &self.progress] {
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
            // A child that has just ended needs no signal.
            let _ = group.map(|group| kill_process_group(group, signal));
        };
        let mut answered = interrupts.count();
        let mut watch = Watch::new(&self.progress);
        loop {
            if let Some(status) = child.try_wait().map_err(Failure::storage(&self.trainer))? {
                watch.look(&mut tell);
                return Ok(ended(status, answered));
            }
            let asked = interrupts.count();
            if asked > answered {
                if answered == 0 {
                    tell(Event::Stopping);
                    signal(Signal::TERM);
                }
                if asked > 1 {
                    tell(Event::Killing);
                    signal(Signal::KILL);
                }
                answered = asked;
            }
            if watch.last.elapsed() >= LOOK {
                watch.look(&mut tell);
            }
            sleep(TICK);
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
            .arg(&self.said)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own: the terminal's Ctrl-C reaches us alone, and we pass it on once.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Failure::config(format!(
                    "{}: {error}; name a working trainer with --trainer",
                    self.trainer.display()
                ))
            })
    }
}

fn ended(status: ExitStatus, interrupts: usize) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(ExitCode::from_status(code)),
        (None, _) if interrupts > 1 => Ended::Abandoned,
        // A trainer that has not installed its handler yet dies of our SIGTERM with nothing to save.
        (None, Some(signal)) if interrupts == 1 && signal == SIGTERM => Ended::Exited(ExitCode::Interrupted),
        (None, signal) => Ended::Killed(signal.unwrap_or_default()),
    }
}

/// Reads a progress file when it has changed.
struct Watch<'a> {
    path: &'a Path,
    modified: Option<SystemTime>,
    last: Instant,
}

impl<'a> Watch<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, modified: None, last: Instant::now() }
    }

    fn look(&mut self, tell: &mut impl FnMut(Event<'_>)) {
        self.last = Instant::now();
        let modified = std::fs::metadata(self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_none() || modified == self.modified {
            return;
        }
        // Progress is no result: one that cannot be read is one that is not shown.
        let bytes = std::fs::read(self.path).unwrap_or_default();
        if let Ok(progress) = serde_json::from_slice::<Progress>(&bytes) {
            self.modified = modified;
            tell(Event::Progress(&progress));
        }
    }
}
