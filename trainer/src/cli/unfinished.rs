//! `unfinished`: lists the unfinished work of runs on a volume, and removes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stic_contract::artifact::PARTIAL_DIR;

use super::args::UnfinishedArgs;
use super::tools::print;
use crate::error::{Error, Result};
use crate::io::disk_usage::{DiskUsage, disk_usage};
use crate::io::human_bytes as human;
use crate::io::lock::StepLock;

/// The unfinished work of one run.
struct Unfinished {
    /// The UID of the run, a dash, and the number of its rerun.
    name: String,
    dir: PathBuf,
    usage: DiskUsage,
    in_use: bool,
}

pub(super) fn unfinished(args: &UnfinishedArgs) -> Result<()> {
    let folder = args.output.join(PARTIAL_DIR);
    let all = list(&args.output, &folder)?;
    if args.remove.is_empty() {
        return print(table(&all).as_bytes());
    }
    // Everything is checked before anything is removed.
    let mut chosen = Vec::new();
    for name in &args.remove {
        let found = all.iter().find(|work| work.name == *name).ok_or_else(|| {
            Error::Config(format!(
                "--remove {name}: {} has no such folder; leave out --remove to list them",
                folder.display()
            ))
        })?;
        if found.in_use {
            return Err(Error::Config(format!(
                "--remove {name}: a step is working in it; suspend or delete its run first"
            )));
        }
        chosen.push(found);
    }
    for work in chosen {
        fs::remove_dir_all(&work.dir).map_err(Error::storage(&work.dir))?;
        print(format!("removed {} ({})\n", work.name, human(work.usage.bytes)).as_bytes())?;
    }
    Ok(())
}

fn list(output: &Path, folder: &Path) -> Result<Vec<Unfinished>> {
    if !output.is_dir() {
        return Err(Error::Config(format!(
            "{}: no such folder; give the output folder of a run",
            output.display()
        )));
    }
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(Error::storage(folder))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let dir = entry.map_err(Error::storage(folder))?.path();
        let Some(name) = dir.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned) else {
            continue;
        };
        if !dir.is_dir() {
            continue;
        }
        all.push(Unfinished { name, in_use: is_locked(&dir)?, usage: disk_usage(&dir)?, dir });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Whether a step holds one of the locks in a folder.
fn is_locked(dir: &Path) -> Result<bool> {
    for entry in fs::read_dir(dir).map_err(Error::storage(dir))? {
        let path = entry.map_err(Error::storage(dir))?.path();
        if path.extension().is_some_and(|extension| extension == "lock") && StepLock::is_held(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn table(all: &[Unfinished]) -> String {
    if all.is_empty() {
        return "There is no unfinished work.\n".to_owned();
    }
    let width = all.iter().map(|work| work.name.len()).max().unwrap_or_default().max("FOLDER".len());
    let mut text = format!("{:width$}  {:10}  {:12}  STATE\n", "FOLDER", "SIZE", "LAST CHANGE");
    for Unfinished { name, usage: DiskUsage { bytes, changed }, in_use, .. } in all {
        let age = SystemTime::now().duration_since(*changed).unwrap_or_default();
        let state = if *in_use { "in use" } else { "not in use" };
        text.push_str(&format!("{name:width$}  {:10}  {:12}  {state}\n", human(*bytes), ago(age)));
    }
    text
}

fn ago(age: Duration) -> String {
    let plural = |count: u64, unit: &str| format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" });
    match age.as_secs() {
        0..60 => "now".to_owned(),
        seconds @ 60..3600 => plural(seconds / 60, "minute"),
        seconds @ 3600..86_400 => plural(seconds / 3600, "hour"),
        seconds => plural(seconds / 86_400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_named_work_that_nobody_uses_is_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = |name: &str| root.path().join(PARTIAL_DIR).join(name);
        for name in ["a-0", "b-1"] {
            fs::create_dir_all(dir(name)).expect("a folder");
            fs::write(dir(name).join("rows.jsonl"), "x").expect("a file");
        }
        let lock = File::create(dir("b-1").join("train-00000.lock")).expect("a file");
        lock.lock().expect("nobody has it");
        let run = |remove: &[&str]| {
            let remove = remove.iter().map(|name| (*name).to_owned()).collect();
            unfinished(&UnfinishedArgs { output: root.path().to_owned(), remove })
        };
        run(&[]).expect("they are listed");
        let used = run(&["a-0", "b-1"]).expect_err("b-1 is in use").to_string();
        assert!(used.contains("a step is working in it") && dir("a-0").is_dir(), "{used}");
        assert!(run(&["c-0"]).is_err());
        run(&["a-0"]).expect("nobody uses it");
        assert!(!dir("a-0").exists() && dir("b-1").is_dir());
        drop(lock);
        run(&["b-1"]).expect("its step has ended");
    }
}
