//! Operations composed of candle's, with a backward pass of their own.
//!
//! A graph of candle's operations keeps every intermediate value, most of them in f32: several times what a layer's inputs and
//! outputs take. An operation with a backward pass of its own keeps its arguments and its result, and computes again what else
//! it needs.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor};

/// The gradients of arguments, from the arguments and the gradient of the result.
type Backward<const N: usize> = Box<dyn Fn([&Tensor; N], &Tensor) -> Result<[Tensor; N]> + Send + Sync>;

struct ComposedOp<const N: usize> {
    name: &'static str,
    /// Computed already, until the operation is applied: the graph must not keep it twice.
    result: Mutex<Option<Tensor>>,
    backward: Backward<N>,
}

/// `forward` of `xs`, with the gradient that `backward` returns for the argument and the gradient of the result.
pub(super) fn composed_op1(
    name: &'static str,
    xs: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<Tensor>,
    backward: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let result = forward(&xs.detach())?;
    if !xs.track_op() {
        return Ok(result);
    }
    let backward: Backward<1> = Box::new(move |[xs], grad| Ok([backward(xs, grad)?]));
    xs.apply_op1(ComposedOp::new(name, &result, backward)?)
}

/// As [`composed_op1`], of two arguments.
pub(super) fn composed_op2(
    name: &'static str,
    [a, b]: [&Tensor; 2],
    forward: impl FnOnce([&Tensor; 2]) -> Result<Tensor>,
    backward: impl Fn([&Tensor; 2], &Tensor) -> Result<[Tensor; 2]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let result = forward([&a.detach(), &b.detach()])?;
    if ![a, b].iter().any(|xs| xs.track_op()) {
        return Ok(result);
    }
    a.apply_op2(b, ComposedOp::new(name, &result, Box::new(backward))?)
}

/// As [`composed_op1`], of three arguments.
pub(super) fn composed_op3(
    name: &'static str,
    [a, b, c]: [&Tensor; 3],
    forward: impl FnOnce([&Tensor; 3]) -> Result<Tensor>,
    backward: impl Fn([&Tensor; 3], &Tensor) -> Result<[Tensor; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let result = forward([&a.detach(), &b.detach(), &c.detach()])?;
    if ![a, b, c].iter().any(|xs| xs.track_op()) {
        return Ok(result);
    }
    a.apply_op3(b, c, ComposedOp::new(name, &result, Box::new(backward))?)
}

impl<const N: usize> ComposedOp<N> {
    fn new(name: &'static str, result: &Tensor, backward: Backward<N>) -> Result<Self> {
        // A copy of a storage is one of the whole storage.
        let result = result.contiguous()?;
        let result = if result.layout().start_offset() == 0 { result } else { result.copy()? };
        Ok(Self { name, result: Mutex::new(Some(result)), backward })
    }

    /// The result, of which an operation must return a copy.
    fn take(&self) -> Result<Tensor> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Ok(result),
            None => candle_core::bail!("{}: the operation was applied twice", self.name),
        }
    }

    fn on_cpu(&self) -> Result<(CpuStorage, Shape)> {
        let result = self.take()?;
        let (storage, layout) = result.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => candle_core::bail!("{}: the result is not on the CPU as its argument is", self.name),
        }
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self) -> Result<(candle_core::CudaStorage, Shape)> {
        let result = self.take()?;
        let (storage, layout) = result.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => candle_core::bail!("{}: the result is not on the GPU as its argument is", self.name),
        }
    }
}

impl CustomOp1 for ComposedOp<1> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu()
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = (self.backward)([&xs.detach()], grad)?;
        Ok(Some(dx))
    }
}

impl CustomOp2 for ComposedOp<2> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = (self.backward)([&a.detach(), &b.detach()], grad)?;
        Ok((Some(da), Some(db)))
    }
}

impl CustomOp3 for ComposedOp<3> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.backward)([&a.detach(), &b.detach(), &c.detach()], grad)?;
        Ok((Some(da), Some(db), Some(dc)))
    }
}
