//! Benchmarks of the kernels and the sampler:
//!
//! ```text
//! cargo bench -p stic-trainer --bench kernels                        # everything
//! cargo bench -p stic-trainer --bench kernels -- gemv                # those with "gemv" in their name
//! cargo bench -p stic-trainer --bench kernels -- --save-baseline old # to compare with later: --baseline old
//! ```
//!
//! Throughput is in elements per second, which are FLOPs for products of matrices, or in bytes of weights or
//! keys and values that are read. Compare the latter with `memory/read`. Read the lower bound of each
//! interval: other programs on the machine only make it slower.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where its inputs are wrong")]

mod attention;
mod elementwise;
mod gemv;
mod sampling;

use candle_core::{Device, Shape, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

/// `len` deterministic values in [-1, 1].
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed * 7919) as f32 * 0.618).sin()).collect()
}

fn tensor(shape: impl Into<Shape>, seed: usize) -> Tensor {
    let shape = shape.into();
    Tensor::from_vec(values(shape.elem_count(), seed), shape, &Device::Cpu).unwrap()
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20);
    targets = gemv::bench, attention::bench, elementwise::bench, sampling::bench
}
criterion_main!(kernels);
