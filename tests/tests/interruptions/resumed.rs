//! Every step, killed or interrupted again and again, resumes and ends with the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::moments::{Moments, Work, cut_last_line};
use crate::sandbox::{Baseline, IMAGES, INSTRUCTIONS, Layout, SAVE_STEPS, Sandbox, Step};
use crate::tampered::adapter;

#[test]
fn killed_at_random_moments() {
    through_all_steps(Signal::KILL);
}

#[test]
fn interrupted_at_random_moments() {
    through_all_steps(Signal::TERM);
}

/// A trainer outlives its killed runner. A second one waits for it, then finds its work done.
#[test]
fn two_trainers_of_one_step_take_turns() {
    let sandbox = Sandbox::new(Layout::PLAIN);
    for step in &Baseline::get().steps[..3] {
        let work = Work::of(&sandbox, step);
        let mut first = sandbox.start(step);
        // Once it has started, it holds the lock.
        let started = match step.name {
            "prepare" | "generate" => first.until(|| work.activity().is_some()),
            _ => first.until(|| !work.metrics().is_empty()),
        };
        // Otherwise it might end before the second one comes to the lock.
        first.signal(Signal::STOP);
        let mut second = sandbox.start_second(step);
        if started {
            second.until_log("another trainer works on this step; waiting until it ends");
        }
        first.signal(Signal::CONT);
        let second = second.wait().expect_exit(0);
        first.wait().expect_exit(0);
        if step.name != "prepare" {
            assert!(started);
            second.expect_log("another trainer works on this step; waiting until it ends");
        }
        if step.name == "generate" {
            check_rows(&work, IMAGES);
        }
        if step.name == "train" {
            check_metrics(&sandbox, step, &[]);
        }
    }
}

fn through_all_steps(signal: Signal) {
    let mut moments = Moments::draw();
    let sandbox = Sandbox::new(Layout::PLAIN);
    for step in &Baseline::get().steps {
        let interrupted = match step.name {
            "prepare" => preparing(&sandbox, step, signal, &mut moments),
            "train" => training(&sandbox, step, signal, &mut moments),
            _ => generating(&sandbox, step, signal, &mut moments),
        };
        println!("{} {}: interrupted {interrupted} times", step.run, step.name);
        // On a busy machine a step may end before one signal reaches it, but not before all of them.
        assert!(interrupted > 0, "{} {} was never interrupted, seed {}", step.run, step.name, moments.seed);
    }
    sandbox.assert_is_baseline(moments.seed);
}

/// Starts the step and signals it once `moment` has come. Returns whether that was before its end.
fn interrupt(sandbox: &Sandbox, step: &Step, signal: Signal, moment: impl Fn() -> bool) -> bool {
    interrupt_with(sandbox, step, &[], signal, moment)
}

fn interrupt_with(
    sandbox: &Sandbox,
    step: &Step,
    more: &[String],
    signal: Signal,
    moment: impl Fn() -> bool,
) -> bool {
    let mut running = sandbox.start_with(step, more);
    if running.until(moment) {
        running.signal(signal);
    }
    let ended = running.wait();
    if ended.status.success() {
        return false;
    }
    if signal == Signal::KILL {
        assert_eq!(ended.status.signal(), Some(9), "{}", ended.log);
    } else {
        ended
            .expect_exit(75)
            .expect_log("interrupted; finished work was saved, run the step again to continue");
    }
    true
}

fn preparing(sandbox: &Sandbox, step: &Step, signal: Signal, moments: &mut Moments) -> usize {
    let work = Work::of(sandbox, step);
    let mut interrupted = 0;
    // Each takes milliseconds.
    for _ in 0..30 {
        if interrupted == 3 {
            break;
        }
        work.remove_progress();
        let activity = ["digesting the model", "checking images"][moments.below(2)];
        interrupted +=
            usize::from(interrupt(sandbox, step, signal, || work.activity().as_deref() == Some(activity)));
    }
    sandbox.start(step).wait().expect_exit(0);
    interrupted
}

/// `generate` and `describe`: no row is lost, and no item has two.
fn generating(sandbox: &Sandbox, step: &Step, signal: Signal, moments: &mut Moments) -> usize {
    let work = Work::of(sandbox, step);
    let items = if step.name == "generate" { IMAGES } else { INSTRUCTIONS };
    let mut kept: Vec<String> = Vec::new();
    let mut interrupted = 0;
    // Responses of one batch end almost together, which leaves no moment to interrupt.
    let one_by_one = ["--responses-at-once".to_owned(), "1".to_owned()];
    for round in 0..2 {
        let enough = (kept.len() + 1 + moments.below(2)).min(items);
        let hit = interrupt_with(sandbox, step, &one_by_one, signal, || work.rows().len() >= enough);
        interrupted += usize::from(hit);
        let rows = work.rows();
        assert_eq!(rows[..kept.len()], kept, "{} {}: rows were lost or redone", step.run, step.name);
        assert!(rows.len() >= enough && rows.len() <= items, "{} rows", rows.len());
        kept = rows;
        if round == 0 && signal == Signal::KILL {
            // A half-written row is removed, and its item generated again.
            cut_last_line(&work.journal().unwrap());
            kept.pop();
        }
    }
    sandbox.start(step).wait().expect_exit(0);
    let rows = work.rows();
    assert_eq!(rows[..kept.len()], kept, "{} {}: rows were lost or redone", step.run, step.name);
    check_rows(&work, items);
    interrupted
}

/// Every item has exactly one row.
fn check_rows(work: &Work, items: usize) {
    let rows = work.rows();
    let id = |row: &String| serde_json::from_str::<Value>(row).unwrap()["id"].to_string();
    let ids: BTreeSet<String> = rows.iter().map(id).collect();
    assert_eq!((rows.len(), ids.len()), (items, items));
}

/// `train`: steps before the saved state are not repeated.
fn training(sandbox: &Sandbox, step: &Step, signal: Signal, moments: &mut Moments) -> usize {
    let work = Work::of(sandbox, step);
    let mut kept: Vec<String> = Vec::new();
    let mut interrupted = 0;
    for round in 0..3 {
        let done = kept.len();
        // Not so late that training could end first, and not so early that the moment has passed before the process has
        // installed its signal handler.
        let enough = (done + 1 + moments.below(4)).min(total(step) - 2);
        if enough <= done {
            break;
        }
        let mut hit = false;
        for _ in 0..5 {
            hit = match (round, signal) {
                // Verification has nothing to save, so SIGTERM does not interrupt it.
                (2, Signal::KILL) => interrupt(sandbox, step, signal, || work.is_verifying()),
                _ => interrupt(sandbox, step, signal, || work.metrics().len() >= enough),
            };
            if hit || round > 0 {
                break;
            }
            // It ended first.
            fs::remove_dir_all(adapter(sandbox, if step.run == "stageonerun" { 1 } else { 2 })).unwrap();
        }
        interrupted += usize::from(hit);
        if !hit || !work.has_draft() {
            // The adapter was published before the signal arrived.
            break;
        }
        let (lines, saved) = (work.metrics(), work.saved());
        assert_eq!(lines[..done], kept, "{}: steps were lost or repeated", step.run);
        if signal == Signal::TERM {
            // All finished steps are saved.
            assert_eq!(saved, lines.len(), "{}", step.run);
        } else {
            // The last step is not saved, and the kill may come between a step's line and its state.
            let due = lines.len().min(total(step) - 1) / SAVE_STEPS * SAVE_STEPS;
            let one_missed = lines.len() == due && saved + SAVE_STEPS == due;
            assert!(saved == due || one_missed, "{}: {saved} saved of {}", step.run, lines.len());
            leave_partial_writes(&work, saved);
        }
        kept = lines[..saved].to_vec();
    }
    sandbox.start(step).wait().expect_exit(0);
    check_metrics(sandbox, step, &kept);
    interrupted
}

fn total(step: &Step) -> usize {
    if step.run == "stageonerun" { IMAGES } else { INSTRUCTIONS }
}

/// What a kill in the middle of a write leaves: half a state, half a line.
fn leave_partial_writes(work: &Work, saved: usize) {
    let half = work.state_dir().unwrap().join(format!("state-{:08}.partial", saved + 1));
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("state.safetensors"), [0; 100]).unwrap();
    let path = work.draft_file("metrics.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(br#"{"step":99,"epo"#);
    fs::write(path, bytes).unwrap();
}

/// Every step occurs once, in order, and the lines of saved steps are unchanged: `tokens/s` would differ in a repeated
/// step.
fn check_metrics(sandbox: &Sandbox, step: &Step, kept: &[String]) {
    let mut lines = Vec::new();
    for entry in fs::read_dir(sandbox.output()).unwrap() {
        let found = crate::artifacts::whole_lines(&entry.unwrap().path().join("metrics.jsonl"));
        if found.len() == total(step) {
            lines = found;
        }
    }
    let steps: Vec<u64> =
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["step"].as_u64()).collect();
    assert_eq!(steps, (1..=total(step) as u64).collect::<Vec<_>>(), "{}", step.run);
    assert_eq!(lines[..kept.len()], *kept, "{}", step.run);
}
