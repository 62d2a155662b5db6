//! A folder of volumes with good inputs, which a test case spoils, and ways to run the program on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TRAINER: &str = env!("CARGO_BIN_EXE_stic-trainer");
/// The images that every sandbox starts with.
pub(crate) const IMAGES: [&str; 4] = ["a.jpg", "b.jpg", "c.png", "d/e.png"];

pub(crate) fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes")
}

pub(crate) struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let sandbox = Self { root: tempfile::tempdir().unwrap() };
        sandbox.folder("stic");
        sandbox.restore();
        sandbox
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    pub(crate) fn read(&self, relative: &str) -> Vec<u8> {
        fs::read(self.path(relative)).unwrap()
    }

    /// Writes a file, whatever was there.
    pub(crate) fn put(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(relative);
        self.remove(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn remove(&self, relative: &str) {
        let path = self.path(relative);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }

    pub(crate) fn edit_json(&self, relative: &str, edit: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&self.read(relative)).unwrap();
        edit(&mut json);
        self.put(relative, json.to_string());
    }

    pub(crate) fn link(&self, target: impl AsRef<Path>, relative: &str) {
        self.remove(relative);
        std::os::unix::fs::symlink(target, self.path(relative)).unwrap();
    }

    pub(crate) fn pipe(&self, relative: &str) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        self.remove(relative);
        mknodat(CWD, self.path(relative), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    pub(crate) fn folder(&self, relative: &str) {
        self.remove(relative);
        fs::create_dir(self.path(relative)).unwrap();
    }

    /// Restores every input; the output volume is kept.
    pub(crate) fn restore(&self) {
        for volume in ["models", "images", "instructions"] {
            self.remove(volume);
        }
        for entry in fs::read_dir(quickstart().join("models/scenes-llava")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            self.put(&format!("models/m/{name}"), fs::read(&path).unwrap());
        }
        for (i, name) in IMAGES.into_iter().enumerate() {
            self.put(&format!("images/{name}"), picture(24 + 12 * i as u32, 40, name));
        }
        let rows: Vec<Value> = (0..4).map(|i| instruction(&format!("i{i}"), IMAGES[i])).collect();
        self.put("instructions/rows.json", json!(rows).to_string());
    }

    /// Runs a step.
    pub(crate) fn step(&self, config: &Value) -> CommandOutput {
        self.put("config.json", config.to_string());
        self.run(&["step", "--config", "config.json", "--volumes", "."])
    }

    /// Runs the program with a timeout, after which its exit code is 124.
    pub(crate) fn run(&self, args: &[&str]) -> CommandOutput {
        CommandOutput::from(self.command(args).output().unwrap())
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.current_dir(self.root.path()).args(["120", TRAINER]).args(args);
        command
    }

    /// The files under a folder with their bytes, without progress and lock files.
    pub(crate) fn files(&self, relative: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = files_in(&self.path(relative));
        files.retain(|name, _| !name.ends_with(".progress.json") && !name.ends_with(".lock"));
        files
    }
}

pub(crate) fn files_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
            if path.is_dir() {
                walk(&path, &format!("{name}/"), files);
            } else {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(dir, "", &mut files);
    files
}

/// How a process ended, and its output.
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into(),
            err: String::from_utf8_lossy(&output.stderr).into(),
        }
    }
}

impl CommandOutput {
    #[track_caller]
    pub(crate) fn expect_exit(self, case: &str, code: i32, messages: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{case}: {}", self.err);
        for text in messages {
            assert!(self.err.contains(text), "{case}: {text:?} is not in: {}", self.err);
        }
        self
    }

    /// The step's result.
    pub(crate) fn result(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap()
    }
}

/// An image, encoded as the extension of its name says.
pub(crate) fn picture(width: u32, height: u32, name: &str) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x + y) as u8]));
    let format = image::ImageFormat::from_path(name).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn instruction(id: &str, image: &str) -> Value {
    json!({"id": id, "image": image, "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a cat"}]})
}

/// A case's name, how it spoils the inputs, and the expected messages.
pub(crate) type Spoil<'a> = (&'a str, &'a dyn Fn(&Sandbox), &'a [&'a str]);

/// One way to spoil the inputs, and the expected exit code and messages.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) spoil: &'a dyn Fn(&Sandbox),
    pub(crate) code: i32,
    pub(crate) messages: &'a [&'a str],
}

/// Every case fails as expected and writes no artifact, and the step succeeds with corrected input.
pub(crate) fn check(config: &Value, cases: &[Case<'_>]) {
    let sandbox = Sandbox::new();
    for case in cases {
        (case.spoil)(&sandbox);
        let before = sandbox.files("stic");
        let failed = sandbox.step(config).expect_exit(case.name, case.code, case.messages);
        assert!(failed.out.is_empty(), "{}: a failed step printed a result: {}", case.name, failed.out);
        assert_eq!(sandbox.files("stic"), before, "{}: something was written", case.name);
        sandbox.restore();
    }
    sandbox.step(config).expect_exit("corrected", 0, &[]);
    assert!(
        sandbox.files("stic").keys().any(|name| name.ends_with("_SUCCESS.json")),
        "no artifact was published"
    );
}
