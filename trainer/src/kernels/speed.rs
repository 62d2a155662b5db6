//! How fast kernels are beside what bounds them:
//! `cargo test -p stic-trainer --release --lib kernels::speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use super::rows::add_rows;
use super::testing::numbers;

/// So many bytes of weights are walked over that none is in a cache when its turn comes again.
const WALK: usize = 512 << 20;

/// Seconds of the fastest of three runs.
fn best(mut run: impl FnMut()) -> f64 {
    let mut seconds = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| seconds()).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "it measures"]
fn rows_beside_a_plain_read() {
    use rayon::prelude::*;

    let weights: Vec<f32> = (0..WALK / 4).map(|i| (i % 251) as f32 * 1e-3).collect();
    let plain = best(|| {
        let sum: f32 = weights.par_chunks(1 << 20).map(|part| super::lanes::max(part)).sum();
        black_box(sum);
    });
    println!("plain read: {:.1} GB/s", WALK as f64 / plain / 1e9);
    for (out, width) in [(512, 512), (1792, 512), (512, 1792), (32064, 512)] {
        for rows in [1, 2, 4, 8, 16, 32] {
            let xs = numbers(rows * width, 2);
            let mut to = vec![0.0; rows * out];
            let copies = weights.chunks_exact(out * width);
            let bytes = copies.len() * out * width * 4;
            let seconds =
                best(|| copies.clone().for_each(|weight| add_rows(&mut to, 1.0, &xs, weight, width)));
            let flops = 2.0 * rows as f64 * bytes as f64 / 4.0;
            println!(
                "{out}x{width}, {rows} rows: {:.1} GB/s, {:.0} GFLOP/s, {:.0}% of a plain read",
                bytes as f64 / seconds / 1e9,
                flops / seconds / 1e9,
                100.0 * plain * bytes as f64 / WALK as f64 / seconds
            );
        }
    }
}
