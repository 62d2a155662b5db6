//! A folder of volumes with good inputs, which a case spoils; and the program, run on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TRAINER: &str = env!("CARGO_BIN_EXE_stic-trainer");
/// Of the images every bench begins with.
pub(crate) const IMAGES: [&str; 4] = ["a.jpg", "b.jpg", "c.png", "d/e.png"];

pub(crate) fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes")
}

pub(crate) struct Bench {
    root: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().unwrap() };
        bench.folder("stic");
        bench.restore();
        bench
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

    /// Puts every input back as it was; the output volume stays.
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

    /// Runs a step of the run config.
    pub(crate) fn step(&self, config: &Value) -> Ran {
        self.put("config.json", config.to_string());
        self.run(&["step", "--config", "config.json", "--volumes", "."])
    }

    /// Runs the program. One that waits for ever is ended, as 124.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.current_dir(self.root.path()).args(["120", TRAINER]).args(args);
        command
    }

    /// What lies under a folder but what tells of progress: paths and bytes.
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

/// What a process said and how it ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into(),
            err: String::from_utf8_lossy(&output.stderr).into(),
        }
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ended(self, case: &str, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{case}: {}", self.err);
        for text in says {
            assert!(self.err.contains(text), "{case}: {text:?} is not in: {}", self.err);
        }
        self
    }

    /// The step's result.
    pub(crate) fn result(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap()
    }
}

/// A picture encoded as its name's extension says.
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

/// A case's name, how it spoils the inputs, and what is said of it.
pub(crate) type Spoil<'a> = (&'a str, &'a dyn Fn(&Bench), &'a [&'a str]);

/// One way to spoil the inputs, and how it is answered.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) spoil: &'a dyn Fn(&Bench),
    pub(crate) code: i32,
    pub(crate) says: &'a [&'a str],
}

/// Each case in turn ends the step as it says and writes no artifact, and the mended input goes on to success.
pub(crate) fn check(config: &Value, cases: &[Case<'_>]) {
    let bench = Bench::new();
    for case in cases {
        (case.spoil)(&bench);
        let before = bench.files("stic");
        let said = bench.step(config).ended(case.name, case.code, case.says);
        assert!(said.out.is_empty(), "{}: a result of nothing: {}", case.name, said.out);
        assert_eq!(bench.files("stic"), before, "{}: something was written", case.name);
        bench.restore();
    }
    bench.step(config).ended("mended", 0, &[]);
    assert!(bench.files("stic").keys().any(|name| name.ends_with("_SUCCESS.json")), "it was prepared");
}
