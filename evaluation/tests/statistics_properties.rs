//! What holds for every score and difference, and the cases at the edges.

use proptest::collection::vec;
use proptest::prelude::*;
use stic_contract::evaluation::BenchmarkName;
use stic_evaluation::metric::{Aggregate, Metric, Unit, in_group};
use stic_evaluation::statistics::{
    Estimate, Expectation, Method, Spread, difference, overall, score, smallest_detectable_difference,
};

fn metric(aggregate: Aggregate, units: impl IntoIterator<Item = (u8, Option<Vec<f64>>)>) -> Metric {
    let units = units.into_iter().enumerate().map(|(place, (cluster, sums))| Unit {
        id: format!("question {place}"),
        cluster: format!("image {cluster}"),
        sums,
        unresolved: false,
    });
    Metric { name: "score".into(), aggregate, units: units.collect() }
}

/// `right` right answers, then wrong ones, each about another image.
fn accuracy(right: usize, questions: usize) -> Metric {
    let mut metric = metric(
        Aggregate::Percentage,
        (0..questions).map(|place| (0, Some(vec![f64::from(u8::from(place < right)), 1.0]))),
    );
    for unit in &mut metric.units {
        unit.cluster.clone_from(&unit.id);
    }
    metric
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-7
}

fn same(a: &Estimate, b: &Estimate) -> bool {
    close(a.points, b.points)
        && close(a.low, b.low)
        && close(a.high, b.high)
        && a.method == b.method
        && a.few == b.few
}

const ALL: [Aggregate; 5] = [
    Aggregate::Percentage,
    Aggregate::F1,
    Aggregate::RatioOfMeans,
    Aggregate::MeanOfPercentages,
    Aggregate::MeanOfF1,
];

/// Sums of one unit, as scorers make them.
fn sums(aggregate: Aggregate) -> BoxedStrategy<Vec<f64>> {
    match aggregate {
        Aggregate::Percentage => prop_oneof![
            prop::sample::select(vec![0.0, 0.3, 0.6, 0.9, 1.0]).prop_map(|value| vec![value, 1.0]),
            (0..4_u8, 0..4_u8).prop_map(|(part, rest)| vec![f64::from(part), f64::from(part + rest)]),
        ]
        .boxed(),
        Aggregate::F1 => {
            prop::sample::select(vec![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
                .prop_map(Vec::from)
                .boxed()
        }
        Aggregate::MeanOfPercentages => (0..3_usize, prop::bool::ANY)
            .prop_map(|(group, right)| in_group(&[f64::from(u8::from(right)), 1.0], group, 3))
            .boxed(),
        Aggregate::MeanOfF1 => (0..3_usize, 0..3_usize)
            .prop_map(|(group, outcome)| {
                let mut own = [0.0; 3];
                own[outcome] = 1.0;
                in_group(&own, group, 3)
            })
            .boxed(),
        Aggregate::RatioOfMeans => {
            (2..21_u8, 2..21_u8).prop_map(|(a, b)| vec![f64::from(a) / 2.0, f64::from(b) / 2.0, 1.0]).boxed()
        }
    }
}

/// Two models; every tenth unit of each lacks sums.
fn models() -> impl Strategy<Value = (Metric, Metric)> {
    prop::sample::select(ALL.to_vec()).prop_flat_map(|aggregate| {
        let side = || prop::option::weighted(0.9, sums(aggregate));
        vec((0..12_u8, side(), side()), 1..40).prop_map(move |units| {
            let model = units.iter().map(|(cluster, model, _)| (*cluster, model.clone()));
            let baseline = units.iter().map(|(cluster, _, baseline)| (*cluster, baseline.clone()));
            (metric(aggregate, model), metric(aggregate, baseline))
        })
    })
}

proptest! {
    #[test]
    fn swapping_the_models_negates((model, baseline) in models()) {
        let (forward, backward) = (difference(&model, &baseline), difference(&baseline, &model));
        prop_assert_eq!((forward.pairs, forward.left_out, forward.clusters), (backward.pairs, backward.left_out, backward.clusters));
        let negated = backward.estimate.map(|estimate| Estimate {
            points: -estimate.points, low: -estimate.high, high: -estimate.low, ..estimate
        });
        prop_assert_eq!(forward.estimate, negated);
    }

    #[test]
    fn the_order_of_units_is_irrelevant((model, baseline) in models(), turn in 0..40_usize) {
        let (first, single) = (difference(&model, &baseline).estimate, score(&model).estimate);
        let (mut turned, mut other) = (model, baseline);
        turned.units.reverse();
        let turn = turn % other.units.len();
        other.units.rotate_left(turn);
        let (second, moved) = (difference(&turned, &other).estimate, score(&turned).estimate);
        prop_assert_eq!(first.is_some(), second.is_some());
        prop_assert!(first.iter().zip(&second).all(|(a, b)| same(a, b)), "{:?} {:?}", first, second);
        prop_assert!(single.iter().zip(&moved).all(|(a, b)| same(a, b)), "{:?} {:?}", single, moved);
    }

    /// A question that is asked twice about its image adds nothing.
    #[test]
    fn copies_within_a_cluster_change_no_interval((model, baseline) in models()) {
        let twice = |metric: &Metric| {
            let copies = metric.units.iter().map(|unit| Unit { id: format!("{} again", unit.id), ..unit.clone() });
            Metric { units: metric.units.iter().cloned().chain(copies).collect(), ..metric.clone() }
        };
        let (once, again) = (difference(&model, &baseline), difference(&twice(&model), &twice(&baseline)));
        prop_assert_eq!((2 * once.pairs, once.clusters), (again.pairs, again.clusters));
        if let (Some(once), Some(again)) = (once.estimate, again.estimate) {
            prop_assert!(close(once.points, again.points));
            prop_assert!(close(once.standard_error.unwrap_or(-1.0), again.standard_error.unwrap_or(-1.0)));
            if !once.few && once.method != Method::Score {
                prop_assert!(same(&once, &again), "{:?} {:?}", once, again);
            }
        }
    }

    #[test]
    fn an_interval_contains_its_score_and_stays_in_range((model, baseline) in models()) {
        let single = score(&model);
        prop_assert_eq!(single.counted + single.failed, model.units.len());
        if let Some(Estimate { points, low, high, .. }) = single.estimate {
            let top = if model.aggregate == Aggregate::RatioOfMeans { 1000.0 } else { 100.0 };
            prop_assert!((0.0..=points).contains(&low) && (points..=top).contains(&high));
            prop_assert!(low < high);
        }
        let paired = difference(&model, &baseline);
        prop_assert_eq!(paired.pairs + paired.left_out, model.units.len());
        if let Some(Estimate { points, low, high, .. }) = paired.estimate {
            prop_assert!(low <= points && points <= high && low < high);
        }
    }

    #[test]
    fn a_model_does_not_differ_from_itself((model, _) in models()) {
        if let Some(Estimate { points, low, high, few, .. }) = difference(&model, &model).estimate {
            prop_assert!(points == 0.0 && few && high > 0.0 && close(low, -high));
        }
    }

    #[test]
    fn no_sums_panic(units in vec((any::<u8>(), vec(any::<f64>(), 0..4)), 0..20)) {
        for aggregate in ALL {
            let metric = metric(aggregate, units.iter().map(|(cluster, sums)| (*cluster, Some(sums.clone()))));
            let mut other = metric.clone();
            other.units.reverse();
            prop_assert!(score(&metric).estimate.is_none_or(|estimate| estimate.points.is_finite()));
            prop_assert!(difference(&metric, &other).pairs <= units.len());
            let observed = Expectation::observed(&metric, &other);
            prop_assert!(observed.is_none_or(|observed| (0.0..=1.0).contains(&observed.correlation)));
        }
    }

    #[test]
    fn an_average_is_no_less_certain_than_its_parts((model, baseline) in models()) {
        if let Some(estimate) = difference(&model, &baseline).estimate {
            let average = overall(&[estimate; 4]).unwrap();
            prop_assert!(close(average.points, estimate.points));
            prop_assert!(close(average.high - average.points, (estimate.high - estimate.points) / 2.0));
            prop_assert!(close(average.points - average.low, (estimate.points - estimate.low) / 2.0));
        }
    }
}

/// Tango (1998), section 6.1: 44 pairs, one lost, none gained. `vectors/statistics.py` gives
/// `100 * np.array(tango(0, 1, 44, Z))`; at 90% it gives the lower limit of the paper, -0.096.
#[test]
fn tangos_example() {
    let found = difference(&accuracy(43, 44), &accuracy(44, 44)).estimate.unwrap();
    assert!(
        close(found.low, -11.807_709_698_213_287) && close(found.high, 5.939_323_111_662_796),
        "{found:?}"
    );
    assert_eq!((found.method, found.few), (Method::Score, true));
}

/// R's `PropCIs::scoreci.mp(60, 20, 1000)` is 0.0231 to 0.0584, by its sign the second count minus the first.
#[test]
fn the_interval_of_propcis() {
    let answers = |wrong: std::ops::Range<usize>| {
        let mut metric = accuracy(1000, 1000);
        metric.units[wrong].iter_mut().for_each(|unit| unit.sums = Some(vec![0.0, 1.0]));
        metric
    };
    let found = difference(&answers(0..20), &answers(500..560)).estimate.unwrap();
    assert!(close(found.low, 2.306_842_700_874_213) && close(found.high, 5.835_424_584_269_774), "{found:?}");
}

/// `100 * 3.8415 / (3 + 3.8415)`: three equal answers prove little.
#[test]
fn three_questions_without_a_difference_show_next_to_nothing() {
    let found = difference(&accuracy(2, 3), &accuracy(2, 3)).estimate.unwrap();
    assert!(close(found.high, 56.149_703_175_504_53) && close(found.low, -found.high), "{found:?}");
    assert_eq!(found.standard_error, Some(0.0));
    // The same for a ratio, whose method has no such interval of its own.
    let judged = metric(
        Aggregate::RatioOfMeans,
        [(0, Some(vec![6.0, 8.0, 1.0])), (1, Some(vec![6.0, 8.0, 1.0])), (2, Some(vec![6.0, 8.0, 1.0]))],
    );
    let found = difference(&judged, &judged).estimate.unwrap();
    assert!(close(found.high, 56.149_703_175_504_53), "{found:?}");
    let found = score(&judged).estimate.unwrap();
    assert!(close(found.points, 75.0) && close(found.high, 75.0 + 56.149_703_175_504_53), "{found:?}");
}

/// Eight answers that are all worth 0.5 have no variance, but that is chance: an image that changes as a whole is imagined.
/// The effective number is `(s + 1 / 8) / (1 / 64)` with `s = 0.25` both for the score and for the difference from nothing.
#[test]
fn equal_values_are_not_certain() {
    let units =
        |value: f64| metric(Aggregate::Percentage, (0..8).map(|image| (image, Some(vec![value, 1.0]))));
    let found = score(&units(0.5)).estimate.unwrap();
    // `100 * np.array(proportion_confint(12, 24, 2 * norm.sf(t.ppf(0.975, 7)), "wilson"))`
    assert!(close(found.low, 28.265530899787926) && close(found.high, 71.73446910021207), "{found:?}");
    assert_eq!((found.standard_error, found.few), (Some(0.0), true));
    let found = difference(&units(0.5), &units(0.0)).estimate.unwrap();
    // `100 * np.array(tango(12, 0, 24, t.ppf(0.975, 7)))`
    assert!(close(found.low, 21.65677117591559) && close(found.high, 71.73446910021207), "{found:?}");
    assert_eq!((found.standard_error, found.few), (Some(0.0), true));
}

#[test]
fn an_average_of_few_is_marked() {
    let sure = difference(&accuracy(50, 100), &accuracy(40, 100)).estimate.unwrap();
    let few = difference(&accuracy(2, 3), &accuracy(2, 3)).estimate.unwrap();
    assert!(!overall(&[sure, sure]).unwrap().few && overall(&[sure, few]).unwrap().few);
}

#[test]
fn one_image_shows_nothing() {
    let units = |value: f64| metric(Aggregate::Percentage, (0..50).map(|_| (0, Some(vec![value, 1.0]))));
    let found = difference(&units(1.0), &units(0.0)).estimate.unwrap();
    assert_eq!((found.points, found.low, found.high), (100.0, -100.0, 100.0));
    assert_eq!((found.method, found.standard_error), (Method::Range, None));
}

#[test]
fn units_without_sums_are_left_out_and_counted() {
    let model = metric(
        Aggregate::RatioOfMeans,
        [
            (0, Some(vec![6.0, 8.0, 1.0])),
            (1, None),
            (2, Some(vec![f64::NAN, 8.0, 1.0])),
            (3, Some(vec![8.0, 8.0, 1.0])),
        ],
    );
    let mut baseline = metric(
        Aggregate::RatioOfMeans,
        [
            (0, Some(vec![4.0, 8.0, 1.0])),
            (1, Some(vec![9.0, 8.0, 1.0])),
            (2, Some(vec![9.0, 8.0, 1.0])),
            (3, Some(vec![6.0, 8.0, 1.0])),
            (4, Some(vec![9.0, 8.0, 1.0])),
        ],
    );
    baseline.units[0].unresolved = true;
    let found = score(&model);
    assert_eq!((found.counted, found.failed, found.clusters, found.unresolved), (2, 2, 2, 0));
    assert_eq!(found.estimate.map(|estimate| estimate.points), Some(87.5));
    assert_eq!(score(&baseline).unresolved, 1);
    let found = difference(&model, &baseline);
    assert_eq!((found.pairs, found.left_out, found.clusters), (2, 3, 2));
    assert_eq!(found.estimate.map(|estimate| estimate.points), Some(25.0));
}

#[test]
fn nothing_counted_is_no_score() {
    for aggregate in ALL {
        let empty = metric(aggregate, []);
        assert_eq!(score(&empty).estimate, None);
        assert_eq!(difference(&empty, &empty).estimate, None);
        assert_eq!(Expectation::observed(&empty, &empty), None);
    }
    let silent = metric(Aggregate::F1, [(0, Some(vec![0.0; 3])), (1, Some(vec![0.0; 3]))]);
    assert_eq!(score(&silent).estimate, None);
    let other =
        metric(Aggregate::Percentage, [(0, Some(vec![1.0, 1.0, 1.0])), (1, Some(vec![1.0, 1.0, 1.0]))]);
    assert_eq!(difference(&other, &Metric { aggregate: Aggregate::F1, ..other.clone() }).estimate, None);
    assert_eq!(overall(&[]), None);
}

/// Half-widths that were computed by hand as `1.96 * sqrt(p / n)`, to the digit that was printed.
#[test]
fn what_the_papers_benchmarks_can_show() {
    let expected = [
        (BenchmarkName::ScienceQa, 2017, 1.5),
        (BenchmarkName::TextVqa, 5000, 1.0),
        (BenchmarkName::ChartQa, 2500, 1.5),
        (BenchmarkName::MmBench, 4377, 0.9),
        (BenchmarkName::MathVista, 1000, 2.8),
        (BenchmarkName::MmStar, 1500, 2.3),
        (BenchmarkName::Pope, 9000, 0.5),
    ];
    for (benchmark, questions, half) in expected {
        let expectation = Expectation::assumed(benchmark).unwrap();
        let found = smallest_detectable_difference(questions, questions, expectation).unwrap();
        assert!((found.half_width - half).abs() < 0.05, "{benchmark}: {found:?}");
    }
    assert_eq!(Expectation::assumed(BenchmarkName::Scenes), None);
}

/// ```python
/// q, z = t.ppf(0.975, g - 1), norm.ppf(0.8); k = (1 + (n / g - 1) * r) / n
/// 100 * q * sqrt(p * k), 100 * brentq(lambda d: q * sqrt(p * k) + z * sqrt((p - d * d) * k) - d, 0, sqrt(p))
/// ```
#[test]
fn detectable_differences_are_those_of_python() {
    let cases = [
        (200, 200, 0.06, 0.0, 3.415_528_924_961_982, Some(4.844_465_901_989_874)),
        (2017, 2017, 0.12, 0.0, 1.512_678_318_021_302, Some(2.160_578_332_898_673)),
        (9000, 500, 0.06, 0.05, 0.689_990_286_049_984, Some(0.985_318_725_538_509)),
        (1000, 400, 0.2, 0.3, 3.347_853_548_955_756, Some(4.772_897_051_878_93)),
        (60, 20, 0.5, 1.0, 33.093_616_047_252_2, Some(43.573_933_509_516_57)),
        // Even 6% that all go one way are not enough.
        (20, 20, 0.06, 0.0, 11.463_964_880_003_51, None),
    ];
    for (questions, clusters, share, correlation, half, detectable) in cases {
        let expectation = Expectation { spread: Spread::Discordant(share), correlation };
        let found = smallest_detectable_difference(questions, clusters, expectation).unwrap();
        assert!(close(found.half_width, half), "{questions}: {found:?}");
        assert!(
            close(found.difference.unwrap_or(-1.0), detectable.unwrap_or(-1.0)),
            "{questions}: {found:?}"
        );
    }
    let expectation = Expectation { spread: Spread::Deviation(20.0), correlation: 0.0 };
    let found = smallest_detectable_difference(60, 60, expectation).unwrap();
    // `20 * t.ppf(0.975, 59) / sqrt(60)`, and with `+ norm.ppf(0.8)`
    assert!(
        close(found.half_width, 5.166_547_850_115_914)
            && close(found.difference.unwrap(), 7.339_604_531_077_541),
        "{found:?}"
    );
    assert_eq!(smallest_detectable_difference(5, 1, expectation), None);
    assert_eq!(smallest_detectable_difference(0, 0, expectation), None);
    assert_eq!(smallest_detectable_difference(1, 2, expectation), None);
}

/// 8 of 40 answers differ, in pairs about one image: each image counts as one question.
#[test]
fn what_was_observed_predicts_the_same_data() {
    let answers = |wrong: usize| {
        metric(
            Aggregate::Percentage,
            (0..40_u8).map(|place| {
                (place / 2, Some(vec![f64::from(u8::from(usize::from(place) / 2 % 10 != wrong)), 1.0]))
            }),
        )
    };
    let (model, baseline) = (answers(0), answers(1));
    let observed = Expectation::observed(&model, &baseline).unwrap();
    assert_eq!(observed.spread, Spread::Discordant(0.2));
    assert!(close(observed.correlation, 1.0), "{observed:?}");
    let expected = smallest_detectable_difference(40, 20, observed).unwrap();
    let error = difference(&model, &baseline).estimate.unwrap().standard_error.unwrap();
    // The robust variance divides by 19 clusters, not 20.
    assert!(
        close(expected.half_width, 2.093_024_054_408_31 * error * (19.0_f64 / 20.0).sqrt()),
        "{expected:?} {error}"
    );
    assert_eq!(Expectation::observed(&model, &model), None);
}

/// 10,000 units take milliseconds; the limit allows for a slow machine and no optimization.
#[test]
fn ten_thousand_units_take_well_under_a_second() {
    let units = |offset: u32| {
        metric(
            Aggregate::Percentage,
            (0..10_000_u32).map(|place| {
                (
                    (place % 251) as u8,
                    Some(vec![f64::from((place + offset).wrapping_mul(2_654_435_761) >> 31), 1.0]),
                )
            }),
        )
    };
    let (model, baseline) = (units(0), units(1));
    let start = std::time::Instant::now();
    let found = difference(&model, &baseline);
    assert_eq!((found.pairs, found.clusters), (10_000, 251));
    assert!(start.elapsed().as_secs_f64() < 0.9, "{:?}", start.elapsed());
}
