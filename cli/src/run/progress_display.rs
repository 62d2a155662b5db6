//! The progress of a step: a bar on a terminal, a line from time to time elsewhere.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stic_contract::{Progress, StepName, StepResult};
use stic_operator::status::display::{duration, metric};

use crate::stdio::print_stderr;

/// The time between two lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The metrics to show: TRL's name and the label.
const METRICS: [(&str, &str); 3] =
    [("loss", "loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")];

/// The display of one step.
pub(super) struct ProgressDisplay {
    title: String,
    step: StepName,
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl ProgressDisplay {
    pub(super) fn start(title: String, step: StepName) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0).with_prefix(step.to_string()).with_message("starting");
            bar.set_style(spinner_style());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            print_stderr(format_args!("{title} {step}: started"));
        }
        Self { title, step, started: Instant::now(), bar, last_line: Instant::now() }
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            bar.set_style(if progress.total == 0 { spinner_style() } else { bar_style() });
            bar.set_length(progress.total);
            bar.set_position(progress.current);
            bar.set_message(if progress.total == 0 {
                progress.activity.clone()
            } else {
                bar_details(progress)
            });
        } else if self.last_line.elapsed() >= LINE_INTERVAL && progress.total > 0 {
            self.last_line = Instant::now();
            print_stderr(format_args!(
                "{} {}: {}/{} {} ({}%)",
                self.title,
                self.step,
                progress.current,
                progress.total,
                details(progress),
                progress.percent()
            ));
        }
    }

    /// Prints a message above the bar.
    pub(super) fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("  {text}")),
            None => print_stderr(format_args!("{} {}: {text}", self.title, self.step)),
        }
    }

    /// Ends with the result. `skipped_list` is the file that lists skipped items, `notes` are for whoever wrote the manifest.
    pub(super) fn done(self, result: &StepResult, skipped_list: Option<&Path>, notes: &[String]) {
        let mut text = format!("done in {}", duration(self.started.elapsed().as_secs()));
        if let Some(items) = result.items {
            text = format!("{} items, {text}", items.done);
            if items.skipped > 0 {
                text = format!("{text}, {} skipped", items.skipped);
                if let Some(list) = skipped_list {
                    text = format!("{text} (listed in {})", list.display());
                }
            }
        }
        let metrics = metrics(|name| result.metrics.get(name)?.parse().ok(), METRICS.len());
        let (title, step, on_terminal) = (self.title.clone(), self.step, self.bar.is_some());
        self.end("✓", &format!("{text}{metrics}"));
        for note in notes {
            if on_terminal {
                print_stderr(format_args!("    note: {note}"));
            } else {
                print_stderr(format_args!("{title} {step}: note: {note}"));
            }
        }
    }

    pub(super) fn failed(self) {
        self.end("✗", "failed");
    }

    pub(super) fn stopped(self) {
        self.end("■", "stopped");
    }

    fn end(self, mark: &str, text: &str) {
        match self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                print_stderr(format_args!("  {mark} {:<9} {text}", self.step.as_str()));
            }
            None => print_stderr(format_args!("{} {}: {text}", self.title, self.step)),
        }
    }
}

/// Prints that a step was finished by an earlier command.
pub(super) fn print_already_done(title: &str, step: StepName) {
    if std::io::stderr().is_terminal() {
        print_stderr(format_args!("  ✓ {:<9} already done", step.as_str()));
    } else {
        print_stderr(format_args!("{title} {step}: already done"));
    }
}

/// Prints the run that starts.
pub(super) fn print_headline(title: &str) {
    if std::io::stderr().is_terminal() {
        print_stderr(title);
    }
}

fn details(progress: &Progress) -> String {
    let mut parts = vec![progress.unit.clone()];
    parts.extend(pace(progress));
    parts.join("  ") + &metrics_of(progress, METRICS.len())
}

/// What is shown beside a bar, which must fit a line of 80 columns.
fn bar_details(progress: &Progress) -> String {
    pace(progress).join("  ") + &metrics_of(progress, 2)
}

fn metrics_of(progress: &Progress, most: usize) -> String {
    metrics(|name| progress.metrics.get(name).copied(), most)
}

/// The rate and the remaining time.
fn pace(progress: &Progress) -> Vec<String> {
    let mut parts = Vec::new();
    if progress.rate_per_second > 0.0 {
        parts.push(rate(progress.rate_per_second));
    }
    if let Some(left) = progress.estimated_remaining_seconds.filter(|left| *left > 0) {
        parts.push(format!("eta {}", duration(left)));
    }
    parts
}

fn metrics(value_of: impl Fn(&str) -> Option<f64>, most: usize) -> String {
    METRICS
        .into_iter()
        .take(most)
        .filter_map(|(name, label)| Some(format!("  {label} {}", metric(value_of(name)?))))
        .collect()
}

fn rate(per_second: f64) -> String {
    if per_second >= 1.0 { format!("{per_second:.1}/s") } else { format!("{:.1}/min", per_second * 60.0) }
}

fn bar_style() -> ProgressStyle {
    // With the message cut to what is left of the line: a terminal that wraps it shows every update on a new line.
    ProgressStyle::with_template("  {spinner} {prefix:<9} {bar:8} {pos}/{len} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix:<9} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_rate_remaining_time_and_metrics() {
        let progress = Progress {
            step: StepName::Train,
            activity: "training".into(),
            current: 12,
            total: 32,
            unit: "steps".into(),
            rate_per_second: 0.41,
            estimated_remaining_seconds: Some(49),
            metrics: [("loss".to_owned(), 0.612), ("rewards/margins".to_owned(), 0.08)].into(),
            skipped: 0,
            updated: 0,
        };
        assert_eq!(details(&progress), "steps  24.6/min  eta 49s  loss 0.612  margin 0.080");
    }

    #[test]
    fn a_bar_fits_a_line_of_80_columns() {
        let progress = Progress {
            step: StepName::Train,
            activity: "training".into(),
            current: 6000,
            total: 6000,
            unit: "steps".into(),
            rate_per_second: 0.41,
            estimated_remaining_seconds: Some(24 * 60),
            metrics: METRICS.into_iter().map(|(name, _)| (name.to_owned(), -12.345)).collect(),
            skipped: 0,
            updated: 0,
        };
        let shown = format!("  ⠋ train     ━━━━━━━━ 6000/6000 {}", bar_details(&progress));
        assert!(shown.chars().count() <= 80 && shown.contains("margin"), "{shown}");
    }
}
