//! Log-probabilities of given tokens from hidden states, without the logits of a whole response in memory.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::composed_op::composed_op1;
use super::epilogue::Epilogue;
use super::gemm::{Matrix, matmul_into};
use super::linear::{linear_in_f32, linear_in_f32_transposed};
use super::storage::{f32_slice, is_supported, with_f32_slices};
use super::vector_math::{exp_and_sum, max};

/// Rows whose logits are in memory at a time.
const CHUNK: usize = 64;

/// log p of each of `targets`, `[n]` in f32, from normed hidden states `[n, hidden]` and the frozen head
/// `[vocab, hidden]`.
///
/// # Errors
/// Where there are not n targets, or one is not in the vocabulary.
pub(crate) fn log_probs(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (rows, _) = hidden.dims2()?;
    let (vocab, _) = weight.dims2()?;
    if rows != targets.len() || targets.iter().any(|target| *target as usize >= vocab) {
        candle_core::bail!("{} targets for {rows} rows of a vocabulary of {vocab}", targets.len());
    }
    if rows == 0 {
        return Tensor::zeros(0, DType::F32, hidden.device());
    }
    if !is_supported(hidden) || !is_supported(weight) {
        return composed_with_gradient(hidden, weight, targets);
    }
    hidden.contiguous()?.apply_op1(LogProbsOp { weight: weight.clone(), targets: targets.to_vec() })
}

/// Rows whose logits are in memory at a time where they are composed.
pub(crate) const COMPOSED_CHUNK: usize = 256;

fn composed_with_gradient(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (head, ids) = (weight.clone(), targets.to_vec());
    composed_op1(
        "log-probs",
        hidden,
        |hidden| {
            let chunks = in_chunks(hidden, targets);
            let parts = chunks.map(|chunk| {
                let (hidden, targets) = chunk?;
                let log_probs = candle_nn::ops::log_softmax(&linear_in_f32(&hidden, weight)?, D::Minus1)?;
                log_probs.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)
            });
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
        },
        move |hidden, dy| composed_backward(hidden, &head, &ids, dy),
    )
}

/// As [`LogProbsOp::bwd`], in f32 and rounded once: dy (onehot - softmax) times the head.
fn composed_backward(hidden: &Tensor, head: &Tensor, targets: &[u32], dy: &Tensor) -> Result<Tensor> {
    let mut start = 0;
    let parts = in_chunks(hidden, targets).map(|chunk| {
        let (rows, targets) = chunk?;
        let dy = dy.narrow(0, start, rows.dim(0)?)?.unsqueeze(1)?;
        start += rows.dim(0)?;
        let probabilities = candle_nn::ops::softmax_last_dim(&linear_in_f32(&rows, head)?)?;
        let of_all = linear_in_f32_transposed(&probabilities.broadcast_mul(&dy)?, head)?;
        let of_targets = head.index_select(&targets, 0)?.to_dtype(DType::F32)?.broadcast_mul(&dy)?;
        (of_targets - of_all)?.to_dtype(hidden.dtype())
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

/// Some rows of `hidden` after others, each with its targets.
fn in_chunks<'a>(
    hidden: &'a Tensor,
    targets: &'a [u32],
) -> impl Iterator<Item = Result<(Tensor, Tensor)>> + 'a {
    targets.chunks(COMPOSED_CHUNK).enumerate().map(move |(chunk, targets)| {
        let rows = hidden.narrow(0, chunk * COMPOSED_CHUNK, targets.len())?;
        Ok((rows, Tensor::new(targets, hidden.device())?))
    })
}

struct LogProbsOp {
    weight: Tensor,
    targets: Vec<u32>,
}

impl LogProbsOp {
    /// Calls `work` with the index of the first row and the logits `[rows, vocab]` of one chunk after
    /// another.
    fn for_each_chunk(
        &self,
        hidden: &[f32],
        head: Matrix<'_>,
        mut work: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let (vocab, width) = self.weight.dims2()?;
        let mut logits = vec![0.0; CHUNK.min(self.targets.len()) * vocab];
        for (i, hidden) in hidden.chunks(CHUNK * width).enumerate() {
            let logits = &mut logits[..hidden.len() / width * vocab];
            matmul_into(logits, Epilogue::Store, 1.0, Matrix::new(hidden, width), head.t())?;
            work(i * CHUNK, logits)?;
        }
        Ok(())
    }
}

/// Replaces a row of logits by e^(logit - max), and returns the maximum and the sum.
struct Exponentiate<'a>(&'a mut [f32]);

impl WithSimd for Exponentiate<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        let max = max(self.0);
        (max, exp_and_sum(self.0, max))
    }
}

impl CustomOp1 for LogProbsOp {
    fn name(&self) -> &'static str {
        "log-probs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocab, width) = self.weight.dims2()?;
        let hidden = f32_slice(storage, layout)?;
        let arch = Arch::new();
        let mut log_probs = vec![0f32; self.targets.len()];
        with_f32_slices([&self.weight], |[head]| {
            self.for_each_chunk(hidden, Matrix::new(head, width), |first, logits| {
                let rows =
                    logits.par_chunks_mut(vocab).zip(&self.targets[first..]).zip(&mut log_probs[first..]);
                rows.for_each(|((row, target), log_prob)| {
                    let logit = row[*target as usize];
                    let (max, sum) = arch.dispatch(Exponentiate(row));
                    *log_prob = logit - max - sum.ln();
                });
                Ok(())
            })
        })?;
        Ok((CpuStorage::F32(log_probs), Shape::from(self.targets.len())))
    }

    /// The gradient of the logits is dy (onehot - softmax); that of the hidden states is this times the head.
    fn bwd(&self, hidden: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (vocab, width) = self.weight.dims2()?;
        let grad = grad.contiguous()?;
        let arch = Arch::new();
        let mut d_hidden = vec![0f32; hidden.elem_count()];
        with_f32_slices([hidden, &grad, &self.weight], |[hidden, dys, head]| {
            let head = Matrix::new(head, width);
            self.for_each_chunk(hidden, head, |first, logits| {
                let rows = logits.par_chunks_mut(vocab).zip(&self.targets[first..]).zip(&dys[first..]);
                rows.for_each(|((row, target), dy)| {
                    let (_, sum) = arch.dispatch(Exponentiate(row));
                    let factor = -dy / sum;
                    row.iter_mut().for_each(|value| *value *= factor);
                    row[*target as usize] += dy;
                });
                let d_hidden = &mut d_hidden[first * width..][..logits.len() / vocab * width];
                matmul_into(d_hidden, Epilogue::Store, 1.0, Matrix::new(logits, vocab), head)
            })
        })?;
        Ok(Some(Tensor::from_vec(d_hidden, hidden.shape(), hidden.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        assert_close, assert_matches_composed, gradients, normal_values, on_threads, tensor, values,
    };
    use super::*;

    fn targets(rows: usize) -> Vec<u32> {
        (0..rows as u32).map(|i| i * 37 % 515).collect()
    }

    #[test]
    fn equals_the_definition_in_f64() -> Result<()> {
        let (hidden, weight, targets) = (normal_values(70 * 40, 1), normal_values(515 * 40, 2), targets(70));
        let expected: Vec<f64> = hidden
            .chunks(40)
            .zip(&targets)
            .map(|(hidden, target)| {
                let logit = |o: usize| -> f64 {
                    let row = &weight[o * 40..][..40];
                    row.iter().zip(hidden).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum()
                };
                logit(*target as usize) - (0..515).map(|o| logit(o).exp()).sum::<f64>().ln()
            })
            .collect();
        let found = log_probs(&tensor((70, 40), 1)?, &tensor((515, 40), 2)?, &targets)?;
        assert_close(&values(&found)?, &expected, 1e-6);
        Ok(())
    }

    /// The definition.
    fn composed(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let logits = hidden.matmul(&weight.t()?)?;
        let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
        candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.squeeze(1)
    }

    #[test]
    fn matches_the_composed_form_in_value_and_gradient_over_several_chunks() -> Result<()> {
        let weight = tensor((515, 40), 2)?;
        for rows in [1, CHUNK, 2 * CHUNK + 5, COMPOSED_CHUNK + 3] {
            let targets = targets(rows);
            for with_gradient in [log_probs, composed_with_gradient] {
                assert_matches_composed(
                    &[tensor((rows, 40), 1)?],
                    |t| with_gradient(&t[0], &weight, &targets),
                    |t| composed(&t[0], &weight, &targets),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn has_the_same_bits_for_every_number_of_threads() -> Result<()> {
        let (weight, targets) = (tensor((515, 40), 2)?, targets(70));
        let hidden = [tensor((70, 40), 1)?];
        let with_threads = |threads: usize| {
            on_threads(threads, || gradients(&hidden, 3, |t| log_probs(&t[0], &weight, &targets)))
        };
        let one = with_threads(1)?;
        assert!(with_threads(2)? == one && with_threads(3)? == one);
        Ok(())
    }

    #[test]
    fn accepts_zero_rows_and_rejects_targets_beyond_the_vocabulary() -> Result<()> {
        let (hidden, weight) = (tensor((2, 40), 1)?, tensor((515, 40), 2)?);
        assert_eq!(log_probs(&hidden.narrow(0, 0, 0)?, &weight, &[])?.dims(), [0]);
        for wrong in [[0, 515].as_slice(), &[0]] {
            let error = log_probs(&hidden, &weight, wrong).unwrap_err().to_string();
            assert!(error.contains("vocabulary of 515"), "{error}");
        }
        Ok(())
    }
}
