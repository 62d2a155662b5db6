//! Published gains, each beside the interval that the data has for it.

use stic_contract::evaluation::{BenchmarkName, Prompting};

use super::estimate::Estimate;
use super::published::PublishedModel;

/// A gain in the paper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub source: &'static str,
    pub model: PublishedModel,
    pub what: &'static str,
    /// How both models were asked; `None` if the source does not say.
    pub prompting: Option<Prompting>,
    pub benchmark: BenchmarkName,
    pub gain: f64,
}

impl Claim {
    /// Whether it compares models that no difference to a baseline compares: ways of asking are mixed in Table 1's
    /// LLaVA-v1.6-7B (`published::MIXED`), and Figure 7 compares two trained models.
    pub(super) fn is_mixed(&self) -> bool {
        self.model == PublishedModel::LlavaV16 && self.prompting.is_none()
    }
}

/// A claim beside the interval that the data has for it.
#[derive(Debug)]
pub(super) struct CheckedClaim {
    pub claim: Claim,
    pub half_width: f64,
    /// The smallest true difference that such an interval finds in 80% of evaluations.
    pub detectable: f64,
    pub questions: u64,
    pub basis: Basis,
}

/// Where the half-width comes from.
#[derive(Debug)]
pub(super) enum Basis {
    /// The interval of a difference.
    Measured {
        evaluation: String,
        subject: String,
        /// The measured difference, unless it is certainly another comparison than the paper's.
        difference: Option<Estimate>,
    },
    /// There are scores but no difference: the documented expectation for as many questions.
    Scores { evaluation: String },
    /// There are no answers: the documented expectation for the whole benchmark.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    CanBeShown,
    CannotBeShown,
    NoData,
}

impl CheckedClaim {
    pub(super) fn verdict(&self) -> Verdict {
        match self.basis {
            Basis::Nothing => Verdict::NoData,
            _ if self.exceeds_half_width() => Verdict::CanBeShown,
            _ => Verdict::CannotBeShown,
        }
    }

    fn exceeds_half_width(&self) -> bool {
        self.claim.gain > self.half_width
    }

    pub(super) fn verdict_text(&self) -> String {
        let questions = self.questions;
        match (self.verdict(), self.exceeds_half_width()) {
            (Verdict::CanBeShown, _) => "can be shown".into(),
            (Verdict::CannotBeShown, _) => format!("cannot be shown with {questions} questions"),
            (Verdict::NoData, true) => format!("no data; can be shown with {questions} questions"),
            (Verdict::NoData, false) => format!("no data; cannot be shown with {questions} questions"),
        }
    }

    /// Where the half-width comes from.
    pub(super) fn basis_text(&self) -> String {
        match &self.basis {
            Basis::Measured { evaluation, subject, .. } => format!("{evaluation}, {subject}"),
            Basis::Scores { evaluation } => format!("expectation for the questions of {evaluation}"),
            Basis::Nothing => "expectation".into(),
        }
    }
}
