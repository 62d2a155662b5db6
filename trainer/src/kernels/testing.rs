//! Shared by the tests of the kernels.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};

use crate::algorithm::draw::Draw;

/// `len` normally distributed values, the same for the same `seed`.
pub(super) fn normal_values(len: usize, seed: u64) -> Vec<f32> {
    let mut draw = Draw::new(seed, "kernels", "values");
    (0..len).map(|_| draw.normal() as f32).collect()
}

pub(super) fn tensor<S: Into<Shape>>(shape: S, seed: u64) -> Result<Tensor> {
    let shape = shape.into();
    Tensor::from_vec(normal_values(shape.elem_count(), seed), shape, &Device::Cpu)
}

pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Asserts that `found` equals `expected` within `tolerance` of its largest element.
#[track_caller]
pub(super) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    let worst = off.fold(0f64, |a, b| if b.is_nan() { f64::NAN } else { a.max(b) });
    assert!(worst <= tolerance * largest, "off by {worst} of {largest}");
}

pub(super) fn on_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(run)
}

/// The value of `f` at `inputs`, and the gradient of each input for an output gradient of [`normal_values`].
pub(super) fn gradients(
    inputs: &[Tensor],
    seed: u64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let ys = f(&tensors)?;
    let found = (&ys * tensor(ys.shape(), seed)?)?.sum_all()?.backward()?;
    let mut all = vec![values(&ys)?];
    for tensor in &tensors {
        all.push(values(found.get(tensor).expect("a gradient"))?);
    }
    Ok(all)
}

/// Asserts that the value and all gradients of a kernel equal those of its composition of candle's
/// operations.
#[track_caller]
pub(super) fn assert_matches_composed(
    inputs: &[Tensor],
    kernel: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let expected = gradients(inputs, 99, composed)?;
    for (found, expected) in gradients(inputs, 99, kernel)?.iter().zip(&expected) {
        assert_close(found, &wide(expected), 1e-5);
    }
    Ok(())
}

/// Asserts that an operation in bf16 has gradients in bf16 that are those in f32 of `composed` within rounding, also for arguments
/// and output gradients that are views. Arguments from index `in_bf16` on stay in f32.
#[track_caller]
pub(super) fn assert_bf16_matches(
    inputs: &[Tensor],
    in_bf16: usize,
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let rounded = |tensor: &Tensor| tensor.to_dtype(DType::BF16);
    let vars = |of: &dyn Fn(usize, &Tensor) -> Result<Tensor>| {
        inputs.iter().enumerate().map(|(i, xs)| Var::from_tensor(&of(i, xs)?)).collect::<Result<Vec<_>>>()
    };
    let narrow = vars(&|i, xs| if i < in_bf16 { rounded(xs) } else { Ok(xs.clone()) })?;
    let wide = vars(&|i, xs| if i < in_bf16 { rounded(xs)?.to_dtype(DType::F32) } else { Ok(xs.clone()) })?;
    let run = |vars: &[Var], f: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let ys = f(&tensors)?;
        // A transposed gradient.
        let dy = tensor(ys.t()?.shape(), 98)?.t()?.to_dtype(ys.dtype())?;
        let found = (&ys * dy)?.to_dtype(DType::F32)?.sum_all()?.backward()?;
        Ok::<_, candle_core::Error>((ys, found))
    };
    let (found, expected) = (run(&narrow, &operation)?, run(&wide, &composed)?);
    assert_eq!(found.0.dtype(), DType::BF16);
    let close = |found: &Tensor, expected: &Tensor| {
        let found = values(&found.to_dtype(DType::F32)?)?;
        assert_close(&found, &self::wide(&values(expected)?), 2e-2);
        Ok::<_, candle_core::Error>(())
    };
    close(&found.0, &expected.0)?;
    for (narrow, wide) in narrow.iter().zip(&wide) {
        let gradient = found.1.get(narrow).expect("a gradient");
        assert_eq!(gradient.dtype(), narrow.dtype());
        close(gradient, expected.1.get(wide).expect("a gradient"))?;
    }
    Ok(())
}
