//! x sigmoid(beta x), the activation of CLIP's MLP, and SwiGLU, that of Llama's.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::lanes::{made_by_rows, sigmoid};
use super::numbers::{numbers, takes, with_numbers};

/// x sigmoid(beta x) of each element: SiLU for beta 1, CLIP's QuickGELU for 1.702. The kernel has no gradient and says
/// so when it is asked for one.
///
/// # Errors
/// Those of the tensor library.
pub(crate) fn swish(xs: &Tensor, beta: f64) -> Result<Tensor> {
    if !takes(xs) {
        return xs * candle_nn::ops::sigmoid(&(xs * beta)?)?;
    }
    xs.contiguous()?.apply_op1(Swish { beta: beta as f32 })
}

/// silu(gate) up, of two tensors of one shape.
///
/// # Errors
/// Where the shapes differ; those of the tensor library.
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("a gate of {:?} for {:?}", gate.shape(), up.shape());
    }
    if !takes(gate) {
        return composed(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

struct Swish {
    beta: f32,
}

impl CustomOp1 for Swish {
    fn name(&self) -> &'static str {
        "swish"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (xs, beta) = (numbers(storage, layout)?, self.beta);
        let ys = made_by_rows(
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

struct SwiGlu;

impl CustomOp2 for SwiGlu {
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
        let (gate, up) = (numbers(gate, gate_layout)?, numbers(up, up_layout)?);
        let ys = made_by_rows(
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
        let (d_gate, d_up) = with_numbers([gate, up, &grad], |[gates, ups, dys]| {
            let d_gate = made_by_rows(
                gates.len(),
                1,
                #[inline(always)]
                |first, to| {
                    let given = gates[first..].iter().zip(&ups[first..]).zip(&dys[first..]);
                    for (to, ((gate, up), dy)) in to.iter_mut().zip(given) {
                        let share = sigmoid(*gate);
                        *to = dy * up * share * (1.0 + gate * (1.0 - share));
                    }
                },
            );
            let d_up = made_by_rows(
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
    use super::super::testing::{agree, close, tensor, values};
    use super::*;

    #[test]
    fn equals_the_definition_in_f64() -> Result<()> {
        let xs = (tensor(70_001, 1)? * 10.0)?;
        for beta in [1.0, 1.702] {
            let expected: Vec<f64> =
                values(&xs)?.iter().map(|x| f64::from(*x) / (1.0 + (-beta * f64::from(*x)).exp())).collect();
            close(&values(&swish(&xs, beta)?)?, &expected, 1e-6);
        }
        let var = candle_core::Var::from_tensor(&xs)?;
        assert!(swish(var.as_tensor(), 1.0)?.sum_all()?.backward().is_err());
        Ok(())
    }

    #[test]
    fn equals_what_candle_composes_in_value_and_gradients() -> Result<()> {
        for shape in [(1, 3, 7), (1, 700, 50)] {
            agree(
                &[(tensor(shape, 1)? * 5.0)?, tensor(shape, 2)?],
                |t| swiglu(&t[0], &t[1]),
                |t| composed(&t[0], &t[1]),
            )?;
        }
        assert!(swiglu(&tensor(3, 1)?, &tensor(4, 1)?).is_err());
        Ok(())
    }

    #[test]
    fn far_out_it_is_the_line_and_zero() -> Result<()> {
        let ends = Tensor::new(&[-1e4f32, -100.0, 100.0, 1e4], &candle_core::Device::Cpu)?;
        assert_eq!(values(&swish(&ends, 1.0)?)?, [0.0, 0.0, 100.0, 1e4]);
        Ok(())
    }
}
