//! Yes/no questions: what the references read out of an answer, and the sums behind precision, recall and F1.

use crate::metric::{Aggregate, Metric, Unit, in_group};
use crate::python;

use super::Answered;
use super::text_vqa::without_punctuation_vlmevalkit;

/// What was answered by VLMEvalKit's rules (`YOrN_Extraction` in `vlmeval/dataset/utils/yorn.py`): the one of the words `yes`
/// and `no` that occurs, if the other one does not.
#[must_use]
pub fn yes_or_no_vlmevalkit(answer: &str) -> Option<bool> {
    let text = without_punctuation_vlmevalkit(&answer.to_lowercase());
    let contains = |word| python::split(&text).any(|other| other == word);
    match (contains("yes"), contains("no")) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

/// One answer to a yes/no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    /// Whether the right answer is the one that precision and recall are about.
    pub(super) truth: bool,
    /// Whether that one was answered; `None` if neither was.
    pub(super) answered: Option<bool>,
    /// Whether an answer that is neither counts as one that missed the truth. lmms-eval leaves it out of the recall.
    pub(super) missing_is_negative: bool,
}

impl Decision {
    pub(super) fn correct(self) -> bool {
        self.answered == Some(self.truth)
    }

    /// `[tp, fp, fn]`.
    pub(super) fn confusion(self) -> [f64; 3] {
        let missed = self.answered == Some(false) || (self.answered.is_none() && self.missing_is_negative);
        let count = |holds: bool| f64::from(u8::from(holds));
        [
            count(self.truth && self.answered == Some(true)),
            count(!self.truth && self.answered == Some(true)),
            count(self.truth && missed),
        ]
    }
}

/// What of a decision a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Accuracy,
    Precision,
    Recall,
    F1,
}

impl Measure {
    pub(super) const ALL: [Self; 4] = [Self::Accuracy, Self::Precision, Self::Recall, Self::F1];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::F1 => "f1",
        }
    }

    /// `prefix` and the name in camel case: `randomF1`.
    fn name_in(self, prefix: &str) -> String {
        let mut name = self.name().to_owned();
        if let Some(first) = name.get_mut(..1).filter(|_| !prefix.is_empty()) {
            first.make_ascii_uppercase();
        }
        format!("{prefix}{name}")
    }

    fn sums(self, decision: Decision, times: f64) -> Vec<f64> {
        let [tp, fp, r#fn] = decision.confusion();
        let sums = match self {
            Self::Accuracy => vec![f64::from(u8::from(decision.correct())), 1.0],
            Self::Precision => vec![tp, tp + fp],
            Self::Recall => vec![tp, tp + r#fn],
            Self::F1 => vec![tp, fp, r#fn],
        };
        sums.into_iter().map(|sum| sum * times).collect()
    }
}

/// A decision about an answer, and the groups that it counts in.
pub(super) struct Decided<'a, I> {
    pub(super) answer: &'a Answered<'a, I>,
    pub(super) decision: Decision,
    pub(super) groups: Vec<usize>,
}

/// The measure over all answers; an answer in two groups counts twice, as if it were two rows.
pub(super) fn pooled<I>(measure: Measure, prefix: &str, decided: &[Decided<'_, I>]) -> Metric {
    let aggregate = if measure == Measure::F1 { Aggregate::F1 } else { Aggregate::Percentage };
    let units = decided.iter().map(|decided| {
        let times = u32::try_from(decided.groups.len()).map_or(0.0, f64::from);
        unit(decided, measure.sums(decided.decision, times))
    });
    Metric { name: measure.name_in(prefix), aggregate, units: units.collect() }
}

/// The measure over the answers of one group.
pub(super) fn of_group<I>(
    measure: Measure,
    prefix: &str,
    group: usize,
    decided: &[Decided<'_, I>],
) -> Metric {
    let aggregate = if measure == Measure::F1 { Aggregate::F1 } else { Aggregate::Percentage };
    let members = decided.iter().filter(|decided| decided.groups.contains(&group));
    let units = members.map(|decided| unit(decided, measure.sums(decided.decision, 1.0)));
    Metric { name: measure.name_in(prefix), aggregate, units: units.collect() }
}

/// The mean of the measures of the groups.
pub(super) fn mean_of_groups<I>(measure: Measure, groups: usize, decided: &[Decided<'_, I>]) -> Metric {
    let aggregate = if measure == Measure::F1 { Aggregate::MeanOfF1 } else { Aggregate::MeanOfPercentages };
    let units = decided.iter().map(|decided| {
        let own = measure.sums(decided.decision, 1.0);
        let mut sums = vec![0.0; own.len() * groups];
        for group in &decided.groups {
            sums = sums.iter().zip(in_group(&own, *group, groups)).map(|(sum, own)| sum + own).collect();
        }
        unit(decided, sums)
    });
    Metric { name: measure.name().to_owned(), aggregate, units: units.collect() }
}

fn unit<I>(decided: &Decided<'_, I>, sums: Vec<f64>) -> Unit {
    Unit::of(decided.answer, sums, decided.decision.answered.is_none())
}
