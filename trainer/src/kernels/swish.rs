//! Swish, x sigmoid(beta x), the activation of CLIP's MLP; and SwiGLU, that of Llama's.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::composed_op::composed_op2;
use super::elementwise::collect_row_chunks;
use super::storage::{f32_slice, is_supported, with_f32_slices};
use super::vector_math::sigmoid;

/// x sigmoid(beta x) of each element: SiLU for beta 1, CLIP's QuickGELU for 1.702. The kernel has no
/// gradient: a backward pass through it is an error.
pub fn swish(xs: &Tensor, beta: f64) -> Result<Tensor> {
    if !is_supported(xs) {
        return xs * candle_nn::ops::sigmoid(&(xs * beta)?)?;
    }
    xs.contiguous()?.apply_op1(SwishOp { beta: beta as f32 })
}

/// silu(gate) up, of two tensors of one shape.
///
/// # Errors
/// Where the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("a gate of {:?} for {:?}", gate.shape(), up.shape());
    }
    if !is_supported(gate) {
        return composed_with_gradient(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGluOp)
}

fn composed_with_gradient(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    composed_op2("swiglu", [gate, up], |[gate, up]| composed(gate, up), composed_backward)
}

/// As [`SwiGluOp::bwd`], in f32 and rounded once.
fn composed_backward([gate, up]: [&Tensor; 2], dy: &Tensor) -> Result<[Tensor; 2]> {
    let dtype = gate.dtype();
    let (gate, dy) = (gate.to_dtype(DType::F32)?, dy.to_dtype(DType::F32)?);
    let sigmoid = candle_nn::ops::sigmoid(&gate)?;
    let d_up = ((&gate * &sigmoid)? * &dy)?.to_dtype(dtype)?;
    // 1 + gate (1 - sigmoid)
    let slope = ((gate * sigmoid.affine(-1.0, 1.0)?)? + 1.0)?;
    let d_gate = (((dy * up.to_dtype(DType::F32)?)? * sigmoid)? * slope)?.to_dtype(dtype)?;
    Ok([d_gate, d_up])
}

fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let wide = |xs: &Tensor| xs.to_dtype(DType::F32);
    (wide(gate)?.silu()? * wide(up)?)?.to_dtype(gate.dtype())
}

struct SwishOp {
    beta: f32,
}

impl CustomOp1 for SwishOp {
    fn name(&self) -> &'static str {
        "swish"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (xs, beta) = (f32_slice(storage, layout)?, self.beta);
        let ys = collect_row_chunks(
            xs.len(),
            1,
            #[inline(always)]
            |first, ys| {
                for (y, x) in ys.iter_mut().zip(&xs[first..]) {
                    *y = x * sigmoid(beta * x);
                }
            },
        );
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }
}

struct SwiGluOp;

impl CustomOp2 for SwiGluOp {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (f32_slice(gate, gate_layout)?, f32_slice(up, up_layout)?);
        let ys = collect_row_chunks(
            gate.len(),
            1,
            #[inline(always)]
            |first, ys| {
                for ((y, gate), up) in ys.iter_mut().zip(&gate[first..]).zip(&up[first..]) {
                    *y = gate * sigmoid(*gate) * up;
                }
            },
        );
        Ok((CpuStorage::F32(ys), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (d_gate, d_up) = with_f32_slices([gate, up, &grad], |[gates, ups, dys]| {
            let d_gate = collect_row_chunks(
                gates.len(),
                1,
                #[inline(always)]
                |first, to| {
                    let inputs = gates[first..].iter().zip(&ups[first..]).zip(&dys[first..]);
                    for (to, ((gate, up), dy)) in to.iter_mut().zip(inputs) {
                        let sigmoid = sigmoid(*gate);
                        *to = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
                    }
                },
            );
            let d_up = collect_row_chunks(
                ups.len(),
                1,
                #[inline(always)]
                |first, to| {
                    for ((to, gate), dy) in to.iter_mut().zip(&gates[first..]).zip(&dys[first..]) {
                        *to = dy * gate * sigmoid(*gate);
                    }
                },
            );
            Ok((d_gate, d_up))
        })?;
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(d_gate)?), Some(tensor(d_up)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_bf16_matches, assert_close, assert_matches_composed, tensor, values};
    use super::*;

    #[test]
    fn equals_the_definition_in_f64() -> Result<()> {
        let xs = (tensor(if cfg!(miri) { 101 } else { 70_001 }, 1)? * 10.0)?;
        for beta in [1.0, 1.702] {
            let expected: Vec<f64> =
                values(&xs)?.iter().map(|x| f64::from(*x) / (1.0 + (-beta * f64::from(*x)).exp())).collect();
            assert_close(&values(&swish(&xs, beta)?)?, &expected, 1e-6);
        }
        let var = candle_core::Var::from_tensor(&xs)?;
        assert!(swish(var.as_tensor(), 1.0)?.sum_all()?.backward().is_err());
        Ok(())
    }

    #[test]
    fn matches_the_composed_form_in_value_and_gradients() -> Result<()> {
        for shape in [(1, 3, 7), (1, if cfg!(miri) { 5 } else { 700 }, 50)] {
            for with_gradient in [swiglu, composed_with_gradient] {
                assert_matches_composed(
                    &[(tensor(shape, 1)? * 5.0)?, tensor(shape, 2)?],
                    |t| with_gradient(&t[0], &t[1]),
                    |t| composed(&t[0], &t[1]),
                )?;
            }
        }
        assert!(swiglu(&tensor(3, 1)?, &tensor(4, 1)?).is_err());
        Ok(())
    }

    #[test]
    fn in_bf16_the_gradients_are_those_of_the_definition() -> Result<()> {
        let inputs = [tensor((1, 70, 50), 1)?, tensor((1, 70, 50), 2)?];
        assert_bf16_matches(&inputs, 2, |t| swiglu(&t[0], &t[1]), |t| composed(&t[0], &t[1]))
    }

    #[test]
    fn approaches_x_and_zero_far_from_the_origin() -> Result<()> {
        let ends = Tensor::new(&[-1e4f32, -100.0, 100.0, 1e4], &candle_core::Device::Cpu)?;
        assert_eq!(values(&swish(&ends, 1.0)?)?, [0.0, 0.0, 100.0, 1e4]);
        Ok(())
    }
}
