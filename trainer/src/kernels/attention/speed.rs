//! How fast, printed: `cargo test --release -p stic-trainer --lib attention::speed -- --ignored --nocapture`.

use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};

use super::*;

const HEADS: Heads = Heads { queries: 8, keys: 2, dim: 64 };

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

fn best(what: &str, work: f64, unit: &str, mut run: impl FnMut()) {
    let seconds = (0..7)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min);
    println!("{what:40} {:8.2} ms {:8.1} {unit}", seconds * 1e3, work / seconds);
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.618).sin()).collect()
}

#[test]
#[ignore = "prints how fast the kernels are"]
fn of_a_pass_and_of_decoding() {
    println!("vectors of {} numbers", Arch::new().dispatch(Lanes));
    let tokens = 2400;
    let (q, k) = (values(tokens * HEADS.queries * HEADS.dim), values(tokens * HEADS.keys * HEADS.dim));
    let spans =
        [Span { start: 0, len: tokens, position: 0, context: 0..0, context_position: 0, first_key: 0 }];
    let pairs = (tokens * tokens / 2 * HEADS.queries * HEADS.dim) as f64 * 2.0 / 1e9;
    let tasks = forward::tasks(&spans, None);
    let attended = forward::attend(HEADS, (&q, &k, &k), &tasks, true);
    best("forward, 2,400 tokens", 2.0 * pairs, "GFLOP/s", || {
        forward::attend(HEADS, (&q, &k, &k), &tasks, false);
    });
    let log_sums = attended.log_sums.expect("asked for");
    best("backward, 2,400 tokens", 5.0 * pairs, "GFLOP/s", || {
        backward::slopes(HEADS, (&q, &k, &k), &spans, None, (&attended.out, &log_sums, &q));
    });
    for (images, each) in [(1, 1), (8, 2), (16, 2), (16, 1)] {
        // Of many layers, so that none is in the processor's cache.
        let layers: Vec<(Vec<Panels>, Vec<Panels>)> = (0..8)
            .map(|_| {
                let filled = |tokens: usize| {
                    let mut panels = Panels::new(HEADS.keys, HEADS.dim, tokens);
                    let rows = values(tokens * HEADS.keys * HEADS.dim);
                    panels.push(&rows, &rows).expect("room");
                    panels
                };
                (
                    (0..images).map(|_| filled(tokens)).collect(),
                    (0..images * each).map(|_| filled(200)).collect(),
                )
            })
            .collect();
        let queries = values(images * each * HEADS.queries * HEADS.dim);
        let bytes = ((images * tokens + images * each * 200) * HEADS.keys * HEADS.dim * 2 * 4 * 8) as f64;
        best(&format!("decode, 8 layers, {images} images x {each}"), bytes / 1e9, "GB/s", || {
            for (shared, own) in &layers {
                let rows: Vec<Row<'_>> = own
                    .iter()
                    .enumerate()
                    .map(|(i, own)| Row { shared: Some(&shared[i / each]), own })
                    .collect();
                decode(HEADS, &queries, &rows, None);
            }
        });
    }
    let layers: Vec<Vec<f32>> = (0..8).map(|_| values(8 << 20)).collect();
    best("a plain read of 256 MB", 8.0 * 32.0 * 1.048_576e6 / 1e9, "GB/s", || {
        let sum: f32 = layers.par_iter().map(|l| l.chunks(16).map(|c| c[0]).sum::<f32>()).sum();
        assert!(sum.is_finite());
    });
}
