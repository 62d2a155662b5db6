//! Batched matrix-vector products beside a plain read of the same weights.

use std::hint::black_box;

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, Throughput};
use rayon::prelude::*;
use stic_trainer::kernels::linear::linear_batch_invariant;

use crate::{tensor, values};

/// More weights than any cache holds, so that each layer is read from memory, as when decoding.
const WEIGHTS: usize = 128 << 20;

pub(crate) fn bench(criterion: &mut Criterion) {
    read(criterion);
    for (outputs, width) in [(512, 512), (1792, 512), (512, 1792), (32064, 512)] {
        let layers: Vec<Tensor> =
            (0..WEIGHTS / (outputs * width)).map(|layer| tensor((outputs, width), layer)).collect();
        let mut group = criterion.benchmark_group(format!("gemv/{outputs}x{width}"));
        group.throughput(Throughput::Bytes((outputs * width * size_of::<f32>()) as u64));
        for rows in [1, 2, 4, 8, 16, 32] {
            let xs = tensor((rows, width), 1);
            let mut weights = layers.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(format!("{rows} rows")), |bencher| {
                bencher.iter(|| linear_batch_invariant(&xs, weights.next().unwrap(), None).unwrap());
            });
        }
        group.finish();
    }
}

fn read(criterion: &mut Criterion) {
    let weights = values(WEIGHTS, 0);
    let mut group = criterion.benchmark_group("memory");
    group.throughput(Throughput::Bytes((WEIGHTS * size_of::<f32>()) as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let parts = weights.par_chunks(WEIGHTS.div_ceil(rayon::current_num_threads()));
            // One value of each cache line.
            let sum: f32 = parts.map(|part| part.iter().step_by(16).sum::<f32>()).sum();
            black_box(sum)
        });
    });
    group.finish();
}
