//! Every step, killed or asked to stop again and again, goes on where it was and ends with the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::bench::{Baseline, Bench, IMAGES, INSTRUCTIONS, Layout, SAVE_STEPS, Step};
use crate::moments::{Moments, Work, cut_last_line};
use crate::tampered::adapter;

#[test]
fn killed_at_random_moments() {
    through_all_steps(Signal::KILL);
}

#[test]
fn asked_to_stop_at_random_moments() {
    through_all_steps(Signal::TERM);
}

/// The trainer of a runner that was killed goes on by itself. One that is started beside it waits and then finds
/// what it did.
#[test]
fn two_trainers_of_one_step_take_turns() {
    let bench = Bench::new(Layout::PLAIN);
    for step in &Baseline::get().steps[..3] {
        let work = Work::of(&bench, step);
        let mut first = bench.start(step);
        // Once it has begun, it holds the lock.
        let begun = match step.name {
            "prepare" | "generate" => first.until(|| work.activity().is_some()),
            _ => first.until(|| !work.metrics().is_empty()),
        };
        let second = bench.start_beside(step).end().ended(0);
        first.end().ended(0);
        if step.name != "prepare" {
            assert!(begun);
            second.saying("another trainer works on this step; waits until it ends");
        }
        if step.name == "generate" {
            check_rows(&work, IMAGES);
        }
        if step.name == "train" {
            check_metrics(&bench, step, &[]);
        }
    }
}

fn through_all_steps(signal: Signal) {
    let mut moments = Moments::draw();
    let bench = Bench::new(Layout::PLAIN);
    for step in &Baseline::get().steps {
        let interrupted = match step.name {
            "prepare" => preparing(&bench, step, signal, &mut moments),
            "train" => training(&bench, step, signal, &mut moments),
            _ => writing(&bench, step, signal, &mut moments),
        };
        println!("{} {}: interrupted {interrupted} times", step.run, step.name);
        // A step may end before a signal reaches it, on a busy machine, but not before all of them.
        assert!(interrupted > 0, "{} {} was never interrupted, seed {}", step.run, step.name, moments.seed);
    }
    bench.assert_is_baseline(moments.seed);
}

/// Starts the step, signals it once `moment` has come, and says whether that was before its end.
fn interrupt(bench: &Bench, step: &Step, signal: Signal, moment: impl Fn() -> bool) -> bool {
    interrupt_with(bench, step, &[], signal, moment)
}

fn interrupt_with(
    bench: &Bench,
    step: &Step,
    more: &[String],
    signal: Signal,
    moment: impl Fn() -> bool,
) -> bool {
    let mut running = bench.start_with(step, more);
    if running.until(moment) {
        running.signal(signal);
    }
    let ended = running.end();
    if ended.status.success() {
        return false;
    }
    if signal == Signal::KILL {
        assert_eq!(ended.status.signal(), Some(9), "{}", ended.log);
    } else {
        ended.ended(75).saying("interrupted; what is done was saved, run the step again to go on");
    }
    true
}

fn preparing(bench: &Bench, step: &Step, signal: Signal, moments: &mut Moments) -> usize {
    let work = Work::of(bench, step);
    let mut interrupted = 0;
    // Each is over in milliseconds.
    for _ in 0..30 {
        if interrupted == 3 {
            break;
        }
        work.forget_progress();
        let activity = ["digesting the model", "checking images"][moments.below(2)];
        interrupted +=
            usize::from(interrupt(bench, step, signal, || work.activity().as_deref() == Some(activity)));
    }
    bench.start(step).end().ended(0);
    interrupted
}

/// `generate` and `describe`: no row is lost, and no item is written twice.
fn writing(bench: &Bench, step: &Step, signal: Signal, moments: &mut Moments) -> usize {
    let work = Work::of(bench, step);
    let items = if step.name == "generate" { IMAGES } else { INSTRUCTIONS };
    let mut kept: Vec<String> = Vec::new();
    let mut interrupted = 0;
    // Those that are written together end together, the last a moment after the first.
    let one_by_one = ["--responses-at-once".to_owned(), "1".to_owned()];
    for round in 0..2 {
        let enough = (kept.len() + 1 + moments.below(2)).min(items);
        let hit = interrupt_with(bench, step, &one_by_one, signal, || work.rows().len() >= enough);
        interrupted += usize::from(hit);
        let rows = work.rows();
        assert_eq!(rows[..kept.len()], kept, "{} {}: rows were lost or redone", step.run, step.name);
        assert!(rows.len() >= enough && rows.len() <= items, "{} rows", rows.len());
        kept = rows;
        if round == 0 && signal == Signal::KILL {
            // In the middle of a row: it is cut off and its item written again.
            cut_last_line(&work.journal().unwrap());
            kept.pop();
        }
    }
    bench.start(step).end().ended(0);
    let rows = work.rows();
    assert_eq!(rows[..kept.len()], kept, "{} {}: rows were lost or redone", step.run, step.name);
    check_rows(&work, items);
    interrupted
}

/// Every item has one row.
fn check_rows(work: &Work, items: usize) {
    let rows = work.rows();
    let id = |row: &String| serde_json::from_str::<Value>(row).unwrap()["id"].to_string();
    let ids: BTreeSet<String> = rows.iter().map(id).collect();
    assert_eq!((rows.len(), ids.len()), (items, items));
}

/// `train`: steps up to the saved state are not taken again.
fn training(bench: &Bench, step: &Step, signal: Signal, moments: &mut Moments) -> usize {
    let work = Work::of(bench, step);
    let mut kept: Vec<String> = Vec::new();
    let mut interrupted = 0;
    for round in 0..3 {
        let done = kept.len();
        // Not so late that the step could end first, and not so early that the moment has passed at the start: a
        // process that has not begun has no handler yet, and nothing to save.
        let enough = (done + 1 + moments.below(4)).min(total(step) - 2);
        if enough <= done {
            break;
        }
        let mut hit = false;
        for _ in 0..5 {
            hit = match (round, signal) {
                // While the finished adapter is proved nothing needs to be saved, so SIGTERM has nothing to interrupt.
                (2, Signal::KILL) => interrupt(bench, step, signal, || work.is_proving()),
                _ => interrupt(bench, step, signal, || work.metrics().len() >= enough),
            };
            if hit || round > 0 {
                break;
            }
            // It was over first.
            fs::remove_dir_all(adapter(bench, if step.run == "stageonerun" { 1 } else { 2 })).unwrap();
        }
        interrupted += usize::from(hit);
        if !hit || !work.has_draft() {
            // It was published before the signal came.
            break;
        }
        let (lines, saved) = (work.metrics(), work.saved());
        assert_eq!(lines[..done], kept, "{}: steps were lost or taken again", step.run);
        if signal == Signal::TERM {
            // Of what was begun, a step at most is not finished, and all that is finished is saved.
            assert_eq!(saved, lines.len(), "{}", step.run);
        } else {
            // The last step is not saved, and a kill may come between a step's line and its state.
            let due = lines.len().min(total(step) - 1) / SAVE_STEPS * SAVE_STEPS;
            let one_missed = lines.len() == due && saved + SAVE_STEPS == due;
            assert!(saved == due || one_missed, "{}: {saved} saved of {}", step.run, lines.len());
            leave_halves(&work, saved);
        }
        kept = lines[..saved].to_vec();
    }
    bench.start(step).end().ended(0);
    check_metrics(bench, step, &kept);
    interrupted
}

fn total(step: &Step) -> usize {
    if step.run == "stageonerun" { IMAGES } else { INSTRUCTIONS }
}

/// What a kill in the middle of a write leaves: half a state, half a line.
fn leave_halves(work: &Work, saved: usize) {
    let half = work.state_dir().unwrap().join(format!("state-{:08}.partial", saved + 1));
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("state.safetensors"), [0; 100]).unwrap();
    let path = work.draft_file("metrics.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(br#"{"step":99,"epo"#);
    fs::write(path, bytes).unwrap();
}

/// Every step is there once, in order, and those that were saved are the lines they were when they were taken:
/// their `tokens/s` would differ had they been taken again.
fn check_metrics(bench: &Bench, step: &Step, kept: &[String]) {
    let mut lines = Vec::new();
    for entry in fs::read_dir(bench.output()).unwrap() {
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
