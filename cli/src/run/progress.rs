//! How far a step is, on a terminal as a bar, elsewhere as a line from time to time.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stic_contract::{Progress, StepName, StepResult};
use stic_operator::status::display::{duration, metric};

use crate::say::tell;

/// Time between two lines where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);
/// The metrics worth their place in a line, under TRL's names and ours.
const METRICS: [(&str, &str); 3] =
    [("loss", "loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")];

/// Shows one step.
pub(super) struct Display {
    title: String,
    step: StepName,
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
    last: Option<Progress>,
}

impl Display {
    pub(super) fn begin(title: String, step: StepName) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0).with_prefix(step.to_string()).with_message("starting");
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            tell(format_args!("{title} {step}: started"));
        }
        Self { title, step, started: Instant::now(), bar, last_line: Instant::now(), last: None }
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            bar.set_style(if progress.total == 0 { spinner() } else { style() });
            bar.set_length(progress.total);
            bar.set_position(progress.current);
            bar.set_message(if progress.total == 0 { progress.activity.clone() } else { details(progress) });
        } else if self.last_line.elapsed() >= INTERVAL && progress.total > 0 {
            self.last_line = Instant::now();
            tell(format_args!(
                "{} {}: {}/{} {} ({}%)",
                self.title,
                self.step,
                progress.current,
                progress.total,
                details(progress),
                progress.percent()
            ));
        }
        self.last = Some(progress.clone());
    }

    /// Says something without breaking the bar.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("  {text}")),
            None => tell(format_args!("{} {}: {text}", self.title, self.step)),
        }
    }

    pub(super) fn done(self, result: &StepResult) {
        let mut text = format!("done in {}", duration(self.started.elapsed().as_secs()));
        if let Some(items) = result.items {
            text = format!("{} items, {text}", items.done);
            if items.skipped > 0 {
                text = format!("{text}, {} skipped", items.skipped);
            }
        }
        let metrics = self.last.as_ref().map(metrics).unwrap_or_default();
        self.end("✓", &format!("{text}{metrics}"));
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
                tell(format_args!("  {mark} {:<9} {text}", self.step.as_str()));
            }
            None => tell(format_args!("{} {}: {text}", self.title, self.step)),
        }
    }
}

/// Says that a step need not run.
pub(super) fn reused(title: &str, step: StepName) {
    if std::io::stderr().is_terminal() {
        tell(format_args!("  ✓ {:<9} done before", step.as_str()));
    } else {
        tell(format_args!("{title} {step}: done before"));
    }
}

/// Says which run begins.
pub(super) fn headline(title: &str) {
    if std::io::stderr().is_terminal() {
        tell(format_args!("{title}"));
    }
}

fn details(progress: &Progress) -> String {
    let mut text = progress.unit.clone();
    if progress.rate_per_second > 0.0 {
        text.push_str(&format!("  {}", rate(progress.rate_per_second)));
    }
    if let Some(left) = progress.estimated_remaining_seconds.filter(|left| *left > 0) {
        text.push_str(&format!("  eta {}", duration(left)));
    }
    text + &metrics(progress)
}

fn metrics(progress: &Progress) -> String {
    METRICS
        .into_iter()
        .filter_map(|(name, label)| Some(format!("  {label} {}", metric(*progress.metrics.get(name)?))))
        .collect()
}

fn rate(per_second: f64) -> String {
    if per_second >= 1.0 { format!("{per_second:.1}/s") } else { format!("{:.1}/min", per_second * 60.0) }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix:<9} {bar:24} {pos:>4}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix:<9} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_time_left_and_metrics() {
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
}
