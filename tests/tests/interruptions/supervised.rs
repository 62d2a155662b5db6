//! `kubectl-stic run`, interrupted by Ctrl-C and by a killed trainer.

use rustix::process::Signal;

use crate::moments::{Moments, Work};
use crate::process::send;
use crate::sandbox::{Baseline, Layout, Sandbox};

#[test]
fn ctrl_c_in_any_step_saves_and_the_same_command_resumes() {
    let mut moments = Moments::draw();
    let baseline = Baseline::get();
    let sandbox = Sandbox::new(Layout::PLAIN);
    let mut interrupted = 0;
    for (run, name) in [
        ("stageonerun", "generate"),
        ("stageonerun", "train"),
        ("stagetworun", "describe"),
        ("stagetworun", "train"),
    ] {
        let work = Work::of(&sandbox, baseline.step(run, name));
        let before = done(&work, name);
        let enough = before + 1 + moments.below(2);
        let mut running = sandbox.start_both(|program| std::process::Command::new(program));
        if running.until(|| done(&work, name) >= enough) {
            running.signal(Signal::INT);
        }
        let ended = running.wait();
        // If the step ended first, the signal reached the next one, which is interrupted as well.
        if !ended.status.success() {
            ended
                .expect_exit(75)
                .expect_log("interrupted, and the state was saved. Run the same command again to resume.");
            interrupted += 1;
        }
    }
    assert!(interrupted >= 2, "seed {}: only {interrupted} of 4 were interrupted", moments.seed);
    sandbox.run_both().expect_exit(0).expect_log("stageonerun/scenes train: already done");
    sandbox.assert_is_baseline(moments.seed);
}

#[test]
fn a_killed_trainer_is_reported_and_the_same_command_resumes_even_after_a_killed_runner() {
    let mut moments = Moments::draw();
    let step = Baseline::get().step("stageonerun", "generate");
    // On a busy machine a trainer may end before it is killed; then try again.
    let killed = (0..100).find_map(|_| {
        let sandbox = Sandbox::new(Layout::PLAIN);
        let work = Work::of(&sandbox, step);
        let enough = 1 + moments.below(4);
        let mut running = sandbox.start_both(|program| std::process::Command::new(program));
        if !running.until(|| work.rows().len() >= enough) {
            return None;
        }
        let children = running.children();
        assert!(children.len() <= 1, "one trainer");
        send(*children.first()?, Signal::KILL);
        let ended = running.wait();
        (!ended.log.contains("stageonerun/scenes train: started")).then_some((sandbox, work, enough, ended))
    });
    assert!(killed.is_some(), "no trainer was killed while generating, seed {}", moments.seed);
    let (sandbox, work, enough, ended) = killed.unwrap();
    ended
        .expect_exit(1)
        .expect_log("stageonerun/scenes generate: the trainer was killed by signal 9")
        .expect_log("run the same command again to resume");
    let rows = work.rows();
    assert!(rows.len() >= enough, "seed {}", moments.seed);

    // Kill the runner: its trainer keeps running, and the next command's trainer waits for it.
    let mut running = sandbox.start_both(|program| std::process::Command::new(program));
    if running.until(|| work.rows().len() > rows.len()) {
        running.signal(Signal::KILL);
    }
    drop(running);
    sandbox.run_both().expect_exit(0).expect_log("stageonerun/scenes prepare: already done");
    sandbox.assert_is_baseline(moments.seed);
}

fn done(work: &Work, step: &str) -> usize {
    if step == "train" { work.metrics().len() } else { work.rows().len() }
}
