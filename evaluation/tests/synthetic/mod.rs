//! Synthetic benchmarks: a population of images with the answers of two models, of which a benchmark draws some.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Beta, Distribution, Gamma, Normal, Poisson};
use stic_evaluation::metric::{Aggregate, Metric, Unit};

/// The sums of both models on one unit.
type Answers = [Vec<f64>; 2];

/// A population, and how many of its clusters a benchmark draws.
pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    aggregate: Aggregate,
    population: Vec<Vec<Answers>>,
    clusters: usize,
    names: Vec<String>,
}

/// The number of questions about an image.
#[derive(Clone, Copy)]
pub(crate) enum Sizes {
    One,
    Equal(usize),
    /// From 1 to 20; the largest tenth of the images has 40% of the questions.
    Skewed,
}

const SKEWED: [usize; 10] = [1, 1, 1, 2, 2, 3, 4, 6, 10, 20];
const POPULATION: usize = 20_000;

fn beta(mean: f64, correlation: f64, random: &mut ChaCha8Rng) -> f64 {
    if correlation == 0.0 || mean >= 1.0 {
        return mean;
    }
    let size = 1.0 / correlation - 1.0;
    Beta::new(mean * size, (1.0 - mean) * size).unwrap().sample(random)
}

fn normal(deviation: f64, random: &mut ChaCha8Rng) -> f64 {
    Normal::new(0.0, deviation).unwrap().sample(random)
}

impl Benchmark {
    fn new(
        name: &'static str,
        aggregate: Aggregate,
        clusters: usize,
        mut cluster: impl FnMut(usize, &mut ChaCha8Rng) -> Vec<Answers>,
    ) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let population = (0..POPULATION).map(|place| cluster(place, &mut random)).collect();
        let names = (0..clusters).map(|place| place.to_string()).collect();
        Self { name, aggregate, population, clusters, names }
    }

    /// Right or wrong answers. `discordant` of them differ between the models, by which the first is `difference` better;
    /// both vary between images as much as `correlation` says.
    pub(crate) fn binary(
        name: &'static str,
        clusters: usize,
        sizes: Sizes,
        discordant: f64,
        difference: f64,
        correlation: f64,
    ) -> Self {
        let better = 0.5 + 0.5 * difference / discordant;
        Self::new(name, Aggregate::Percentage, clusters, |place, random| {
            let size = match sizes {
                Sizes::One => 1,
                Sizes::Equal(size) => size,
                Sizes::Skewed => SKEWED[place % SKEWED.len()],
            };
            let discordant = beta(discordant, correlation, random);
            let better = beta(better, correlation, random);
            let right = beta(0.65, correlation, random);
            let mut answers = |_| {
                let (a, b) = match (
                    random.random_bool(discordant),
                    random.random_bool(better),
                    random.random_bool(right),
                ) {
                    (true, true, _) => (1.0, 0.0),
                    (true, false, _) => (0.0, 1.0),
                    (false, _, true) => (1.0, 1.0),
                    (false, _, false) => (0.0, 0.0),
                };
                [vec![a, 1.0], vec![b, 1.0]]
            };
            (0..size).map(&mut answers).collect()
        })
    }

    /// VQA accuracies.
    pub(crate) fn partial(name: &'static str, clusters: usize, differing: f64) -> Self {
        const VALUES: [f64; 5] = [0.0, 0.3, 0.6, 0.9, 1.0];
        Self::new(name, Aggregate::Percentage, clusters, |_, random| {
            let value = |random: &mut ChaCha8Rng| VALUES[random.random_range(0..5)];
            let (first, second) = (value(random), value(random));
            let (a, b) = if !random.random_bool(differing) {
                (first, first)
            } else if random.random_bool(0.7) {
                (first.max(second), first.min(second))
            } else {
                (first.min(second), first.max(second))
            };
            vec![[vec![a, 1.0], vec![b, 1.0]]]
        })
    }

    /// Grades in tenths, many of them 0 or 1.
    pub(crate) fn graded(name: &'static str, clusters: usize) -> Self {
        Self::new(name, Aggregate::Percentage, clusters, |_, random| {
            let ability = beta(0.4, 0.45, random).clamp(0.001, 0.999);
            let mut grade = |ability: f64| (10.0 * beta(ability, 0.25, random)).round() / 10.0;
            vec![[vec![grade(0.97 * ability + 0.03), 1.0], vec![grade(ability), 1.0]]]
        })
    }

    /// A judge's scores of the model and of the reference.
    pub(crate) fn judged(name: &'static str, clusters: usize) -> Self {
        Self::new(name, Aggregate::RatioOfMeans, clusters, |_, random| {
            let hard = normal(1.0, random);
            let mut judge = |mean: f64, effect: f64, deviation: f64| {
                (2.0 * (mean - effect * hard + normal(deviation, random))).round().clamp(2.0, 20.0) / 2.0
            };
            let mut review = |mean: f64| vec![judge(mean, 1.5, 1.8), judge(8.5, 0.3, 0.7), 1.0];
            vec![[review(6.5), review(6.0)]]
        })
    }

    /// Yes-or-no questions, half of each.
    pub(crate) fn f1(name: &'static str, clusters: usize, size: usize) -> Self {
        Self::new(name, Aggregate::F1, clusters, |_, random| {
            let image = 2.5 + normal(0.8, random);
            let models = [normal(0.5, random) + 0.2, normal(0.5, random)];
            let mut question = |place: usize| {
                let easy = image + normal(1.0, random);
                models.map(|model| {
                    let right = random.random_bool(1.0 / (1.0 + (-easy - model).exp()));
                    match (place.is_multiple_of(2), right) {
                        (true, true) => vec![1.0, 0.0, 0.0],
                        (true, false) => vec![0.0, 0.0, 1.0],
                        (false, true) => vec![0.0, 0.0, 0.0],
                        (false, false) => vec![0.0, 1.0, 0.0],
                    }
                })
            };
            (0..size).map(&mut question).collect()
        })
    }

    /// Hallucinated and mentioned objects of descriptions.
    pub(crate) fn objects(name: &'static str, clusters: usize, hallucinated: f64) -> Self {
        Self::new(name, Aggregate::Percentage, clusters, |_, random| {
            let mentions = Gamma::new(3.0, 2.0).unwrap().sample(random) + 0.5;
            let share = beta(hallucinated, 0.11, random);
            let mut description = |factor: f64| {
                let mentioned = Poisson::<f64>::new(mentions).unwrap().sample(random) as usize + 1;
                let wrong = (0..mentioned).filter(|_| random.random_bool(share * factor)).count();
                vec![wrong as f64, mentioned as f64]
            };
            vec![[description(0.7), description(1.0)]]
        })
    }

    /// The scores of both models on the whole population.
    pub(crate) fn truth(&self) -> [f64; 2] {
        [0, 1].map(|model| {
            let mut sums = [0.0; 3];
            for answers in self.population.iter().flatten() {
                sums.iter_mut().zip(&answers[model]).for_each(|(sum, own)| *sum += own);
            }
            100.0
                * match self.aggregate {
                    Aggregate::Percentage | Aggregate::RatioOfMeans => sums[0] / sums[1],
                    Aggregate::F1 => 2.0 * sums[0] / (2.0 * sums[0] + sums[1] + sums[2]),
                    grouped => unreachable!("{grouped:?}: no population here has groups"),
                }
        })
    }

    /// Whether a run takes long.
    pub(crate) fn is_large(&self) -> bool {
        self.clusters * self.population.iter().map(Vec::len).sum::<usize>() > 2500 * POPULATION
    }

    /// Metrics of both models, to draw into.
    pub(crate) fn metrics(&self) -> [Metric; 2] {
        let metric = || Metric { name: self.name.to_owned(), aggregate: self.aggregate, units: Vec::new() };
        [metric(), metric()]
    }

    /// Draws a benchmark of random images. It writes over the units of the last one, which is most of the time that such a
    /// test takes.
    pub(crate) fn draw(&self, metrics: &mut [Metric; 2], random: &mut ChaCha8Rng) {
        let mut units = 0;
        for place in 0..self.clusters {
            let cluster = &self.population[random.random_range(0..self.population.len())];
            for answers in cluster {
                for (metric, sums) in metrics.iter_mut().zip(answers) {
                    match metric.units.get_mut(units) {
                        Some(unit) => {
                            unit.cluster.clone_from(&self.names[place]);
                            unit.sums.as_mut().unwrap().copy_from_slice(sums);
                        }
                        None => metric.units.push(Unit {
                            id: units.to_string(),
                            cluster: self.names[place].clone(),
                            sums: Some(sums.clone()),
                            unresolved: false,
                        }),
                    }
                }
                units += 1;
            }
        }
        metrics.iter_mut().for_each(|metric| metric.units.truncate(units));
    }
}
