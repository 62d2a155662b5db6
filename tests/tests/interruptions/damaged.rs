//! Training state that the disk has damaged: the state before it is gone on from, or the start, to the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::bench::{Baseline, Bench, SAVE_STEPS};
use crate::moments::{Moments, Work};
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
fn the_state_before_a_damaged_one_is_gone_on_from() {
    let mut moments = Moments::draw();
    for damage in [TORN, FLIPPED, WITHOUT_FACTS] {
        let (bench, work) = trained_for_a_while(&moments);
        let states = states(&work);
        assert!(states.len() >= 2, "the last two are kept: {states:?}");
        let newest = states.last().unwrap();
        damage(newest, &mut moments);
        let ended = bench.start(Baseline::get().step("stageonerun", "train")).end().ended(0);
        ended.saying(&newest.to_string_lossy()).saying("this saved training state cannot be used");
        bench.assert_is_baseline(moments.seed);
    }
}

#[test]
fn where_every_state_is_damaged_training_starts_anew() {
    let mut moments = Moments::draw();
    let (bench, work) = trained_for_a_while(&moments);
    for state in states(&work) {
        TORN(&state, &mut moments);
    }
    let ended = bench.start(Baseline::get().step("stageonerun", "train")).end().ended(0);
    ended.saying("no saved training state can be used; training starts anew");
    bench.assert_is_baseline(moments.seed);
}

/// A training of stage 1 that was killed once it had saved twice. Everything else is done.
fn trained_for_a_while(moments: &Moments) -> (Bench, Work) {
    let bench = Bench::finished();
    let step = Baseline::get().step("stageonerun", "train");
    let work = Work::of(&bench, step);
    // On a busy machine it may end before it is killed.
    for _ in 0..5 {
        fs::remove_dir_all(adapter(&bench, 1)).unwrap();
        let mut running = bench.start(step);
        let in_time = running.until(|| work.saved() >= 2 * SAVE_STEPS);
        running.signal(Signal::KILL);
        running.end();
        if in_time && work.has_draft() && work.saved() > 0 {
            return (bench, work);
        }
    }
    panic!("seed {}: training ended before it could be killed", moments.seed);
}

/// The folders of saved states, the oldest first.
fn states(work: &Work) -> Vec<PathBuf> {
    let entries = fs::read_dir(work.state_dir().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut states: Vec<PathBuf> = entries.filter(|path| path.extension().is_none()).collect();
    states.sort();
    states
}
