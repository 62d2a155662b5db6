//! The numbers of "Enhancing Large Vision Language Models with Self-Training on Image Comprehension", arXiv 2405.19716v1.
//!
//! Table 1: LLaVA-v1.5-7B and LLaVA-v1.6-7B, base and with STIC. Table 2: LLaVA-v1.6-7B without and with DaR
//! (describe-and-respond). Figure 7: the gain on LLaVA-Bench with 6k and 12k images.

use stic_contract::evaluation::{BenchmarkName, Prompting};

use BenchmarkName::{ChartQa, LlavaBench, MathVista, MmBench, MmVet, ScienceQa, TextVqa};

pub(super) const SOURCE: &str = "arXiv 2405.19716v1";

/// The numbers say so: Table 1's row LLaVA-v1.6-7B + STIC is Table 2's STIC with DaR, but for MM-Vet.
pub(super) const MIXED: &str = "In Table 1, the base model of LLaVA-v1.6-7B answers directly and + STIC describes the image first: \
its gain is that of training and prompting together. Table 2 has both ways for both models.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishedModel {
    LlavaV15,
    LlavaV16,
}

impl PublishedModel {
    pub(super) const ALL: [Self; 2] = [Self::LlavaV15, Self::LlavaV16];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::LlavaV15 => "LLaVA-v1.5-7B",
            Self::LlavaV16 => "LLaVA-v1.6-7B",
        }
    }

    /// The model of a folder or an image whose name is exactly that of the model on Hugging Face. Anything more in it, such
    /// as `-finetuned`, may be another model. Of LLaVA-v1.6, the authors' adapters are for the Mistral model.
    pub(super) fn named(path: &str) -> Option<Self> {
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
        let name = last.split([':', '@']).next().unwrap_or_default();
        match name.strip_suffix("-hf").unwrap_or(name) {
            "llava-1.5-7b" | "llava-v1.5-7b" => Some(Self::LlavaV15),
            "llava-1.6-mistral-7b" | "llava-v1.6-mistral-7b" => Some(Self::LlavaV16),
            _ => None,
        }
    }
}

/// The scores of a base model and of the same model with STIC, both asked in the same way unless `prompting` is `None`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    pub source: &'static str,
    pub model: PublishedModel,
    /// `None` for Table 1, which does not say.
    pub prompting: Option<Prompting>,
    /// Benchmark, base, with STIC.
    pub scores: [(BenchmarkName, f64, f64); 7],
}

pub(super) const COMPARISONS: [Comparison; 4] = [
    Comparison {
        source: "Table 1",
        model: PublishedModel::LlavaV15,
        prompting: None,
        scores: [
            (ScienceQa, 66.8, 69.5),
            (TextVqa, 58.2, 61.4),
            (ChartQa, 6.32, 6.64),
            (LlavaBench, 65.4, 68.9),
            (MmBench, 64.3, 65.3),
            (MmVet, 31.1, 32.6),
            (MathVista, 25.1, 27.2),
        ],
    },
    Comparison {
        source: "Table 1",
        model: PublishedModel::LlavaV16,
        prompting: None,
        scores: [
            (ScienceQa, 68.9, 75.3),
            (TextVqa, 60.3, 65.2),
            (ChartQa, 36.4, 41.5),
            (LlavaBench, 77.3, 79.2),
            (MmBench, 63.7, 67.8),
            (MmVet, 42.2, 45.0),
            (MathVista, 34.6, 37.0),
        ],
    },
    Comparison {
        source: "Table 2",
        model: PublishedModel::LlavaV16,
        prompting: Some(Prompting::Direct),
        scores: [
            (ScienceQa, 68.9, 72.5),
            (TextVqa, 60.3, 63.4),
            (ChartQa, 36.4, 39.3),
            (LlavaBench, 77.3, 78.4),
            (MmBench, 63.7, 68.7),
            (MmVet, 42.2, 45.7),
            (MathVista, 34.6, 35.2),
        ],
    },
    Comparison {
        source: "Table 2",
        model: PublishedModel::LlavaV16,
        prompting: Some(Prompting::DescribeAndRespond),
        scores: [
            (ScienceQa, 69.9, 75.3),
            (TextVqa, 56.6, 65.2),
            (ChartQa, 34.6, 41.5),
            (LlavaBench, 78.5, 79.2),
            (MmBench, 50.7, 67.8),
            (MmVet, 42.3, 45.2),
            (MathVista, 34.7, 37.0),
        ],
    },
];

/// Figure 7: the gain on LLaVA-Bench of LLaVA-v1.6-7B with 6k and with 12k images.
pub(super) const GAINS_BY_IMAGES: (BenchmarkName, f64, f64) = (LlavaBench, 1.9, 3.1);

/// What to expect of the interval of a difference on a whole benchmark, before there are answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub questions: u64,
    pub half_width: f64,
    /// The smallest true difference that is found in 80% of evaluations.
    pub detectable: f64,
}

/// The table "what can be seen at all" of docs/evaluation-statistics.md.
pub(super) const fn expected(benchmark: BenchmarkName) -> Option<Expected> {
    let (questions, half_width, detectable) = match benchmark {
        ScienceQa => (2_017, 1.5, 2.2),
        TextVqa => (5_000, 1.0, 1.4),
        ChartQa => (2_500, 1.5, 2.2),
        MmBench => (1_164, 1.8, 2.6),
        MathVista => (1_000, 2.8, 4.0),
        BenchmarkName::MmStar => (1_500, 2.3, 3.2),
        BenchmarkName::Pope => (9_000, 0.7, 1.0),
        MmVet => (218, 4.7, 6.7),
        LlavaBench => (60, 5.2, 7.3),
        _ => return None,
    };
    Some(Expected { questions, half_width, detectable })
}

/// The published scores of a benchmark for one model.
pub(super) fn scores(comparison: &Comparison, benchmark: BenchmarkName) -> Option<(f64, f64)> {
    comparison.scores.iter().find(|(name, ..)| *name == benchmark).map(|(_, base, stic)| (*base, *stic))
}
