//! The program under test, and what it serves.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use rustix::process::{Pid, Signal, kill_process};
use stic_contract::recipe::{Lora, LoraTarget};
use stic_trainer::checkpoint::adapter;
use stic_trainer::model::ModelConfig;
use stic_trainer::model::lora::LoraAdapter;

pub(crate) const TRAINER: &str = env!("CARGO_BIN_EXE_stic-trainer");
/// For whatever a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) fn volumes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes")
}

pub(crate) fn model() -> PathBuf {
    volumes().join("models/scenes-llava")
}

/// Writes an adapter whose matrices B repeat -b, 0, b.
pub(crate) fn write_adapter(dir: &Path, b: f32) {
    std::fs::create_dir_all(dir).unwrap();
    let config = ModelConfig::from_dir(&model()).unwrap().text;
    let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec![LoraTarget::DownProj] };
    let adapter = LoraAdapter::new(&config, &lora, 0, &Device::Cpu).unwrap();
    for (_, var) in adapter.named_vars().iter().filter(|(name, _)| name.contains("lora_B")) {
        let values = (0..var.elem_count()).map(|i| (i % 3) as f32 * b - b).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    adapter::save(&adapter, dir, "scenes-llava", adapter::AdapterNames::Transformers).unwrap();
}

/// `stic-trainer serve` on a port of its own.
pub(crate) struct Server {
    child: Child,
    log: Receiver<String>,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(TRAINER)
            .args(["serve", "--listen", "127.0.0.1:0", "--model"])
            .arg(model())
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut server = Self { child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = server.wait_for_log("serving /v1/chat/completions");
        let (_, after) = line.split_once("address=").unwrap();
        server.address = after.split(' ').next().unwrap().parse().unwrap();
        server
    }

    /// Waits for a line of the log and returns it.
    pub(crate) fn wait_for_log(&self, part: &str) -> String {
        let until = Instant::now() + DEADLINE;
        let mut log = String::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => log += &(line + "\n"),
                Err(error) => panic!("no line with {part:?} ({error}) in:\n{log}"),
            }
        }
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The memory that the process has used at most, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
