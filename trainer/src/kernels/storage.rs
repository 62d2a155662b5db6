//! Access to a tensor's storage as f32 slices.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor};

/// Whether the kernels support a tensor of `xs`'s type on its device. Everything else is composed of candle's
/// operations.
pub(crate) fn is_supported(xs: &Tensor) -> bool {
    supports(xs.device(), xs.dtype())
}

/// Whether the kernels support tensors of type `dtype` on `device`.
pub(crate) fn supports(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && dtype == DType::F32
}

/// Calls `work` with the elements of contiguous f32 tensors on a CPU.
pub(crate) fn with_f32_slices<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slice = match &**storage {
            Storage::Cpu(storage) => f32_slice(storage, layout)?,
            _ => candle_core::bail!("a CPU kernel was given a tensor on another device"),
        };
    }
    work(slices)
}

/// The elements of a contiguous f32 tensor.
pub(super) fn f32_slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a kernel was given a tensor that is not contiguous"),
    }
}
