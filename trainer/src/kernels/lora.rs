//! The product with a frozen matrix and its LoRA pair, in one.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::linear::{linear, product_and_bias, started, with_last};
use super::numbers::{numbers, takes, with_numbers};
use super::products::{Matrix, Onto, product, product_into};
use super::rows::add_rows;

/// What an adapter adds to a product: `scale b a xs`.
#[derive(Debug, Clone)]
pub(crate) struct Delta {
    /// `[rank, in]` in f32.
    pub(crate) a: Tensor,
    /// `[out, rank]` in f32.
    pub(crate) b: Tensor,
    pub(crate) scale: f64,
}

impl Delta {
    /// Of `xs` `[.., in]`, `[.., out]` in f32, by candle's operations.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub(crate) fn of(&self, xs: &Tensor) -> Result<Tensor> {
        let inner = xs.to_dtype(DType::F32)?.broadcast_matmul(&self.a.t()?)?;
        inner.broadcast_matmul(&self.b.t()?)? * self.scale
    }
}

/// `xs` `[.., in]` to `xs weightᵀ + bias + delta` `[.., out]`, with gradients of xs, a and b.
///
/// # Errors
/// Where the shapes do not fit; those of the tensor library.
pub(crate) fn adapted(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: &Delta) -> Result<Tensor> {
    if !takes(xs) {
        return composed(xs, weight, bias, delta);
    }
    let op = Adapted {
        weight: weight.clone(),
        bias: bias.cloned(),
        scale: delta.scale as f32,
        inner: OnceLock::new(),
    };
    xs.contiguous()?.apply_op3(&delta.a, &delta.b, op)
}

fn composed(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: &Delta) -> Result<Tensor> {
    linear(xs, weight, bias)? + delta.of(xs)?.to_dtype(xs.dtype())?
}

/// As [`adapted`], for decoding: no gradient, and a row's bits do not depend on the other rows.
///
/// # Errors
/// Those of [`adapted`].
pub(crate) fn adapted_rows(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    delta: &Delta,
) -> Result<Tensor> {
    if !takes(xs) {
        return composed(xs, weight, bias, delta);
    }
    let xs = xs.contiguous()?;
    let (out, width) = weight.dims2()?;
    let rank = delta.a.dim(0)?;
    let shape = with_last(xs.dims(), width, out)?;
    let count = shape.elem_count() / out;
    let mut inner = vec![0.0; count * rank];
    let mut ys = started(bias, count, out)?;
    with_numbers([&xs, weight, &delta.a, &delta.b], |[xs, weight, a, b]| {
        add_rows(&mut inner, 1.0, xs, a, width);
        add_rows(&mut ys, 1.0, xs, weight, width);
        add_rows(&mut ys, delta.scale as f32, &inner, b, rank);
        Ok(())
    })?;
    Tensor::from_vec(ys, shape, xs.device())
}

struct Adapted {
    weight: Tensor,
    bias: Option<Tensor>,
    scale: f32,
    /// `a xs`, `[rows, rank]`, which the backward pass needs again.
    inner: OnceLock<Vec<f32>>,
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, width) = self.weight.dims2()?;
        let (rank, _) = a_layout.shape().dims2()?;
        let shape = with_last(xs_layout.dims(), width, out)?;
        let xs = Matrix::new(numbers(xs, xs_layout)?, width);
        let a = Matrix::new(numbers(a, a_layout)?, width);
        let b = Matrix::new(numbers(b, b_layout)?, rank);
        let inner = product(1.0, xs, a.t())?;
        let mut ys = with_numbers([&self.weight], |[weight]| {
            product_and_bias(xs, Matrix::new(weight, width).t(), self.bias.as_ref())
        })?;
        product_into(&mut ys, Onto::Itself, self.scale, Matrix::new(&inner, rank), b.t())?;
        // An op is applied once.
        let _ = self.inner.set(inner);
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(inner) = self.inner.get() else {
            candle_core::bail!("a gradient was asked for before a value")
        };
        let (out, width) = self.weight.dims2()?;
        let rank = a.dim(0)?;
        let grad = grad.contiguous()?;
        let wanted = xs.track_op();
        let (dx, da, db) = with_numbers([&grad, xs, a, b, &self.weight], |[dy, xs, a, b, weight]| {
            let (dy, inner) = (Matrix::new(dy, out), Matrix::new(inner, rank));
            let d_inner = product(self.scale, dy, Matrix::new(b, rank))?;
            let d_inner = Matrix::new(&d_inner, rank);
            let db = product(self.scale, dy.t(), inner)?;
            let da = product(1.0, d_inner.t(), Matrix::new(xs, width))?;
            if !wanted {
                return Ok((None, da, db));
            }
            let mut dx = product(1.0, dy, Matrix::new(weight, width))?;
            product_into(&mut dx, Onto::Itself, 1.0, d_inner, Matrix::new(a, width))?;
            Ok((Some(dx), da, db))
        })?;
        let tensor = |values: Vec<f32>, shape: &Shape| Tensor::from_vec(values, shape, xs.device());
        Ok((
            dx.map(|dx| tensor(dx, xs.shape())).transpose()?,
            Some(tensor(da, a.shape())?),
            Some(tensor(db, b.shape())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::super::testing::{agree, gradients, on_threads, tensor, values};
    use super::*;

    fn delta(tensors: &[Tensor]) -> Delta {
        Delta { a: tensors[0].clone(), b: tensors[1].clone(), scale: 1.5 }
    }

    #[test]
    fn equals_what_candle_composes_in_value_and_gradients() -> Result<()> {
        let (weight, bias) = (tensor((30, 40), 1)?, tensor(30, 2)?);
        let inputs = [tensor((1, 70, 40), 3)?, tensor((4, 40), 4)?, tensor((30, 4), 5)?];
        for bias in [Some(&bias), None] {
            agree(
                &inputs,
                |t| adapted(&t[0], &weight, bias, &delta(&t[1..])),
                |t| composed(&t[0], &weight, bias, &delta(&t[1..])),
            )?;
        }
        Ok(())
    }

    #[test]
    fn a_gradient_is_there_for_what_is_trained_and_for_nothing_else() -> Result<()> {
        let (xs, weight) = (tensor((7, 40), 1)?, tensor((30, 40), 2)?);
        let pair = [Var::from_tensor(&tensor((4, 40), 3)?)?, Var::from_tensor(&tensor((30, 4), 4)?)?];
        let delta = Delta { a: pair[0].as_tensor().clone(), b: pair[1].as_tensor().clone(), scale: 1.0 };
        let grads = adapted(&xs, &weight, None, &delta)?.sum_all()?.backward()?;
        assert!(grads.get(&delta.a).is_some() && grads.get(&delta.b).is_some());
        assert!(grads.get(&xs).is_none() && grads.get(&weight).is_none());
        Ok(())
    }

    /// With and without a graph, on any number of threads: a layer that is run again repeats its bits.
    #[test]
    fn has_the_same_bits_with_a_graph_and_without_and_for_every_number_of_threads() -> Result<()> {
        let weight = tensor((330, 515), 1)?;
        let inputs = [tensor((300, 515), 2)?, tensor((8, 515), 3)?, tensor((330, 8), 4)?];
        let of = |threads: usize| {
            on_threads(threads, || gradients(&inputs, 5, |t| adapted(&t[0], &weight, None, &delta(&t[1..]))))
        };
        let one = of(1)?;
        assert!(of(2)? == one && of(3)? == one);
        assert!(values(&adapted(&inputs[0], &weight, None, &delta(&inputs[1..]))?)? == one[0]);
        Ok(())
    }

    #[test]
    fn rows_equal_whole_passes_and_a_row_does_not_depend_on_the_others() -> Result<()> {
        let (weight, bias) = (tensor((330, 515), 1)?, tensor(330, 2)?);
        let (xs, delta) = (tensor((9, 515), 3)?, delta(&[tensor((8, 515), 4)?, tensor((330, 8), 5)?]));
        let found = adapted_rows(&xs, &weight, Some(&bias), &delta)?;
        let whole = composed(&xs, &weight, Some(&bias), &delta)?;
        let (off, size) = ((&found - &whole)?.abs()?.max_all()?, whole.abs()?.max_all()?);
        assert!(off.to_scalar::<f32>()? < 1e-5 * size.to_scalar::<f32>()?);
        for row in 0..9 {
            let alone = adapted_rows(&xs.narrow(0, row, 1)?, &weight, Some(&bias), &delta)?;
            assert!(values(&alone)? == values(&found.narrow(0, row, 1)?)?, "row {row}");
        }
        Ok(())
    }
}
