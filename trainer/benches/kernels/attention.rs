//! Attention: a pass of training, and decoding over the KV cache.

use candle_core::Var;
use criterion::{BatchSize, Criterion, Throughput};
use stic_trainer::kernels::attention::{DecodeRow, Heads, Mask, PackedKv, Span, attention, decode};

use crate::{tensor, values};

const HEADS: Heads = Heads { queries: 8, keys: 2, dim: 64 };
const TOKENS: usize = 2400;
/// Tokens of a response after its image.
const OWN_TOKENS: usize = 200;
/// Enough that no layer is still in a cache when it is computed again.
const LAYERS: usize = 8;

pub(crate) fn bench(criterion: &mut Criterion) {
    pass(criterion);
    decoding(criterion);
}

fn pass(criterion: &mut Criterion) {
    let queries = Var::from_tensor(&tensor((TOKENS, HEADS.queries * HEADS.dim), 1)).unwrap();
    let keys = Var::from_tensor(&tensor((TOKENS, HEADS.keys * HEADS.dim), 2)).unwrap();
    let values = Var::from_tensor(&tensor((TOKENS, HEADS.keys * HEADS.dim), 3)).unwrap();
    let span = Span { start: 0, len: TOKENS, position: 0, context: 0..0, context_position: 0, first_key: 0 };
    let mask = Mask::new(vec![span], None);
    let inputs = (queries.as_tensor(), keys.as_tensor(), values.as_tensor());
    let run = || attention(HEADS, inputs, &mask).unwrap();
    // Two FLOPs per multiply-add, half of all pairs of tokens; two products forward, five back.
    let product = (TOKENS * TOKENS * HEADS.queries * HEADS.dim) as u64;
    let mut group = criterion.benchmark_group(format!("attention/{TOKENS} tokens"));
    group.throughput(Throughput::Elements(2 * product));
    group.bench_function("forward", |bencher| bencher.iter(run));
    group.throughput(Throughput::Elements(5 * product));
    group.bench_function("backward", |bencher| {
        bencher.iter_batched(
            || run().sum_all().unwrap(),
            |loss| loss.backward().unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn filled(tokens: usize) -> PackedKv {
    let mut kv = PackedKv::new(HEADS.keys, HEADS.dim, tokens);
    let rows = values(tokens * HEADS.keys * HEADS.dim, 1);
    kv.append(&rows, &rows).unwrap();
    kv
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention/decode");
    for (images, responses) in [(1, 1), (8, 2), (16, 2), (16, 1)] {
        let layers: Vec<(Vec<PackedKv>, Vec<PackedKv>)> = (0..LAYERS)
            .map(|_| {
                let shared = (0..images).map(|_| filled(TOKENS)).collect();
                (shared, (0..images * responses).map(|_| filled(OWN_TOKENS)).collect())
            })
            .collect();
        let queries = values(images * responses * HEADS.queries * HEADS.dim, 2);
        let tokens = images * TOKENS + images * responses * OWN_TOKENS;
        let bytes = LAYERS * tokens * 2 * HEADS.keys * HEADS.dim * size_of::<f32>();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{images} images, {responses} responses each"), |bencher| {
            bencher.iter(|| {
                for (shared, own) in &layers {
                    let row = |(i, own)| DecodeRow { shared: Some(&shared[i / responses]), own };
                    let rows: Vec<DecodeRow<'_>> = own.iter().enumerate().map(row).collect();
                    let _ = decode(HEADS, &queries, &rows, None);
                }
            });
        });
    }
    group.finish();
}
