//! The saved states of a training, from which it resumes after an interruption. Each is a folder that appears whole.
//!
//! A disk may damage a file later. Each state therefore holds the digest of its tensors. Where the newest state is
//! damaged, training resumes from the one before it, or starts over where there is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};
use stic_contract::Digest;

use crate::error::{Error, Result};
use crate::io::{atomic, file_digest, safetensors};
use crate::training::adamw::AdamW;
use crate::training::checkpoint_policy::{Action, after};

const PREFIX: &str = "state-";
const TENSORS_FILE: &str = "state.safetensors";
const FACTS_FILE: &str = "state.json";

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    /// The number of steps taken.
    step: u64,
    /// The digest of the file of weights and moments.
    digest: Digest,
}

/// The saved states of one training.
#[derive(Debug)]
pub struct TrainingStates {
    dir: PathBuf,
    /// The number of steps of the whole training.
    total: u64,
    /// The number of steps between two states.
    every: u32,
    /// The steps of the undamaged states, ascending.
    intact: Vec<u64>,
    /// Damaged states, which are deleted once a newer one is saved.
    damaged: Vec<PathBuf>,
}

impl TrainingStates {
    /// Opens the states in `dir`, of a training of `total` steps that saves a state after `every` steps, and restores
    /// `optimizer` from the newest undamaged one. Damaged states are skipped with a warning. Without a usable state the
    /// optimizer stays as it is.
    ///
    /// # Errors
    /// [`Error::Storage`] where the disk cannot be read.
    pub fn open(dir: &Path, total: u64, every: u32, optimizer: &mut AdamW, device: &Device) -> Result<Self> {
        let mut states = Self { dir: dir.to_owned(), total, every, intact: Vec::new(), damaged: Vec::new() };
        let found = states_in(dir)?;
        for (step, place) in found.iter().rev() {
            match restore(place, *step, optimizer, device) {
                Ok(()) => {
                    tracing::info!(step, "resuming from a saved state");
                    // Older states are verified only when they are needed.
                    states.intact = found.range(..=step).map(|(step, _)| *step).collect();
                    return Ok(states);
                }
                Err(Unusable::Damaged(reason)) => {
                    tracing::warn!(
                        state = %place.display(),
                        "cannot use this saved training state: {reason}; trying the one before it"
                    );
                    states.damaged.push(place.clone());
                }
                Err(Unusable::Failed(error)) => return Err(error),
            }
        }
        if !found.is_empty() {
            tracing::warn!(folder = %dir.display(), "cannot use any saved training state; training starts over");
        }
        Ok(states)
    }

    /// Whether [`TrainingStates::keep`] would save now.
    #[must_use]
    pub fn is_due(&self, optimizer: &AdamW, interrupted: bool) -> bool {
        self.actions(optimizer, interrupted).contains(&Action::Save)
    }

    fn actions(&self, optimizer: &AdamW, interrupted: bool) -> Vec<Action> {
        after(optimizer.steps(), self.total, self.every, interrupted, &self.intact)
    }

    /// Saves and deletes states by the policy of [`after`]. A state is deleted only once a newer one is on the disk.
    ///
    /// # Errors
    /// [`Error::Storage`]; the older states then still exist.
    pub fn keep(&mut self, optimizer: &AdamW, interrupted: bool) -> Result<()> {
        for action in self.actions(optimizer, interrupted) {
            match action {
                Action::Save => self.save(optimizer)?,
                Action::Delete(step) => {
                    remove(&self.place(step))?;
                    self.intact.retain(|other| *other != step);
                }
            }
        }
        Ok(())
    }

    fn save(&mut self, optimizer: &AdamW) -> Result<()> {
        let step = optimizer.steps();
        let place = self.place(step);
        let draft = self.dir.join(format!("{PREFIX}{step:08}.partial"));
        let result = fill(&draft, optimizer).and_then(|()| {
            // A damaged state may have the same name.
            self.damaged.drain(..).try_for_each(|damaged| remove(&damaged))?;
            atomic::rename(&draft, &place)
        });
        if let Err(error) = result {
            let _ = fs::remove_dir_all(&draft);
            return Err(error);
        }
        self.intact.push(step);
        Ok(())
    }

    fn place(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{step:08}"))
    }
}

fn fill(draft: &Path, optimizer: &AdamW) -> Result<()> {
    atomic::create_dir(draft)?;
    let tensors = draft.join(TENSORS_FILE);
    safetensors::write(&tensors, &optimizer.state())?;
    let facts = Facts { step: optimizer.steps(), digest: file_digest(&tensors)? };
    let facts = serde_json::to_vec(&facts)
        .map_err(|e| Error::Storage { path: draft.to_owned(), source: std::io::Error::other(e) })?;
    atomic::write(&draft.join(FACTS_FILE), &facts)
}

/// Why a state cannot be restored.
enum Unusable {
    /// It was changed since it was written, or belongs to another training.
    Damaged(String),
    /// It could not be read.
    Failed(Error),
}

impl Unusable {
    /// A missing file, or something else in its place, is damage. Any other error does not concern the state.
    fn from_io(path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
        match error.kind() {
            NotFound | NotADirectory | IsADirectory | InvalidData => {
                Self::Damaged(format!("{}: {error}", path.display()))
            }
            _ => Self::Failed(Error::storage(path)(error)),
        }
    }
}

/// Restores `optimizer` from the state in `place`, completely or not at all.
fn restore(place: &Path, step: u64, optimizer: &mut AdamW, device: &Device) -> Result<(), Unusable> {
    let path = place.join(FACTS_FILE);
    let text = fs::read_to_string(&path).map_err(|e| Unusable::from_io(&path, e))?;
    let facts: Facts =
        serde_json::from_str(&text).map_err(|e| Unusable::Damaged(format!("{}: {e}", path.display())))?;
    if facts.step != step {
        return Err(Unusable::Damaged(format!("{} is of step {}", path.display(), facts.step)));
    }
    let path = place.join(TENSORS_FILE);
    let digest = File::open(&path).and_then(Digest::of_reader).map_err(|e| Unusable::from_io(&path, e))?.0;
    if digest != facts.digest {
        return Err(Unusable::Damaged(format!(
            "{} has digest {digest}, but {} was recorded",
            path.display(),
            facts.digest
        )));
    }
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .map_err(|e| Unusable::Damaged(format!("{}: {e}", path.display())))?;
    optimizer.restore(tensors, step, device).map_err(|error| match error {
        Error::Data(reason) => Unusable::Damaged(reason),
        other => Unusable::Failed(other),
    })
}

fn remove(place: &Path) -> Result<()> {
    fs::remove_dir_all(place).map_err(Error::storage(place))
}

/// The states in `dir` by step, damaged ones included.
fn states_in(dir: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(Error::storage(dir))? {
        let path = entry.map_err(Error::storage(dir))?.path();
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor, Var};

    use super::*;

    const DEVICE: Device = Device::Cpu;

    fn optimizer(width: usize) -> AdamW {
        let weight = Var::from_tensor(&Tensor::ones(width, DType::F32, &DEVICE).expect("ones"));
        AdamW::new(vec![("w".into(), weight.expect("a variable"))], 0.1).expect("an optimizer")
    }

    /// Takes the place of a training step: every tensor changes, by a different amount in each step.
    fn step(optimizer: &mut AdamW) {
        let done = optimizer.steps();
        let moved = |tensor: Tensor| tensor.affine(0.7, done as f64 + 0.3).expect("moved");
        let state = optimizer.state().into_iter().map(|(name, tensor)| (name, moved(tensor))).collect();
        optimizer.restore(state, done + 1, &DEVICE).expect("its own");
    }

    fn bits(optimizer: &AdamW) -> Vec<(String, Vec<u32>)> {
        let values = |t: Tensor| t.to_vec1::<f32>().expect("values").into_iter().map(f32::to_bits).collect();
        optimizer.state().into_iter().map(|(name, tensor)| (name, values(tensor))).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Trains to step `to` of 20, with a state after every 2 steps.
    fn train(dir: &Path, to: u64) -> (AdamW, u64) {
        let mut optimizer = optimizer(2);
        let mut states = TrainingStates::open(dir, 20, 2, &mut optimizer, &DEVICE).expect("opens");
        let from = optimizer.steps();
        while optimizer.steps() < to {
            step(&mut optimizer);
            states.keep(&optimizer, false).expect("kept");
        }
        (optimizer, from)
    }

    type Damage = fn(&Path);

    #[test]
    fn training_resumes_before_a_damaged_state_with_the_same_result() {
        let undisturbed = tempfile::tempdir().expect("a folder");
        let (expected, _) = train(undisturbed.path(), 9);
        let damages: [(&str, Damage); 6] = [
            ("torn", |state| {
                let file = File::options().write(true).open(state.join(TENSORS_FILE)).expect("there");
                file.set_len(file.metadata().expect("its size").len() - 3).expect("cut");
            }),
            ("one bit", |state| {
                let mut bytes = fs::read(state.join(TENSORS_FILE)).expect("there");
                *bytes.last_mut().expect("not empty") ^= 1;
                fs::write(state.join(TENSORS_FILE), bytes).expect("written");
            }),
            ("no facts", |state| fs::remove_file(state.join(FACTS_FILE)).expect("there")),
            ("facts of an older version", |state| {
                fs::write(state.join(FACTS_FILE), r#"{"step":6}"#).expect("written");
            }),
            ("no tensors", |state| fs::remove_file(state.join(TENSORS_FILE)).expect("there")),
            ("foreign shapes", |state| {
                let mut foreign = optimizer(3);
                (0..6).for_each(|_| step(&mut foreign));
                fill(state, &foreign).expect("written");
            }),
        ];
        for (name, damage) in damages {
            let dir = tempfile::tempdir().expect("a folder");
            train(dir.path(), 7);
            assert_eq!(names(dir.path()), ["state-00000004", "state-00000006"], "{name}");
            damage(&dir.path().join("state-00000006"));
            let (found, from) = train(dir.path(), 5);
            assert_eq!((from, found.steps()), (4, 5), "{name}");
            assert_eq!(names(dir.path()), ["state-00000004", "state-00000006"], "{name}: nothing newer yet");
            let (found, from) = train(dir.path(), 9);
            assert_eq!(from, 4, "{name}");
            assert_eq!(bits(&found), bits(&expected), "{name}");
            assert_eq!(names(dir.path()), ["state-00000006", "state-00000008"], "{name}");
            assert_eq!(train(dir.path(), 8).1, 8, "{name}: what took its place is whole");
        }
    }

    #[test]
    fn without_an_undamaged_state_training_starts_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let (expected, _) = train(dir.path(), 7);
        for state in names(dir.path()) {
            fs::write(dir.path().join(state).join(TENSORS_FILE), "").expect("written");
        }
        let (found, from) = train(dir.path(), 7);
        assert_eq!((from, bits(&found)), (0, bits(&expected)));
        assert_eq!(names(dir.path()), ["state-00000004", "state-00000006"]);
    }

    #[test]
    fn an_interrupted_training_saves_its_last_step() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut optimizer = optimizer(2);
        let mut states = TrainingStates::open(dir.path(), 20, 2, &mut optimizer, &DEVICE).expect("opens");
        states.keep(&optimizer, true).expect("nothing to save");
        assert!(names(dir.path()).is_empty());
        step(&mut optimizer);
        states.keep(&optimizer, true).expect("saved");
        assert_eq!(names(dir.path()), ["state-00000001"]);
    }
}
