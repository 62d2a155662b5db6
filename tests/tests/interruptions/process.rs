//! A process: started, watched, signalled.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(600);
const POLL_INTERVAL: Duration = Duration::from_micros(300);

pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

/// How a process ended, and its log.
pub(crate) struct CommandOutput {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Running {
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let child = command.stderr(File::create(log).unwrap()).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Waits until `condition` holds; false if the process ended first.
    pub(crate) fn until(&mut self, condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        loop {
            if condition() {
                return self.child.try_wait().unwrap().is_none();
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < TIMEOUT, "timed out: {}", self.read_log());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until the log contains `text`, or the process has ended.
    pub(crate) fn until_log(&mut self, text: &str) {
        let log = self.log.clone();
        self.until(|| std::fs::read_to_string(&log).is_ok_and(|log| log.contains(text)));
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

    pub(crate) fn wait(mut self) -> CommandOutput {
        self.until(|| false);
        let status = self.child.wait().unwrap();
        CommandOutput { status, log: self.read_log() }
    }

    fn read_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failed test must leave nothing running. The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn send(id: u32, signal: Signal) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).unwrap();
    // It may have just ended; the test looks at its exit status.
    let _ = kill_process(id, signal);
}

impl CommandOutput {
    #[track_caller]
    pub(crate) fn expect_exit(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.log);
        self
    }

    #[track_caller]
    pub(crate) fn expect_log(self, text: &str) -> Self {
        assert!(self.log.contains(text), "{text:?} is not in: {}", self.log);
        self
    }
}
