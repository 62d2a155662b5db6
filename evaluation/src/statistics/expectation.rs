//! What a comparison will be able to show, before any question is asked.

use serde::{Deserialize, Serialize};
use stic_contract::evaluation::BenchmarkName;

use super::difference::{Pair, Pairs};
use super::linear::Variance;
use super::student::{NORMAL_80, t_975};
use crate::metric::Metric;

/// How much the answers of two models differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Spread {
    /// The share, 0 to 1, of the questions that exactly one of the two models answers correctly.
    Discordant(f64),
    /// The standard deviation of the difference on one question, in points of the score.
    Deviation(f64),
}

/// What is expected of the differences between two models' answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    pub spread: Spread,
    /// The correlation, 0 to 1, of the differences on two questions about the same image.
    pub correlation: f64,
}

/// What data of a certain size can show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detectable {
    /// Of the 95% interval of the difference, in points.
    pub half_width: f64,
    /// The smallest true difference, in points, that such an interval tells from none in 80% of all evaluations; `None` if
    /// no difference that the spread allows is large enough.
    pub difference: Option<f64>,
}

/// The correlation that [`Expectation::assumed`] takes.
const ASSUMED_CORRELATION: f64 = 0.05;

impl Expectation {
    /// What we assume of a model and the same model with an adapter; `None` for a benchmark without an assumption. Such models
    /// typically disagree on so many questions; nothing more exact is published.
    #[must_use]
    pub const fn assumed(benchmark: BenchmarkName) -> Option<Self> {
        let spread = match benchmark {
            BenchmarkName::ScienceQa | BenchmarkName::TextVqa => Spread::Discordant(0.12),
            BenchmarkName::ChartQa => Spread::Discordant(0.15),
            BenchmarkName::MmBench => Spread::Discordant(0.10),
            BenchmarkName::MathVista | BenchmarkName::MmStar => Spread::Discordant(0.20),
            BenchmarkName::LlavaBench => Spread::Deviation(20.0),
            BenchmarkName::MmVet => Spread::Deviation(35.0),
            BenchmarkName::Pope => Spread::Discordant(0.06),
            BenchmarkName::HallusionBench
            | BenchmarkName::Amber
            | BenchmarkName::Chair
            | BenchmarkName::Scenes => return None,
        };
        Some(Self { spread, correlation: ASSUMED_CORRELATION })
    }

    /// What earlier answers of two models show; `None` where the models do not differ, have nothing in common (see
    /// [`super::Difference::estimate`]), or were asked about a single image.
    #[must_use]
    pub fn observed(model: &Metric, baseline: &Metric) -> Option<Self> {
        let pairs = (model.aggregate == baseline.aggregate).then(|| Pairs::of(model, baseline))?;
        let linear = pairs.linear()?;
        let clustered = Variance::of(&pairs.clustered(&linear))?.variance;
        let independent = linear.iter().map(|pair| pair.residual * pair.residual).sum::<f64>();
        if independent == 0.0 {
            return None;
        }
        let units = pairs.units.len() as f64;
        let others = units / pairs.clusters as f64 - 1.0;
        let correlation =
            if others > 0.0 { ((clustered / independent - 1.0) / others).clamp(0.0, 1.0) } else { 0.0 };
        let spread = if pairs.units.iter().all(Pair::is_binary) {
            let (gained, lost) = pairs.discordant();
            Spread::Discordant((gained + lost) / units)
        } else {
            Spread::Deviation(100.0 * (units * independent).sqrt())
        };
        Some(Self { spread, correlation })
    }
}

/// What `questions` questions about `clusters` images can show; `None` if there are fewer than two images.
#[must_use]
pub fn smallest_detectable_difference(
    questions: usize,
    clusters: usize,
    expectation: Expectation,
) -> Option<Detectable> {
    if clusters < 2 || questions < clusters {
        return None;
    }
    let questions = questions as f64;
    let design = 1.0 + (questions / clusters as f64 - 1.0) * expectation.correlation;
    let scale = design / questions;
    let quantile = t_975((clusters - 1) as f64);
    Some(match expectation.spread {
        Spread::Deviation(points) => {
            let error = points * scale.sqrt();
            Detectable { half_width: quantile * error, difference: Some((quantile + NORMAL_80) * error) }
        }
        Spread::Discordant(share) => {
            let half = quantile * (share * scale).sqrt();
            Detectable {
                half_width: 100.0 * half,
                difference: discordant(share, scale, quantile).map(|difference| 100.0 * difference),
            }
        }
    })
}

/// Connor (1987): the `d` with `d = quantile * sqrt(share * scale) + z80 * sqrt((share - d^2) * scale)`. A difference
/// cannot exceed the share of discordant answers.
fn discordant(share: f64, scale: f64, quantile: f64) -> Option<f64> {
    let power = NORMAL_80 * NORMAL_80;
    let inside = 1.0 - scale * (quantile * quantile - power);
    if inside < 0.0 {
        return None;
    }
    let error = (share * scale).sqrt();
    let difference = error * (quantile + NORMAL_80 * inside.sqrt()) / (1.0 + power * scale);
    (difference <= share).then_some(difference)
}
