//! How fast kernels are beside what bounds them:
//! `cargo test -p stic-trainer --release --lib kernels::speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use super::rows::add_rows;
use super::testing::numbers;

/// So many bytes of weights are walked over that none is in a cache when its turn comes again.
const WALK: usize = 512 << 20;

/// Of the seconds that `call` takes with each of `copies`, those that a tenth stay below: other programs on the machine
/// lengthen the rest.
fn seconds<'a>(copies: impl Iterator<Item = &'a [f32]>, mut call: impl FnMut(&'a [f32])) -> f64 {
    let mut all: Vec<f64> = copies
        .map(|weight| {
            let start = Instant::now();
            call(weight);
            start.elapsed().as_secs_f64()
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 10]
}

#[test]
#[ignore = "it measures"]
fn rows_beside_a_plain_read() {
    let weights: Vec<f32> = (0..WALK / 4).map(|i| (i % 251) as f32 * 1e-3).collect();
    for (out, width) in [(512, 512), (1792, 512), (512, 1792), (32064, 512)] {
        let copies = || weights.chunks_exact(out * width);
        let plain = seconds(copies(), |weight| {
            let parts = weight.par_chunks(weight.len().div_ceil(rayon::current_num_threads()));
            black_box(parts.map(super::lanes::max).reduce(|| 0.0, f32::max));
        });
        println!("{out}x{width}, a plain read: {:.1} GB/s", (out * width * 4) as f64 / plain / 1e9);
        for rows in [1, 2, 4, 8, 16, 32] {
            let xs = numbers(rows * width, 2);
            let mut to = vec![0.0; rows * out];
            let ours = seconds(copies(), |weight| add_rows(&mut to, 1.0, &xs, weight, width));
            println!(
                "{out}x{width}, {rows} rows: {:.1} GB/s, {:.0} GFLOP/s, {:.0}% of a plain read",
                (out * width * 4) as f64 / ours / 1e9,
                (2 * rows * out * width) as f64 / ours / 1e9,
                100.0 * plain / ours
            );
        }
    }
}

/// Numbers a second: that exp is compiled to vector instructions shows here.
#[test]
#[ignore = "it measures"]
fn elementwise() -> candle_core::Result<()> {
    let shape = (1, 2400, 1792);
    let (gate, up) = (super::testing::tensor(shape, 1)?, super::testing::tensor(shape, 2)?);
    let (weight, angles) = (super::testing::tensor(1792, 3)?, super::testing::tensor((2400, 32), 4)?);
    let by_head = gate.reshape((1, 2400, 28, 64))?;
    let measure = |what: &str, run: &dyn Fn() -> candle_core::Result<candle_core::Tensor>| {
        let best = (0..20).map(|_| seconds(std::iter::once([].as_slice()), |_| drop(black_box(run()))));
        let best = best.fold(f64::INFINITY, f64::min);
        println!("{what}: {:.2} ns a number", best * 1e9 / gate.elem_count() as f64);
    };
    measure("swiglu", &|| super::swish::swiglu(&gate, &up));
    measure("candle's silu", &|| gate.silu());
    measure("rms norm", &|| super::norm::rms_norm(&gate, &weight, 1e-5));
    measure("rotary", &|| super::rope::rotate(&by_head, 1, &angles, &angles));
    measure("a sum of tensors", &|| &gate + &up);
    Ok(())
}
