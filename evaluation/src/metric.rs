//! A score as a function of sums over units, so that one piece of statistics serves accuracies, F1 and ratios of means.

use crate::answered::Answered;

/// One metric of one model on one benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// As it is reported: `accuracy`, `imageAccuracy`, `f1`. The first metric of a benchmark is its headline.
    pub name: String,
    pub aggregate: Aggregate,
    /// In the order of the benchmark; the same for every model that is compared.
    pub units: Vec<Unit>,
}

/// What is counted at once: a question, or the rotations of one question, or a description.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Unique in the metric; the same unit of two models has the same id.
    pub id: String,
    /// What makes units dependent, usually the image.
    pub cluster: String,
    /// What it adds to the sums; `None` where a judge gave no score, so that it counts in no sum.
    pub sums: Option<Vec<f64>>,
    /// Whether no rule could tell what was answered; counted beside the score.
    pub unresolved: bool,
}

/// How the sums over all units become a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// `100 * sums[0] / sums[1]`: an accuracy (`[value, 1]`), or a ratio such as CHAIRi.
    Percentage,
    /// `100 * 2 tp / (2 tp + fp + fn)` of `[tp, fp, fn]`.
    F1,
    /// LLaVA-Bench: `100 * mean(model) / mean(reference)` of `[model, reference, 1]`, both means rounded to 3 decimals.
    RatioOfMeans,
    /// The unweighted mean of the groups' percentages: `[value, 1]` for each group after the other, zeros for all groups but
    /// the unit's own. Groups without units are left out.
    MeanOfPercentages,
    /// The unweighted mean of the groups' F1, as above: `[tp, fp, fn]` for each group.
    MeanOfF1,
}

impl Unit {
    /// A unit that is one answer.
    #[must_use]
    pub fn of<I>(answer: &Answered<'_, I>, sums: Vec<f64>, unresolved: bool) -> Self {
        Self { id: answer.id.to_owned(), cluster: answer.cluster.to_owned(), sums: Some(sums), unresolved }
    }

    /// An answer without a score, because a judge gave none or because there is nothing to score.
    #[must_use]
    pub fn without_score<I>(answer: &Answered<'_, I>) -> Self {
        Self { id: answer.id.to_owned(), cluster: answer.cluster.to_owned(), sums: None, unresolved: false }
    }
}

/// The metrics of a model whose answers were judged several times, from those of each time: a unit adds the mean of what it
/// added in those that gave it a score.
#[must_use]
pub fn mean_of_repeats(repeats: Vec<Vec<Metric>>) -> Vec<Metric> {
    let count = repeats.len();
    let mut repeats = repeats.into_iter();
    let mut means = repeats.next().unwrap_or_default();
    if count < 2 {
        return means;
    }
    let others: Vec<Vec<Metric>> = repeats.collect();
    for (number, metric) in means.iter_mut().enumerate() {
        let others: Vec<&Metric> = others.iter().filter_map(|repeat| repeat.get(number)).collect();
        for (index, unit) in metric.units.iter_mut().enumerate() {
            let same = others.iter().filter_map(|other| other.units.get(index));
            let all: Vec<&Unit> = std::iter::once(&*unit).chain(same).collect();
            let mean = mean_of_sums(&all);
            let unresolved = all.iter().all(|unit| unit.unresolved);
            (unit.sums, unit.unresolved) = (mean, unresolved);
        }
    }
    means
}

/// `None` if no unit has sums.
fn mean_of_sums(units: &[&Unit]) -> Option<Vec<f64>> {
    let scored: Vec<&Vec<f64>> = units
        .iter()
        .filter_map(|unit| unit.sums.as_ref())
        // A judge that replied `nan` gave no score.
        .filter(|sums| sums.iter().all(|sum| sum.is_finite()))
        .collect();
    let first = scored.first()?;
    let count = scored.len() as f64;
    let sum_at = |at: usize| scored.iter().filter_map(|sums| sums.get(at)).sum::<f64>();
    Some((0..first.len()).map(|at| sum_at(at) / count).collect())
}

/// `sums` as those of group `group` of `groups`, for [`Aggregate::MeanOfPercentages`] and [`Aggregate::MeanOfF1`].
#[must_use]
pub fn in_group(sums: &[f64], group: usize, groups: usize) -> Vec<f64> {
    let mut all = vec![0.0; sums.len() * groups];
    let start = group * sums.len();
    if let Some(own) = all.get_mut(start..start + sums.len()) {
        own.copy_from_slice(sums);
    }
    all
}

/// A numerator and a denominator.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Fraction {
    pub(crate) part: f64,
    pub(crate) whole: f64,
}

/// What units add to numerators and denominators. Every score is the ratio of their sums over the units, or the mean of
/// the ratios of several groups.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Fractions {
    /// One for each group, so mostly one.
    groups: Vec<Fraction>,
}

impl std::ops::AddAssign<&Self> for Fractions {
    fn add_assign(&mut self, other: &Self) {
        let groups = self.groups.len().max(other.groups.len());
        self.groups.resize(groups, Fraction::default());
        for (own, other) in self.groups.iter_mut().zip(&other.groups) {
            own.part += other.part;
            own.whole += other.whole;
        }
    }
}

impl Fractions {
    /// `None` where no denominator is positive, or the ratio no number.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.mean_of_groups(self, |own, _| own.part / own.whole).filter(|ratio| ratio.is_finite())
    }

    /// How much the ratio of `total` would change without this part of it, to first order.
    pub(crate) fn residual(&self, total: &Self) -> Option<f64> {
        self.mean_of_groups(total, |own, total| {
            (own.part - total.part / total.whole * own.whole) / total.whole
        })
    }

    /// The share of the denominators of `total`.
    pub(crate) fn share(&self, total: &Self) -> Option<f64> {
        self.mean_of_groups(total, |own, total| own.whole / total.whole)
    }

    /// The mean of `value` over the groups that `total` has units in.
    fn mean_of_groups(&self, total: &Self, value: impl Fn(Fraction, Fraction) -> f64) -> Option<f64> {
        let pairs = total.groups.iter().enumerate().filter(|(_, total)| total.whole > 0.0);
        let values =
            pairs.map(|(group, total)| value(self.groups.get(group).copied().unwrap_or_default(), *total));
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        (count > 0.0).then(|| sum / count)
    }

    pub(crate) fn part(&self) -> f64 {
        self.groups.iter().map(|group| group.part).sum()
    }

    pub(crate) fn whole(&self) -> f64 {
        self.groups.iter().map(|group| group.whole).sum()
    }

    /// Whether this is one answer that counts fully and is right, wrong, or something between.
    pub(crate) fn is_partial(&self) -> bool {
        matches!(self.groups[..], [Fraction { part, whole }] if whole == 1.0 && (0.0..=1.0).contains(&part))
    }

    /// Whether this is one answer that is right or wrong.
    pub(crate) fn is_binary(&self) -> bool {
        self.is_partial() && (self.part() == 0.0 || self.part() == 1.0)
    }
}

impl Aggregate {
    /// What a unit with these sums adds to numerators and denominators; `None` if a sum is missing, or not finite, as where
    /// a judge replied `nan`.
    pub(crate) fn fractions(self, sums: &[f64]) -> Option<Fractions> {
        if sums.iter().any(|sum| !sum.is_finite()) {
            return None;
        }
        let ratio = |part: f64, whole: f64| Fraction { part, whole };
        let f1 = |[right, wrong, missed]: [f64; 3]| ratio(2.0 * right, 2.0 * right + wrong + missed);
        let groups = match (self, sums) {
            (Self::Percentage, [part, whole]) | (Self::RatioOfMeans, [part, whole, ..]) => {
                vec![ratio(*part, *whole)]
            }
            (Self::F1, [right, wrong, missed]) => vec![f1([*right, *wrong, *missed])],
            (Self::MeanOfPercentages, _) => {
                sums.as_chunks::<2>().0.iter().map(|[part, whole]| ratio(*part, *whole)).collect()
            }
            (Self::MeanOfF1, _) => sums.as_chunks::<3>().0.iter().map(|group| f1(*group)).collect(),
            _ => return None,
        };
        Some(Fractions { groups })
    }

    /// The score of these sums over `units` units, as the reference computes it; `None` where it would divide by zero, or is
    /// not finite.
    pub(crate) fn score(self, sums: &Fractions, units: usize) -> Option<f64> {
        let ratio = match self {
            Self::Percentage | Self::F1 | Self::MeanOfPercentages | Self::MeanOfF1 => sums.ratio()?,
            Self::RatioOfMeans => {
                let mean = |sum: f64| rounded(sum / units as f64);
                let (part, whole) = (mean(sums.part()), mean(sums.whole()));
                (whole > 0.0).then(|| part / whole).filter(|ratio| ratio.is_finite())?
            }
        };
        Some(ratio * 100.0).filter(|score| score.is_finite())
    }
}

/// Python's `round(value, 3)`: the exact binary value is rounded, and a tie goes to the even digit. Formatting does the
/// same; multiplying by 1000 would not.
fn rounded(value: f64) -> f64 {
    format!("{value:.3}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[round(x, 3) for x in [7.0625, 7.1875, 0.0005, 2.0005, 6.9165, 8.4335, 1.0015]]`
    #[test]
    fn rounds_like_python() {
        let values = [7.0625, 7.1875, 0.0005, 2.0005, 6.9165, 8.4335, 1.0015];
        assert_eq!(values.map(rounded), [7.062, 7.188, 0.001, 2.001, 6.917, 8.434, 1.002]);
    }

    #[test]
    fn a_repeat_without_a_score_does_not_count_as_zero() {
        let metric = |sums: [Option<f64>; 2]| {
            let unit = |(id, value): (usize, Option<f64>)| Unit {
                id: id.to_string(),
                cluster: id.to_string(),
                sums: value.map(|value| vec![value, 1.0]),
                unresolved: false,
            };
            let units = sums.into_iter().enumerate().map(unit).collect();
            vec![Metric { name: "total".into(), aggregate: Aggregate::Percentage, units }]
        };
        let repeats = vec![metric([Some(0.5), None]), metric([None, None]), metric([Some(1.0), None])];
        assert_eq!(mean_of_repeats(repeats), metric([Some(0.75), None]));
        assert_eq!(mean_of_repeats(vec![metric([Some(0.5), None])]), metric([Some(0.5), None]));
        assert_eq!(mean_of_repeats(Vec::new()), []);
    }

    /// LLaVA's `summarize_gpt_review.py` on the reviews (8, 7), (9, 9), (8, 6): the score and its exact value.
    #[test]
    fn ratio_of_means_divides_rounded_means() {
        let groups = vec![Fraction { part: 7.0 + 9.0 + 6.0, whole: 8.0 + 9.0 + 8.0 }];
        assert_eq!(Aggregate::RatioOfMeans.score(&Fractions { groups }, 3), Some(7.333 / 8.333 * 100.0));
    }
}
