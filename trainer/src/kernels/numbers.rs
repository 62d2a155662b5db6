//! From tensors to what kernels work on, and back.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor};

/// Whether kernels take a tensor like `xs`.
pub(crate) fn takes(xs: &Tensor) -> bool {
    take(xs.device(), xs.dtype())
}

/// Whether kernels take tensors of type `dtype` on `device`.
pub(crate) fn take(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && dtype == DType::F32
}

/// Calls `work` with the numbers of contiguous f32 tensors on a CPU.
pub(crate) fn with_numbers<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        *slice = match &**storage {
            Storage::Cpu(storage) => numbers(storage, layout)?,
            _ => candle_core::bail!("a kernel of the CPU was given a tensor elsewhere"),
        };
    }
    work(slices)
}

/// The numbers of a contiguous tensor in f32.
pub(crate) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a kernel was given a tensor that is not contiguous"),
    }
}
