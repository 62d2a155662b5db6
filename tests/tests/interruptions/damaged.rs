//! Damaged training states: training resumes from the one before, or from the start, to the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::moments::{Moments, Work};
use crate::sandbox::{Baseline, SAVE_STEPS, Sandbox};
use crate::tampered::{adapter, flip};

type Damage = fn(&Path, &mut Moments);

const TORN: Damage = |state, moments| {
    let path = state.join("state.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..moments.below(bytes.len())]).unwrap();
};
const FLIPPED: Damage = |state, moments| flip(&state.join("state.safetensors"), moments);
const WITHOUT_FACTS: Damage = |state, _| fs::remove_file(state.join("state.json")).unwrap();

#[test]
fn training_resumes_from_the_state_before_a_damaged_one() {
    let mut moments = Moments::draw();
    for damage in [TORN, FLIPPED, WITHOUT_FACTS] {
        let (sandbox, work) = trained_for_a_while(&moments);
        let states = states(&work);
        assert!(states.len() >= 2, "two states are kept: {states:?}");
        let newest = states.last().unwrap();
        damage(newest, &mut moments);
        let ended = sandbox.start(Baseline::get().step("stageonerun", "train")).wait().expect_exit(0);
        ended.expect_log(&newest.to_string_lossy()).expect_log("cannot use this saved training state");
        sandbox.assert_is_baseline(moments.seed);
    }
}

#[test]
fn training_starts_over_if_every_state_is_damaged() {
    let mut moments = Moments::draw();
    let (sandbox, work) = trained_for_a_while(&moments);
    for state in states(&work) {
        TORN(&state, &mut moments);
    }
    let ended = sandbox.start(Baseline::get().step("stageonerun", "train")).wait().expect_exit(0);
    ended.expect_log("cannot use any saved training state; training starts over");
    sandbox.assert_is_baseline(moments.seed);
}

/// A training of stage 1, killed after its second saved state. All other steps are done.
fn trained_for_a_while(moments: &Moments) -> (Sandbox, Work) {
    let sandbox = Sandbox::with_all_artifacts();
    let step = Baseline::get().step("stageonerun", "train");
    let work = Work::of(&sandbox, step);
    // On a busy machine it may end before it is killed.
    for _ in 0..5 {
        fs::remove_dir_all(adapter(&sandbox, 1)).unwrap();
        let mut running = sandbox.start(step);
        let in_time = running.until(|| work.saved() >= 2 * SAVE_STEPS);
        running.signal(Signal::KILL);
        running.wait();
        if in_time && work.has_draft() && work.saved() > 0 {
            return (sandbox, work);
        }
    }
    panic!("seed {}: training ended before it could be killed", moments.seed);
}

/// The folders of the saved states, the oldest first.
fn states(work: &Work) -> Vec<PathBuf> {
    let entries = fs::read_dir(work.state_dir().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut states: Vec<PathBuf> = entries.filter(|path| path.extension().is_none()).collect();
    states.sort();
    states
}
