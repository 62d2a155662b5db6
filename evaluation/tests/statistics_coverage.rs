//! How often 95% intervals contain the truth, over synthetic benchmarks whose truth is known.
//!
//! `docs/evaluation-statistics.md` has the table that
//! `COVERAGE_RUNS=50000 cargo test --release -p stic-evaluation --test statistics_coverage -- --ignored --nocapture` prints.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod synthetic;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use stic_evaluation::statistics::{
    Estimate, Expectation, Spread, difference, overall, score, smallest_detectable_difference,
};

use self::synthetic::{Benchmark, Sizes};

/// At 2,000 benchmarks the standard error of a coverage is half a percent, so that true 95% can be measured outside of 94
/// to 96. With this seed no case is; the documentation's table has 50,000.
const SEED: u64 = 7;

/// How many of the intervals miss the truth, on either side.
#[derive(Debug, Default, Clone, Copy)]
struct Misses {
    runs: usize,
    below: usize,
    above: usize,
    few: usize,
}

impl Misses {
    fn count(&mut self, estimate: Estimate, truth: f64) {
        assert!(estimate.low <= estimate.points && estimate.points <= estimate.high, "{estimate:?}");
        self.runs += 1;
        self.below += usize::from(truth < estimate.low - 1e-9);
        self.above += usize::from(truth > estimate.high + 1e-9);
        self.few += usize::from(estimate.few);
    }

    fn percent(&self, count: usize) -> f64 {
        100.0 * count as f64 / self.runs as f64
    }

    fn coverage(&self) -> f64 {
        100.0 - self.percent(self.below + self.above)
    }
}

/// The misses of differences and of the scores of the model.
fn misses(benchmark: &Benchmark, runs: usize) -> (Misses, Misses) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let [model, baseline] = benchmark.truth();
    let (mut differences, mut scores) = (Misses::default(), Misses::default());
    let mut drawn = benchmark.metrics();
    for _ in 0..runs {
        benchmark.draw(&mut drawn, &mut random);
        differences.count(difference(&drawn[0], &drawn[1]).estimate.unwrap(), model - baseline);
        scores.count(score(&drawn[0]).estimate.unwrap(), model);
    }
    (differences, scores)
}

/// For every test: cases of each kind whose intervals take little time.
#[test]
fn intervals_contain_the_truth_in_95_percent() {
    let benchmarks = [
        Benchmark::binary("6% discordant, no difference", 200, Sizes::One, 0.06, 0.0, 0.0),
        Benchmark::binary("6% discordant, 3 points", 200, Sizes::One, 0.06, 0.03, 0.0),
        Benchmark::partial("partly right", 200, 0.12),
        Benchmark::judged("ratio of means", 60),
        Benchmark::binary("40 images", 40, Sizes::Equal(4), 0.2, 0.06, 0.1),
        Benchmark::binary("20 images", 20, Sizes::Equal(6), 0.2, 0.06, 0.1),
        Benchmark::binary("skewed images", 40, Sizes::Skewed, 0.2, 0.06, 0.1),
        Benchmark::f1("F1", 40, 4),
        Benchmark::objects("CHAIRi", 60, 0.15),
        Benchmark::objects("CHAIRi of few", 20, 0.15),
    ];
    for benchmark in benchmarks {
        let (difference, score) = misses(&benchmark, 2000);
        let name = benchmark.name;
        assert!((94.0..=96.0).contains(&difference.coverage()), "{name}: {difference:?}");
        // The standard error of a measured coverage is half a percent.
        assert!((93.5..=96.5).contains(&score.coverage()), "{name}: score {score:?}");
    }
}

/// Few differing images say little. Then intervals are too wide rather than too narrow, and say that they are.
#[test]
fn few_differing_clusters_are_marked_and_miss_less() {
    let benchmark = Benchmark::binary("few", 20, Sizes::Skewed, 0.06, 0.03, 0.1);
    let (difference, _) = misses(&benchmark, 2000);
    assert!(difference.coverage() > 95.0 && difference.percent(difference.few) > 50.0, "{difference:?}");
}

/// The misses of an average over four benchmarks.
fn average_misses(runs: usize) -> Misses {
    let benchmarks = [
        Benchmark::binary("binary", 100, Sizes::One, 0.12, 0.03, 0.0),
        Benchmark::judged("judged", 60),
        Benchmark::objects("objects", 60, 0.15),
        Benchmark::graded("graded", 100),
    ];
    let truths = benchmarks.each_ref().map(Benchmark::truth);
    let truth = truths.iter().map(|[model, baseline]| model - baseline).sum::<f64>() / truths.len() as f64;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut found = Misses::default();
    let mut drawn = benchmarks.each_ref().map(Benchmark::metrics);
    for _ in 0..runs {
        let estimates = [0, 1, 2, 3].map(|place| {
            benchmarks[place].draw(&mut drawn[place], &mut random);
            difference(&drawn[place][0], &drawn[place][1]).estimate.unwrap()
        });
        found.count(overall(&estimates).unwrap(), truth);
    }
    found
}

#[test]
fn an_average_over_benchmarks_contains_the_truth_in_95_percent() {
    let found = average_misses(2000);
    assert!((94.0..=96.0).contains(&found.coverage()), "{found:?}");
}

/// A true difference of the size that is promised is told from none in 80% of the benchmarks.
#[test]
fn the_smallest_detectable_difference_is_found_in_80_percent() {
    let (questions, share) = (200, 0.12);
    let expectation = Expectation { spread: Spread::Discordant(share), correlation: 0.0 };
    let detectable = smallest_detectable_difference(questions, questions, expectation).unwrap();
    let points = detectable.difference.unwrap();
    let benchmark = Benchmark::binary("power", questions, Sizes::One, share, points / 100.0, 0.0);
    let [model, baseline] = benchmark.truth();
    assert!((model - baseline - points).abs() < 0.2 * points, "the population is {model} {baseline}");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut drawn = benchmark.metrics();
    let draws = (0..1000).filter(|_| {
        benchmark.draw(&mut drawn, &mut random);
        difference(&drawn[0], &drawn[1]).estimate.unwrap().low > 0.0
    });
    let found = draws.count() as f64 / 1000.0;
    assert!((0.74..0.86).contains(&found), "{found}");
}

/// The benchmarks of the table, with how many clusters each has.
fn table() -> Vec<Benchmark> {
    vec![
        Benchmark::binary("200 questions, 6% discordant, no difference", 200, Sizes::One, 0.06, 0.0, 0.0),
        Benchmark::binary("200 questions, 6% discordant, 3 points", 200, Sizes::One, 0.06, 0.03, 0.0),
        Benchmark::binary("200 questions, 6% discordant, all one way", 200, Sizes::One, 0.06, 0.06, 0.0),
        Benchmark::binary("1,000 questions, 20% discordant (MathVista)", 1000, Sizes::One, 0.2, 0.02, 0.0),
        Benchmark::binary("2,017 questions, 12% discordant (ScienceQA)", 2017, Sizes::One, 0.12, 0.027, 0.0),
        Benchmark::partial("500 questions, partly right (TextVQA)", 500, 0.12),
        Benchmark::graded("218 questions, graded (MM-Vet)", 218),
        Benchmark::judged("60 questions, ratio of means (LLaVA-Bench)", 60),
        Benchmark::binary("60 images of 5 questions, 20% discordant", 60, Sizes::Equal(5), 0.2, 0.06, 0.1),
        Benchmark::binary("60 images of 5 questions, 6% discordant", 60, Sizes::Equal(5), 0.06, 0.03, 0.1),
        Benchmark::binary("60 images of 1 to 20 questions", 60, Sizes::Skewed, 0.2, 0.06, 0.1),
        Benchmark::binary("60 images of 1 to 20, 6% discordant", 60, Sizes::Skewed, 0.06, 0.03, 0.1),
        Benchmark::binary("20 images of 18 questions, 20% discordant", 20, Sizes::Equal(18), 0.2, 0.06, 0.1),
        Benchmark::binary("20 images of 5 questions, 20% discordant", 20, Sizes::Equal(5), 0.2, 0.06, 0.1),
        Benchmark::binary("20 images of 1 to 20 questions", 20, Sizes::Skewed, 0.2, 0.06, 0.1),
        Benchmark::f1("F1, 60 images of 6 questions", 60, 6),
        Benchmark::f1("F1, 20 images of 6 questions", 20, 6),
        Benchmark::objects("CHAIRi, 300 descriptions", 300, 0.15),
        Benchmark::objects("CHAIRi, 60 descriptions", 60, 0.15),
        Benchmark::objects("CHAIRi, 20 descriptions", 20, 0.15),
        Benchmark::binary("20 images of 5 questions, 6% discordant", 20, Sizes::Equal(5), 0.06, 0.03, 0.1),
        Benchmark::binary("20 images of 1 to 20, 6% discordant", 20, Sizes::Skewed, 0.06, 0.03, 0.1),
        Benchmark::binary("60 images of 1 to 20, correlation 0.4", 60, Sizes::Skewed, 0.2, 0.0, 0.4),
        Benchmark::binary("500 images of 18 questions (POPE)", 500, Sizes::Equal(18), 0.06, 0.01, 0.1),
    ]
}

#[test]
#[ignore = "prints the table of the documentation; takes minutes"]
fn coverage_table() {
    let runs = std::env::var("COVERAGE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(2000);
    println!("| benchmark | difference | truth below, above | few | score |\n|---|---|---|---|---|");
    let row = |name: &str, difference: Misses, score: Option<Misses>| {
        println!(
            "| {name} | {:.1} | {:.1}, {:.1} | {:.0} | {} |",
            difference.coverage(),
            difference.percent(difference.below),
            difference.percent(difference.above),
            difference.percent(difference.few),
            score.map(|score| format!("{:.1}", score.coverage())).unwrap_or_default(),
        );
    };
    for benchmark in table() {
        let runs = if benchmark.is_large() { runs / 5 } else { runs };
        let (difference, score) = misses(&benchmark, runs);
        row(benchmark.name, difference, Some(score));
    }
    row("average of four benchmarks of 60 to 100 units", average_misses(runs), None);
}
