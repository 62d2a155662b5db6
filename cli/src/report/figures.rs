//! Which figures a report has, and the numbers in them. `svg` draws them.

use std::collections::BTreeSet;

use stic_contract::evaluation::Prompting;

use super::document::{Curve, Figure, Group, Intervals, Mark, Plot, Table, number, words};
use super::estimate::{Estimate, Interval, difference_interval, difference_text, score_interval, score_text};
use super::model::{Evaluation, Row, Training};
use super::published::{self, COMPARISONS};

/// The metric of the training's speed.
pub(super) const SPEED: &str = "tokens/s";
/// More points than this could not be told apart on a phone.
const MAX_POINTS: usize = 40;

/// Figure 1 of the paper: the differences on each benchmark.
pub(super) fn gains(evaluation: &Evaluation) -> Option<Figure> {
    let rows = shown(evaluation);
    let series = Series::of(&rows, |row| row.difference.is_some());
    let groups = groups(&rows, |of_benchmark| {
        let measured =
            of_benchmark.iter().filter_map(|row| Some(series.mark(row, row.difference.as_ref()?.estimate?)));
        let mut marks: Vec<Mark> = measured.collect();
        if !marks.is_empty() {
            marks.extend(published_gains(evaluation, of_benchmark));
        }
        marks
    });
    let plot = Intervals { axis: "difference to the first model, points", from_zero: true, groups };
    let hollow = if evaluation.model.is_some() {
        " Hollow diamonds are the paper's gains (Table 1 or 2)."
    } else {
        ""
    };
    figure(
        format!("Gains on benchmarks, {}", evaluation.name),
        format!(
            "A mark is the difference, its line the 95% interval. A line that crosses 0 does not show which model is better.{hollow}{}",
            scored(evaluation)
        ),
        plot,
    )
}

/// Figure 6 of the paper: the stages and ways of asking beside each other.
pub(super) fn scores(evaluation: &Evaluation) -> Option<Figure> {
    let rows = shown(evaluation);
    let series = Series::of(&rows, |_| true);
    let groups = groups(&rows, |of_benchmark| {
        of_benchmark.iter().filter_map(|row| Some(series.mark(row, row.score?))).collect()
    });
    let is_comparison = groups.iter().any(|group| group.marks.len() > 1);
    let plot = Intervals { axis: "score, points", from_zero: false, groups };
    let caption = format!(
        "Intervals of scores are wider than those of differences, because hard questions are hard for all models: compare models by their differences.{}",
        scored(evaluation)
    );
    let title = format!("Scores by model and way of asking, {}", evaluation.name);
    is_comparison.then(|| figure(title, caption, plot)).flatten()
}

/// Figure 7 of the paper: differences by the number of images; `None` if all models here were trained with as many.
pub(super) fn by_images(evaluations: &[Evaluation]) -> Option<Figure> {
    let counts: BTreeSet<u64> =
        evaluations.iter().flat_map(|evaluation| evaluation.images.values().copied()).collect();
    if counts.len() < 2 {
        return None;
    }
    let mut groups: Vec<Group> = Vec::new();
    for (index, count) in counts.iter().enumerate() {
        for evaluation in evaluations {
            let of_count = |row: &&Row| evaluation.images.get(&row.subject) == Some(count);
            for row in shown(evaluation).into_iter().filter(of_count) {
                let Some(estimate) = row.difference.as_ref().and_then(|difference| difference.estimate)
                else {
                    continue;
                };
                let of =
                    if evaluations.len() > 1 { format!(" of {}", evaluation.name) } else { String::new() };
                let mark = Mark {
                    name: format!("{count} images, {}{of}", row.subject),
                    points: estimate.points,
                    interval: estimate.interval,
                    series: Some(index),
                };
                push(&mut groups, format!("{}, {}", row.benchmark, asked(row.prompting)), mark);
            }
        }
    }
    let plot = Intervals { axis: "difference to the first model, points", from_zero: true, groups };
    let caption = "Each line is the 95% interval of a difference to a baseline. Whether more images help is a difference \
                   between two models: evaluate both in one run.";
    let title = format!(
        "Differences of {} by number of images",
        if evaluations.len() > 1 { "all evaluations" } else { &evaluations[0].name }
    );
    figure(title, caption.into(), plot).map(|figure| Figure { is_only_place: true, ..figure })
}

fn push(groups: &mut Vec<Group>, name: String, mark: Mark) {
    match groups.iter_mut().find(|group| group.name == name) {
        Some(group) => group.marks.push(mark),
        None => groups.push(Group { name, marks: vec![mark] }),
    }
}

/// The curves of a training: a figure for each metric that it has.
pub(super) fn curves(training: &Training) -> Vec<Figure> {
    let names: BTreeSet<&str> =
        training.steps.iter().flat_map(|step| step.values.keys().map(String::as_str)).collect();
    let known = ["loss", "rewards/margins", "rewards/accuracies", SPEED];
    let known = known.into_iter().filter(|name| names.contains(name));
    let memory = names.iter().copied().filter(|name| is_memory(name));
    known.chain(memory).filter_map(|name| curve(training, name)).collect()
}

pub(super) fn has_memory(training: &Training) -> bool {
    training.steps.iter().any(|step| step.values.keys().any(|name| is_memory(name)))
}

fn is_memory(name: &str) -> bool {
    name.contains("memory")
}

fn curve(training: &Training, name: &str) -> Option<Figure> {
    let values: Vec<(f64, f64)> = training
        .steps
        .iter()
        .filter_map(|step| Some((step.step as f64, step.values.get(name).copied().flatten()?)))
        .collect();
    let per_point = values.len().div_ceil(MAX_POINTS).max(1);
    let values: Vec<(f64, f64)> = values.chunks(per_point).map(mean_of_chunk).collect();
    if values.is_empty() {
        return None;
    }
    let caption = match per_point {
        1 => "Each point is one step.".to_owned(),
        steps => format!("Each point is the mean of {steps} steps, at the last of them."),
    };
    let table = Table {
        caption: format!("{name} of {}", training.name),
        columns: vec![number("Step"), number("Value")],
        rows: values.iter().map(|(step, value)| vec![format!("{step:.0}"), significant(*value)]).collect(),
    };
    let plot = Plot::Curve(Curve { axis: axis(name), values });
    let title = format!("{name}, {}", training.name);
    Some(Figure { title, caption, plot, table, is_only_place: false })
}

fn mean_of_chunk(chunk: &[(f64, f64)]) -> (f64, f64) {
    let sum: f64 = chunk.iter().map(|(_, value)| value).sum();
    (chunk.last().map_or(0.0, |(step, _)| *step), sum / chunk.len() as f64)
}

fn axis(name: &str) -> String {
    match name {
        "loss" => "loss, nats".into(),
        "rewards/margins" => "margin of rewards, beta times nats".into(),
        "rewards/accuracies" => "share of pairs with chosen before rejected".into(),
        other => other.into(),
    }
}

/// Four significant digits or more.
fn significant(value: f64) -> String {
    if value == 0.0 || (0.001..1e6).contains(&value.abs()) {
        let digits = if value.abs() >= 100.0 { 1 } else { 4 };
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

/// The headlines by the rules of the first scorer: of several, the rest is in the table.
fn shown(evaluation: &Evaluation) -> Vec<&Row> {
    let Some(first) = evaluation.rows.first() else { return Vec::new() };
    evaluation.rows.iter().filter(|row| row.is_headline && row.scorer == first.scorer).collect()
}

fn scored(evaluation: &Evaluation) -> String {
    let Some(first) = evaluation.rows.first() else { return String::new() };
    if evaluation.rows.iter().any(|row| row.scorer != first.scorer) {
        format!(" Scored by the rules of {}; the table has the others.", first.scorer.as_str())
    } else {
        String::new()
    }
}

/// One group for each benchmark that has marks.
fn groups(rows: &[&Row], marks: impl Fn(&[&Row]) -> Vec<Mark>) -> Vec<Group> {
    let benchmarks: BTreeSet<_> = rows.iter().map(|row| row.benchmark).collect();
    let of_benchmark = benchmarks.into_iter().map(|benchmark| {
        let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.benchmark == benchmark).collect();
        Group { name: benchmark.to_string(), marks: marks(&rows) }
    });
    of_benchmark.filter(|group| !group.marks.is_empty()).collect()
}

/// How a question was asked, in a label.
const fn asked(prompting: Prompting) -> &'static str {
    match prompting {
        Prompting::Direct => "direct",
        Prompting::DescribeAndRespond => "DaR",
        Prompting::DescribeAndRespondAsReleased => "DaR as released",
    }
}

/// The colours and shapes of models and ways of asking, the same in every group of a figure.
struct Series {
    names: Vec<String>,
    several_ways: bool,
}

impl Series {
    fn of(rows: &[&Row], has_mark: impl Fn(&Row) -> bool) -> Self {
        let several_ways = rows.iter().any(|row| row.prompting != rows[0].prompting);
        let mut series = Self { names: Vec::new(), several_ways };
        for row in rows.iter().filter(|row| has_mark(row)) {
            let name = series.name(row);
            if !series.names.contains(&name) {
                series.names.push(name);
            }
        }
        series
    }

    fn name(&self, row: &Row) -> String {
        if self.several_ways {
            format!("{}, {}", row.subject, asked(row.prompting))
        } else {
            row.subject.clone()
        }
    }

    fn mark(&self, row: &Row, estimate: Estimate) -> Mark {
        let name = self.name(row);
        let series = self.names.iter().position(|other| *other == name);
        Mark {
            name,
            points: estimate.points,
            interval: estimate.interval,
            series: Some(series.unwrap_or_default()),
        }
    }
}

/// The paper's gains of the model that the baseline certainly is, for the ways of asking that the evaluation has.
fn published_gains(evaluation: &Evaluation, rows: &[&Row]) -> Vec<Mark> {
    let Some(benchmark) = rows.first().map(|row| row.benchmark) else { return Vec::new() };
    let of_model = COMPARISONS.iter().filter(|comparison| Some(comparison.model) == evaluation.model);
    // A table that says how was asked is closer than one that does not.
    let states_prompting = of_model.clone().any(|comparison| comparison.prompting.is_some());
    let alike = of_model.filter(|comparison| match comparison.prompting {
        None => !states_prompting,
        Some(prompting) => rows.iter().any(|row| row.prompting == prompting),
    });
    let marks = alike.filter_map(|comparison| {
        let (base, stic) = published::scores(comparison, benchmark)?;
        let way =
            comparison.prompting.map_or_else(String::new, |prompting| format!(", {}", asked(prompting)));
        let name = format!("paper, {}{way}", comparison.source);
        Some(Mark { name, points: stic - base, interval: None, series: None })
    });
    marks.collect()
}

/// A figure with the table of its numbers; `None` if there is nothing to draw.
fn figure(title: String, caption: String, plot: Intervals) -> Option<Figure> {
    if plot.groups.is_empty() {
        return None;
    }
    let table = Table {
        caption: title.clone(),
        columns: vec![words("Benchmark"), words("Model"), number("Points"), words("95%")],
        rows: plot
            .groups
            .iter()
            .flat_map(|group| group.marks.iter().map(|mark| mark_row(&plot, group, mark)))
            .collect(),
    };
    Some(Figure { title, caption, plot: Plot::Intervals(plot), table, is_only_place: false })
}

fn mark_row(plot: &Intervals, group: &Group, mark: &Mark) -> Vec<String> {
    let [points, interval] = mark_text(plot, mark);
    vec![group.name.clone(), mark.name.clone(), points, interval]
}

/// The number of a mark and its interval.
pub(super) fn mark_text(plot: &Intervals, mark: &Mark) -> [String; 2] {
    let interval = |text: fn(Interval) -> String| mark.interval.map_or_else(String::new, text);
    if plot.from_zero {
        [difference_text(mark.points), interval(difference_interval)]
    } else {
        [score_text(mark.points), interval(score_interval)]
    }
}
