//! Reductions and elementary functions whose loops compile to the vector instructions of the function they
//! are inlined into.

/// Running sums (or maxima) of a reduction: one AVX-512 register.
const LANES: usize = 16;

/// The dot product, in [`LANES`] running sums.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    for ((a, b), sum) in a_rest.iter().zip(b_rest).zip(&mut sums) {
        *sum = a.mul_add(*b, *sum);
    }
    reduce(sums, |a, b| a + b)
}

/// The largest of `values`; -inf for an empty slice.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            largest[i] = if chunk[i] > largest[i] { chunk[i] } else { largest[i] };
        }
    }
    rest.iter().fold(reduce(largest, f32::max), |a, b| a.max(*b))
}

/// Replaces each value by exp(value - `shift`) and returns their sum.
#[inline(always)]
pub(super) fn exp_and_sum(values: &mut [f32], shift: f32) -> f32 {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - shift);
            sums[i] += chunk[i];
        }
    }
    for (value, sum) in rest.iter_mut().zip(&mut sums) {
        *value = exp(*value - shift);
        *sum += *value;
    }
    reduce(sums, |a, b| a + b)
}

#[inline(always)]
fn reduce(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = combine(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// e^x with a relative error below 2e-7: 0 below -87.3, infinite from 88.4, NaN for NaN.
///
/// The polynomial and the split of ln 2 are those of Cephes' `expf`. libm's `expf` does not vectorize.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_55;
    const HIGHEST: f32 = 88.722_84;
    /// Adding this to a float below 2²² rounds it to an integer, which ends up in the low bits, 127 too
    /// large.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let rounded = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    // The low nine bits become the exponent and the sign.
    let power = f32::from_bits(rounded.to_bits() << 23);
    let n = rounded - ROUND;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 0.166_666_66);
    let p = p.mul_add(r, 0.5);
    let value = (p.mul_add(r * r, r) + 1.0) * power;
    if x < LOWEST { 0.0 } else { value }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_2e_7_of_f64() {
        let mut worst = 0f64;
        for i in -873_000..=883_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / expected - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-87.4), exp(-1e30), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert_eq!([exp(88.8), exp(1e30), exp(f32::INFINITY)], [f32::INFINITY; 3]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_every_element() {
        for len in [0, 1, 15, 16, 17, 33] {
            let values: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() - 2.0).collect();
            let wide = || values.iter().map(|v| f64::from(*v));
            assert!((f64::from(dot(&values, &values)) - wide().map(|v| v * v).sum::<f64>()).abs() < 1e-5);
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut powers = values.clone();
            let sum = f64::from(exp_and_sum(&mut powers, -1.0));
            assert!((sum - wide().map(|v| (v + 1.0).exp()).sum::<f64>()).abs() < 1e-5);
            assert!(powers.iter().zip(wide()).all(|(p, v)| (f64::from(*p) - (v + 1.0).exp()).abs() < 1e-6));
        }
        assert_eq!(max(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
    }
}
