//! One token from the logits of Llama's vocabulary.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Distribution};
use criterion::Criterion;
use stic_contract::recipe::Sampling;
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::algorithm::sampling::Sampler;

const VOCABULARY: usize = 32_064;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut draw = Draw::new(1, "logits", "benchmark");
    let logits: Vec<f32> = (0..VOCABULARY).map(|_| draw.normal() as f32 * 3.0).collect();
    let mut group = criterion.benchmark_group("sampling");
    for (name, temperature, top_p, top_k) in [
        ("greedy", 0.0, 1.0, 0),
        ("temperature 0.2", 0.2, 1.0, 0),
        ("temperature 1", 1.0, 1.0, 0),
        ("temperature 1, top-p 0.9", 1.0, 0.9, 0),
        ("temperature 1, top-k 50", 1.0, 1.0, 50),
    ] {
        let sampling = Sampling { temperature, top_p, top_k, max_new_tokens: 1 };
        let mut sampler = Sampler::new(sampling, Draw::new(1, "item", "sampling"));
        group.bench_function(name, |bencher| bencher.iter(|| sampler.next_token(&logits).unwrap()));
    }
    let tensor = Tensor::new(logits, &Device::Cpu).unwrap();
    for (name, distribution) in [
        ("candle's argmax", Distribution::ArgMax),
        ("candle's temperature 1", Distribution::All { temperature: 1.0 }),
        ("candle's temperature 1, top-p 0.9", Distribution::TopP { p: 0.9, temperature: 1.0 }),
        ("candle's temperature 1, top-k 50", Distribution::TopK { k: 50, temperature: 1.0 }),
    ] {
        let mut processor = LogitsProcessor::from_sampling(1, distribution);
        group.bench_function(name, |bencher| bencher.iter(|| processor.sample(&tensor).unwrap()));
    }
    group.finish();
}
