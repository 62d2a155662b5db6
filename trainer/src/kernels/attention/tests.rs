use candle_core::{Device, Result, Tensor, Var};

use super::super::testing::{assert_close, normal_values, values, wide};
use super::query_tiles::QueryTile;
use super::{DecodeRow, Heads, Mask, PackedKv, Span, attention, composed, decode, extend, forward};

/// Softmax attention over what each query sees, in f64.
fn reference(heads: Heads, q: &[f32], k: &[f32], v: &[f32], sees: impl Fn(usize, usize) -> bool) -> Vec<f64> {
    let Heads { queries, keys, dim } = heads;
    let (tokens, count) = (q.len() / (queries * dim), k.len() / (keys * dim));
    let mut out = vec![0f64; q.len()];
    for token in 0..tokens {
        for head in 0..queries {
            let at = (token * queries + head) * dim;
            let offset = |key: usize| (key * keys + head / (queries / keys)) * dim;
            let dot = |key: usize| -> f64 {
                (0..dim).map(|d| f64::from(q[at + d]) * f64::from(k[offset(key) + d])).sum()
            };
            let scores: Vec<(usize, f64)> = (0..count)
                .filter(|key| sees(token, *key))
                .map(|key| (key, dot(key) / (dim as f64).sqrt()))
                .collect();
            let max = scores.iter().map(|s| s.1).fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s.1 - max).exp()).sum();
            for (key, score) in scores {
                for d in 0..dim {
                    out[at + d] += (score - max).exp() / total * f64::from(v[offset(key) + d]);
                }
            }
        }
    }
    out
}

/// The tree of a token, its branch (none in the prefix) and its position.
type TreePosition = (usize, Option<usize>, usize);

/// Two packed trees, each a prefix with two branches, and the position of every token.
fn packed() -> (Vec<Span>, Vec<TreePosition>) {
    let mut spans = Vec::new();
    let mut tokens = Vec::new();
    for (tree, (prefix, branches)) in [(75, [70, 9]), (3, [1, 130])].into_iter().enumerate() {
        let start = tokens.len();
        spans.push(Span {
            start,
            len: prefix,
            context: 0..0,
            context_position: 0,
            first_key: start,
            position: 0,
        });
        tokens.extend((0..prefix).map(|position| (tree, None, position)));
        for (branch, len) in branches.into_iter().enumerate() {
            let first = tokens.len();
            spans.push(Span {
                start: first,
                len,
                context: start..start + prefix,
                context_position: 0,
                first_key: first,
                position: prefix,
            });
            tokens.extend((0..len).map(|i| (tree, Some(branch), prefix + i)));
        }
    }
    (spans, tokens)
}

const HEADS: [Heads; 3] = [
    Heads { queries: 4, keys: 2, dim: 8 },
    Heads { queries: 3, keys: 3, dim: 20 },
    Heads { queries: 4, keys: 1, dim: 64 },
];

#[test]
fn packed_branches_match_the_reference() {
    for heads in HEADS {
        for window in [None, Some(40)] {
            let (spans, tokens) = packed();
            let n = tokens.len();
            let q = normal_values(n * heads.queries * heads.dim, 1);
            let k = normal_values(n * heads.keys * heads.dim, 2);
            let v = normal_values(n * heads.keys * heads.dim, 3);
            let sees = |query: usize, key: usize| {
                let (of_query, of_key) = (tokens[query], tokens[key]);
                of_query.0 == of_key.0
                    && key <= query
                    && (of_key.1.is_none() || of_key.1 == of_query.1)
                    && window.is_none_or(|w| of_query.2 - of_key.2 < w)
            };
            let found = forward::attend(heads, (&q, &k, &v), &QueryTile::of_spans(&spans, window), false).out;
            assert_close(&found, &reference(heads, &q, &k, &v, sees), 2e-6);
        }
    }
}

/// Attention over all scores at once, with the gradients that candle derives. `mask` is `[tokens, tokens]`.
fn definition(heads: Heads, (q, k, v): (&Tensor, &Tensor, &Tensor), mask: &Tensor) -> Result<Tensor> {
    let by_head = |xs: &Tensor, count: usize| {
        let xs = xs.reshape(((), count, heads.dim))?.transpose(0, 1)?.unsqueeze(1)?;
        let (_, _, tokens, dim) = xs.dims4()?;
        xs.expand((count, heads.queries / count, tokens, dim))?.reshape((heads.queries, tokens, dim))
    };
    let (queries, keys) = (by_head(q, heads.queries)?, by_head(k, heads.keys)?);
    let scores = (queries.matmul(&keys.t()?)? / (heads.dim as f64).sqrt())?.broadcast_add(mask)?;
    let weights = candle_nn::ops::softmax(&scores, candle_core::D::Minus1)?;
    weights.matmul(&by_head(v, heads.keys)?)?.transpose(0, 1)?.reshape(q.shape())
}

#[test]
fn kernel_and_composed_form_match_the_definition_in_value_and_gradients() -> Result<()> {
    for heads in HEADS {
        for window in [None, Some(40)] {
            let (spans, tokens) = packed();
            let n = tokens.len();
            let tensor = |width: usize, salt| {
                Tensor::from_vec(normal_values(n * width, salt), (1, n, width), &Device::Cpu)
            };
            let width = heads.keys * heads.dim;
            let q = Var::from_tensor(&tensor(heads.queries * heads.dim, 1)?)?;
            let (k, v) = (Var::from_tensor(&tensor(width, 2)?)?, Var::from_tensor(&tensor(width, 3)?)?);
            let d_out = tensor(heads.queries * heads.dim, 4)?;
            let inputs = (q.as_tensor(), k.as_tensor(), v.as_tensor());
            let mut seen = vec![f32::NEG_INFINITY; n * n];
            for span in &spans {
                for row in 0..span.len {
                    span.keys_of(row, window).iter().for_each(|key| seen[(span.start + row) * n + key] = 0.0);
                }
            }
            let expected = definition(heads, inputs, &Tensor::from_vec(seen, (n, n), &Device::Cpu)?)?;
            let expected_gradients = (&expected * &d_out)?.sum_all()?.backward()?;
            let mask = Mask::new(spans, window);
            for found in [attention(heads, inputs, &mask)?, composed::attention(heads, inputs, &mask)?] {
                assert_close(&values(&found)?, &wide(&values(&expected)?), 2e-6);
                let gradients = (found * &d_out)?.sum_all()?.backward()?;
                for var in [&q, &k, &v] {
                    let expected = expected_gradients.get(var).expect("a gradient");
                    let found = gradients.get(var).expect("a gradient");
                    assert_close(&values(found)?, &wide(&values(expected)?), 1e-5);
                }
            }
        }
    }
    Ok(())
}

/// Queries that continue a shared prefix and some tokens of their own, with windows that end in either and at the seam.
#[test]
fn composed_attention_over_a_cache_matches_the_reference() -> Result<()> {
    const PREFIX: usize = 30;
    for heads in HEADS {
        let (width, key_width) = (heads.queries * heads.dim, heads.keys * heads.dim);
        for (own, window) in
            [(1, None), (1, Some(1)), (25, None), (25, Some(10)), (25, Some(25)), (25, Some(40))]
        {
            let tokens = PREFIX + own;
            let values_of = |width: usize, seed| normal_values(tokens * width, seed);
            let (q, k, v) = (values_of(width, 1), values_of(key_width, 2), values_of(key_width, 3));
            let sees =
                |query: usize, key: usize| key <= query && window.is_none_or(|window| query - key < window);
            let expected = reference(heads, &q, &k, &v, sees);
            let tensor =
                |values: &[f32], width: usize| Tensor::from_slice(values, (1, tokens, width), &Device::Cpu);
            let by_head = |values: &[f32]| composed::by_head(&tensor(values, key_width)?, heads.keys);
            let (keys, all_values) = (by_head(&k)?, by_head(&v)?);
            let queries = tensor(&q, width)?;

            let part = |start, len| {
                Ok::<_, candle_core::Error>((keys.narrow(1, start, len)?, all_values.narrow(1, start, len)?))
            };
            let parts = [part(0, PREFIX)?, part(PREFIX, own)?];
            let last = composed::decode(heads, &queries.narrow(1, tokens - 1, 1)?, &parts, window)?;
            assert_close(&values(&last)?, &expected[(tokens - 1) * width..], 2e-6);

            let span = Span {
                start: 0,
                len: own,
                position: PREFIX,
                context: 0..PREFIX,
                context_position: 0,
                first_key: PREFIX,
            };
            let mask = Mask::new(vec![span], window);
            let found =
                composed::extend(heads, &queries.narrow(1, PREFIX, own)?, (&keys, &all_values), &mask)?;
            assert_close(&values(&found)?, &expected[PREFIX * width..], 2e-6);
        }
    }
    Ok(())
}

/// 150 shared tokens, then 20 or more of each sequence in one prefill, then one decoded token.
#[test]
fn a_decoded_row_matches_the_whole_sequence_and_does_not_depend_on_the_others() -> Result<()> {
    for heads in HEADS {
        for window in [None, Some(40)] {
            let (width, key_width) = (heads.queries * heads.dim, heads.keys * heads.dim);
            let shared_keys = normal_values(150 * key_width, 5);
            let shared_values = normal_values(150 * key_width, 6);
            let mut shared = PackedKv::new(heads.keys, heads.dim, 150);
            shared.append(&shared_keys, &shared_values)?;
            let mut owns = Vec::new();
            for row in 0..5u64 {
                let tokens = 20 + row as usize * 30;
                let q = normal_values(tokens * width, 10 + row);
                let k = normal_values(tokens * key_width, 20 + row);
                let v = normal_values(tokens * key_width, 30 + row);
                let mut own = PackedKv::new(heads.keys, heads.dim, tokens);
                own.append(&k[..(tokens - 1) * key_width], &v[..(tokens - 1) * key_width])?;
                let before = extend(heads, &q[..(tokens - 1) * width], Some(&shared), &own, window);
                own.append(&k[(tokens - 1) * key_width..], &v[(tokens - 1) * key_width..])?;
                let sees = |query: usize, key: usize| {
                    key <= 150 + query && window.is_none_or(|w| 150 + query - key < w)
                };
                let all = ([shared_keys.as_slice(), &k].concat(), [shared_values.as_slice(), &v].concat());
                let expected = reference(heads, &q, &all.0, &all.1, sees);
                assert_close(&before, &expected[..(tokens - 1) * width], 2e-6);
                let last = q[(tokens - 1) * width..].to_vec();
                let row = DecodeRow { shared: Some(&shared), own: &own };
                let alone = decode(heads, &last, &[row], window);
                assert_close(&alone, &expected[(tokens - 1) * width..], 2e-6);
                owns.push((own, last, alone));
            }
            let rows: Vec<DecodeRow<'_>> =
                owns.iter().map(|(own, ..)| DecodeRow { shared: Some(&shared), own }).collect();
            let queries: Vec<f32> = owns.iter().flat_map(|(_, last, _)| last.clone()).collect();
            let together = decode(heads, &queries, &rows, window);
            let alone: Vec<f32> = owns.iter().flat_map(|(.., alone)| alone.clone()).collect();
            assert_eq!(together, alone);
        }
    }
    Ok(())
}

#[test]
fn appending_to_a_full_cache_is_an_error() {
    let mut kv = PackedKv::new(1, 4, 60);
    let rows = vec![0.0; 64 * 4];
    kv.append(&rows, &rows).expect("a block holds 64");
    let error = kv.append(&[0.0; 4], &[0.0; 4]).expect_err("it is full").to_string();
    assert!(error.contains("was given 65"), "{error}");
}
