//! Draws plots as inline SVG without scripts.
//!
//! Horizontal positions are percentages and text has a size in pixels, so a plot is as wide as its column while its text stays
//! readable: a `viewBox` would shrink the text with the plot on a phone.

use super::document::{Curve, Group, Intervals, Mark};
use super::escape::html as escape;
use super::figures::mark_text;

/// The space on the left and on the right of the values, in percent, for the outer labels of the axis.
const MARGIN: f64 = 5.0;
/// The space of the labels of the vertical axis.
const LABELS: f64 = 15.0;
/// Longer names would meet the number on their right on a phone. The table has the whole name.
const MAX_NAME: usize = 28;
const SERIES: usize = 6;

/// A scale with round ticks.
struct Axis {
    ticks: Vec<f64>,
    decimals: usize,
    low: f64,
    high: f64,
}

impl Axis {
    /// From a tick at or below `low` to one at or above `high`, with about `count` intervals.
    fn new(low: f64, high: f64, count: f64) -> Self {
        // One value, or equal values, still need a scale.
        let (low, high) = if high - low > f64::EPSILON { (low, high) } else { (low - 0.5, high + 0.5) };
        let raw = (high - low) / count;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw);
        let step = step.unwrap_or(10.0 * power);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let count = (last - first).round() as usize;
        // A difference of exactly zero has no sign.
        let ticks = (0..=count).map(|i| (first + i as f64) * step + 0.0).collect();
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        Self { ticks, decimals, low: first * step, high: last * step }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn label(&self, tick: f64) -> String {
        format!("{tick:.*}", self.decimals)
    }
}

/// One drawing for each group. Differences share an axis; scores of different benchmarks do not.
pub(super) fn intervals(plot: &Intervals) -> Vec<String> {
    let all = || plot.groups.iter().flat_map(|group| &group.marks);
    plot.groups
        .iter()
        .map(|group| {
            let axis = if plot.from_zero {
                interval_axis(all(), true)
            } else {
                interval_axis(group.marks.iter(), false)
            };
            draw_group(plot, group, &axis)
        })
        .collect()
}

fn interval_axis<'a>(marks: impl Iterator<Item = &'a Mark>, from_zero: bool) -> Axis {
    let zero = from_zero.then_some(0.0);
    let ends = marks.flat_map(|mark| {
        let interval = mark.interval.map_or([mark.points; 2], |interval| [interval.low, interval.high]);
        [interval[0], mark.points, interval[1]]
    });
    let (low, high) = range(ends.chain(zero));
    Axis::new(low, high, 4.0)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values = values.filter(|value| value.is_finite());
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

const MARK_HEIGHT: usize = 38;
const HEADING_HEIGHT: usize = 24;

fn draw_group(plot: &Intervals, group: &Group, axis: &Axis) -> String {
    let x = |value: f64| percent(MARGIN + (100.0 - 2.0 * MARGIN) * axis.share(value));
    let bottom = HEADING_HEIGHT + group.marks.len() * MARK_HEIGHT;
    let mut body =
        format!("<text class=\"heading\" x=\"0\" y=\"15\">{}</text>", escape(&shortened(&group.name, 40)));
    for tick in &axis.ticks {
        let class = if plot.from_zero && *tick == 0.0 { "zero" } else { "grid" };
        body.push_str(&format!(
            "<line class=\"{class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{HEADING_HEIGHT}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 16,
            axis.label(*tick),
            x = x(*tick),
        ));
    }
    for (index, mark) in group.marks.iter().enumerate() {
        body.push_str(&draw_mark(plot, mark, HEADING_HEIGHT + index * MARK_HEIGHT, &x));
    }
    body.push_str(&format!(
        "<text class=\"axis\" x=\"50%\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        bottom + 36,
        escape(plot.axis)
    ));
    let described: Vec<String> = group.marks.iter().map(|mark| mark_label(plot, mark)).collect();
    frame(bottom + 44, &format!("{}, {}: {}", group.name, plot.axis, described.join("; ")), &body)
}

fn draw_mark(plot: &Intervals, mark: &Mark, top: usize, x: &impl Fn(f64) -> String) -> String {
    let y = top + 27;
    let [points, _] = mark_text(plot, mark);
    let class = mark.series.map_or_else(|| "paper".to_owned(), |series| format!("s{}", series % SERIES));
    let line = mark.interval.map_or_else(String::new, |interval| {
        let (low, high) = (x(interval.low), x(interval.high));
        let (above, below) = (y - 5, y + 5);
        format!(
            "<line x1=\"{low}\" x2=\"{high}\" y1=\"{y}\" y2=\"{y}\"/><line x1=\"{low}\" x2=\"{low}\" y1=\"{above}\" y2=\"{below}\"/>\
             <line x1=\"{high}\" x2=\"{high}\" y1=\"{above}\" y2=\"{below}\"/>"
        )
    });
    format!(
        "<g class=\"{class}\"><title>{}</title><text x=\"0\" y=\"{}\">{}</text><text x=\"100%\" y=\"{}\" text-anchor=\"end\">{points}</text>\
         {line}<svg x=\"{}\" y=\"{y}\" overflow=\"visible\"><path d=\"{}\"/></svg></g>",
        escape(&mark_label(plot, mark)),
        top + 15,
        escape(&shortened(&mark.name, MAX_NAME)),
        top + 15,
        x(mark.points),
        shape(mark.series),
    )
}

fn mark_label(plot: &Intervals, mark: &Mark) -> String {
    let [points, interval] = mark_text(plot, mark);
    if interval.is_empty() {
        format!("{}: {points}", mark.name)
    } else {
        format!("{}: {points} ({interval})", mark.name)
    }
}

/// Shapes tell models apart without colours.
const fn shape(series: Option<usize>) -> &'static str {
    match series {
        // A diamond, which the style leaves hollow.
        None => "M0 -6L6 0L0 6L-6 0Z",
        Some(index) => match index % SERIES {
            0 => "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
            1 => "M-4.5 -4.5H4.5V4.5H-4.5Z",
            2 => "M0 -6L5.5 4.5H-5.5Z",
            3 => "M0 6L5.5 -4.5H-5.5Z",
            4 => "M-6 -2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
            _ => "M-6 -3H6V3H-6Z",
        },
    }
}

const CURVE_TOP: usize = 28;
const CURVE_HEIGHT: usize = 150;

pub(super) fn curve(plot: &Curve) -> String {
    let (first, last) = range(plot.values.iter().map(|(step, _)| *step));
    let (low, high) = range(plot.values.iter().map(|(_, value)| *value));
    let (across, up) = (Axis::new(first.min(0.0), last, 4.0), Axis::new(low, high, 4.0));
    let width = 100.0 - LABELS - MARGIN;
    let x = |step: f64| LABELS + width * across.share(step);
    let y = |value: f64| CURVE_TOP as f64 + CURVE_HEIGHT as f64 * (1.0 - up.share(value));
    let bottom = CURVE_TOP + CURVE_HEIGHT;
    let mut body = format!("<text class=\"heading\" x=\"0\" y=\"15\">{}</text>", escape(&plot.axis));
    for tick in &up.ticks {
        body.push_str(&format!(
            "<line class=\"grid\" x1=\"{LABELS}%\" x2=\"{}%\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{}%\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            100.0 - MARGIN,
            LABELS - 2.0,
            y(*tick) + 4.0,
            up.label(*tick),
            y = y(*tick),
        ));
    }
    for tick in &across.ticks {
        body.push_str(&format!(
            "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            percent(x(*tick)),
            bottom + 16,
            across.label(*tick)
        ));
    }
    body.push_str(&line(plot, &across, &up, width));
    for (step, value) in &plot.values {
        body.push_str(&format!(
            "<circle class=\"s0\" cx=\"{}\" cy=\"{:.1}\" r=\"2.5\"/>",
            percent(x(*step)),
            y(*value)
        ));
    }
    body.push_str(&format!(
        "<text class=\"axis\" x=\"50%\" y=\"{}\" text-anchor=\"middle\">step</text>",
        bottom + 36
    ));
    let description =
        format!("{} by step, from step {first:.0} to {last:.0}, between {low:.4} and {high:.4}", plot.axis);
    frame(bottom + 44, &description, &body)
}

/// The points of a path cannot be percentages, so the path has a drawing of its own that is stretched.
fn line(plot: &Curve, across: &Axis, up: &Axis, width: f64) -> String {
    let point = |(step, value): &(f64, f64)| {
        format!("{:.1} {:.1}", 1000.0 * across.share(*step), 1000.0 * (1.0 - up.share(*value)))
    };
    let points: Vec<String> = plot.values.iter().map(point).collect();
    format!(
        "<svg x=\"{LABELS}%\" y=\"{CURVE_TOP}\" width=\"{width}%\" height=\"{CURVE_HEIGHT}\" viewBox=\"0 0 1000 1000\" \
         preserveAspectRatio=\"none\"><path class=\"curve\" d=\"M{}\"/></svg>",
        points.join("L")
    )
}

fn frame(height: usize, description: &str, body: &str) -> String {
    let description = escape(description);
    format!(
        "<svg role=\"img\" aria-label=\"{description}\" width=\"100%\" height=\"{height}\"><title>{description}</title>{body}</svg>\n"
    )
}

fn percent(value: f64) -> String {
    format!("{value:.2}%")
}

fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['\u{2026}']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_include_all_values() {
        let axis = Axis::new(-1.2, 7.9, 4.0);
        assert_eq!(axis.ticks, [-5.0, 0.0, 5.0, 10.0]);
        assert_eq!(
            axis.ticks.iter().map(|tick| axis.label(*tick)).collect::<Vec<_>>(),
            ["-5", "0", "5", "10"]
        );
        let same = Axis::new(0.5, 0.5, 4.0);
        assert!(same.low < 0.5 && same.high > 0.5, "one value is in the middle");
        let small = Axis::new(0.0, 0.0012, 4.0);
        assert_eq!(small.label(small.ticks[1]), "0.0005");
    }

    #[test]
    fn a_long_name_is_shortened() {
        assert_eq!(shortened("stic", 28), "stic");
        assert_eq!(shortened(&"é".repeat(30), 28), format!("{}…", "é".repeat(27)));
    }
}
