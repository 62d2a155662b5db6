//! `--paper`: whether the data can show each published gain.

use stic_contract::evaluation::{Prompting, Scorer};

use super::claim::{Basis, CheckedClaim, Claim};
use super::model::{Evaluation, Row};
use super::published::{self, COMPARISONS, Comparison, GAINS_BY_IMAGES, PublishedModel};

/// Between the half-width of an interval and the difference that is found in 80% of evaluations: (1.96 + 0.84) / 1.96.
const HALF_WIDTHS_FOR_80_PERCENT: f64 = 1.43;

pub(super) fn check_all(evaluations: &[Evaluation]) -> Vec<CheckedClaim> {
    claims().filter_map(|claim| check(claim, evaluations)).collect()
}

fn claims() -> impl Iterator<Item = Claim> {
    let (benchmark, gain_6k, gain_12k) = GAINS_BY_IMAGES;
    let by_images = Claim {
        source: "Figure 7",
        model: PublishedModel::LlavaV16,
        what: "+ STIC, 12k instead of 6k images",
        prompting: None,
        benchmark,
        gain: tenths(gain_12k - gain_6k),
    };
    COMPARISONS.iter().flat_map(claims_of).chain([by_images])
}

fn claims_of(comparison: &Comparison) -> impl Iterator<Item = Claim> + use<> {
    let Comparison { source, model, prompting, scores } = *comparison;
    let what = match prompting {
        None => "+ STIC",
        Some(Prompting::Direct) => "+ STIC, both direct",
        Some(_) => "+ STIC, both with DaR",
    };
    scores.into_iter().map(move |(benchmark, base, stic)| {
        let gain = tenths(stic - base);
        Claim { source, model, what, prompting, benchmark, gain }
    })
}

/// The published scores have one or two decimals; their difference in binary has more.
fn tenths(points: f64) -> f64 {
    (points * 100.0).round() / 100.0
}

/// `None` if nothing is known about intervals on this benchmark.
fn check(claim: Claim, evaluations: &[Evaluation]) -> Option<CheckedClaim> {
    measured(claim, evaluations).or_else(|| expected(claim, evaluations))
}

/// Of several differences the one over most questions; of these, the last: that of the model trained last.
fn measured(claim: Claim, evaluations: &[Evaluation]) -> Option<CheckedClaim> {
    let candidates = rows(claim, evaluations).filter_map(|(evaluation, row)| {
        let difference = row.difference.as_ref()?;
        let estimate = difference.estimate?;
        let questions = difference.pairs.unwrap_or(row.counted);
        Some((evaluation, row, estimate, estimate.interval?.half_width(), questions))
    });
    let (evaluation, row, estimate, half_width, questions) =
        candidates.max_by_key(|(_, row, _, _, questions)| (preference(row, claim), *questions))?;
    let is_other = evaluation.model.is_some_and(|model| model != claim.model) || claim.is_mixed();
    Some(CheckedClaim {
        claim,
        half_width,
        detectable: half_width * HALF_WIDTHS_FOR_80_PERCENT,
        questions,
        basis: Basis::Measured {
            evaluation: evaluation.name.clone(),
            subject: row.subject.clone(),
            difference: (!is_other).then_some(estimate),
        },
    })
}

fn expected(claim: Claim, evaluations: &[Evaluation]) -> Option<CheckedClaim> {
    let whole = published::expected(claim.benchmark)?;
    let scored = rows(claim, evaluations).filter(|(_, row)| row.counted > 0);
    let scored = scored.max_by_key(|(_, row)| (preference(row, claim), row.counted));
    let Some((evaluation, row)) = scored else {
        return Some(CheckedClaim {
            claim,
            half_width: whole.half_width,
            detectable: whole.detectable,
            questions: whole.questions,
            basis: Basis::Nothing,
        });
    };
    let wider = (whole.questions as f64 / row.counted as f64).sqrt();
    Some(CheckedClaim {
        claim,
        half_width: whole.half_width * wider,
        detectable: whole.detectable * wider,
        questions: row.counted,
        basis: Basis::Scores { evaluation: evaluation.name.clone() },
    })
}

/// The headlines on the claim's benchmark that were asked as the claim says.
fn rows(claim: Claim, evaluations: &[Evaluation]) -> impl Iterator<Item = (&Evaluation, &Row)> {
    let all =
        evaluations.iter().flat_map(|evaluation| evaluation.rows.iter().map(move |row| (evaluation, row)));
    all.filter(move |(_, row)| {
        let is_asked_alike = match claim.prompting {
            None => true,
            Some(Prompting::Direct) => row.prompting == Prompting::Direct,
            Some(_) => row.prompting != Prompting::Direct,
        };
        row.is_headline && row.benchmark == claim.benchmark && is_asked_alike
    })
}

/// The paper's scorer first, then the way of asking that is closest to the paper's.
fn preference(row: &Row, claim: Claim) -> (bool, bool) {
    let prompting = claim.prompting.unwrap_or(Prompting::Direct);
    (row.scorer == Scorer::Llava, row.prompting == prompting)
}
