//! A process: started, waited on, signalled.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_micros(300);

pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

/// How a process ended and what it said.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Running {
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let child = command.stderr(File::create(log).unwrap()).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Waits until `condition` holds; false when the process ended first.
    pub(crate) fn until(&mut self, condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        loop {
            if condition() {
                return self.child.try_wait().unwrap().is_none();
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < PATIENCE, "nothing happens: {}", self.said());
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// The process ids of its children.
    pub(crate) fn children(&self) -> Vec<u32> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(thread.ok()?.path().join("children")).ok()
        };
        let children: Vec<String> = threads.filter_map(of_thread).collect();
        children.iter().flat_map(|ids| ids.split_whitespace()).map(|id| id.parse().unwrap()).collect()
    }

    pub(crate) fn end(mut self) -> Ended {
        self.until(|| false);
        let status = self.child.wait().unwrap();
        Ended { status, log: self.said() }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing running; one that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn send(id: u32, signal: Signal) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).unwrap();
    // It may have ended in this moment; what it left is judged by its exit status.
    let _ = kill_process(id, signal);
}

impl Ended {
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.log);
        self
    }

    #[track_caller]
    pub(crate) fn saying(self, text: &str) -> Self {
        assert!(self.log.contains(text), "{text:?} is not in: {}", self.log);
        self
    }
}
