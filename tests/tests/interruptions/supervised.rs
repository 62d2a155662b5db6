//! `kubectl-stic run`, interrupted by Ctrl-C and by a trainer that dies under it.

use rustix::process::Signal;

use crate::bench::{Baseline, Bench, Layout};
use crate::moments::{Moments, Work};
use crate::process::send;

#[test]
fn ctrl_c_in_any_step_saves_and_the_same_command_goes_on() {
    let mut moments = Moments::draw();
    let baseline = Baseline::get();
    let bench = Bench::new(Layout::PLAIN);
    let mut interrupted = 0;
    for (run, name) in [
        ("stageonerun", "generate"),
        ("stageonerun", "train"),
        ("stagetworun", "describe"),
        ("stagetworun", "train"),
    ] {
        let work = Work::of(&bench, baseline.step(run, name));
        let before = done(&work, name);
        let enough = before + 1 + moments.below(2);
        let mut running = bench.start_both(|program| std::process::Command::new(program));
        if running.until(|| done(&work, name) >= enough) {
            running.signal(Signal::INT);
        }
        let ended = running.end();
        // Where the step ended first, the signal reached the next one: that is asked to stop as well.
        if !ended.status.success() {
            ended.ended(75).saying("interrupted and saved; run the same command again to go on");
            interrupted += 1;
        }
    }
    assert!(interrupted >= 2, "seed {}: only {interrupted} of 4 were interrupted", moments.seed);
    bench.run_both().ended(0).saying("stageonerun/scenes train: done before");
    bench.assert_is_baseline(moments.seed);
}

#[test]
fn a_killed_trainer_is_told_of_and_after_a_killed_runner_too_the_same_command_goes_on() {
    let mut moments = Moments::draw();
    let step = Baseline::get().step("stageonerun", "generate");
    // On a busy machine a trainer may be done before it is killed: then another one is.
    let killed = (0..100).find_map(|_| {
        let bench = Bench::new(Layout::PLAIN);
        let work = Work::of(&bench, step);
        let enough = 1 + moments.below(4);
        let mut running = bench.start_both(|program| std::process::Command::new(program));
        if !running.until(|| work.rows().len() >= enough) {
            return None;
        }
        let children = running.children();
        assert!(children.len() <= 1, "one trainer");
        send(*children.first()?, Signal::KILL);
        let ended = running.end();
        (!ended.log.contains("stageonerun/scenes train: started")).then_some((bench, work, enough, ended))
    });
    assert!(killed.is_some(), "no trainer was killed while it wrote rows, seed {}", moments.seed);
    let (bench, work, enough, ended) = killed.unwrap();
    ended
        .ended(1)
        .saying("stageonerun/scenes generate: the trainer was killed by signal 9")
        .saying("run the same command again to go on");
    let rows = work.rows();
    assert!(rows.len() >= enough, "seed {}", moments.seed);

    // The runner is killed: its trainer goes on, and the next command's waits for it.
    let mut running = bench.start_both(|program| std::process::Command::new(program));
    if running.until(|| work.rows().len() > rows.len()) {
        running.signal(Signal::KILL);
    }
    drop(running);
    bench.run_both().ended(0).saying("stageonerun/scenes prepare: done before");
    bench.assert_is_baseline(moments.seed);
}

fn done(work: &Work, step: &str) -> usize {
    if step == "train" { work.metrics().len() } else { work.rows().len() }
}
