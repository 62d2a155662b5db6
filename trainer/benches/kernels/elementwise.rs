//! Elementwise and row-wise operations beside candle's: whether exp compiled to vector instructions shows
//! here.

use candle_core::{Result, Tensor};
use criterion::{Criterion, Throughput};
use stic_trainer::kernels::norm::rms_norm;
use stic_trainer::kernels::rope::rotate;
use stic_trainer::kernels::swish::swiglu;

use crate::tensor;

pub(crate) fn bench(criterion: &mut Criterion) {
    let (tokens, width) = (2400, 1792);
    let (gate, up) = (tensor((1, tokens, width), 1), tensor((1, tokens, width), 2));
    let (weight, angles) = (tensor(width, 3), tensor((tokens, 32), 4));
    let by_head = gate.reshape((1, tokens, width / 64, 64)).unwrap();
    let mut group = criterion.benchmark_group("elementwise");
    group.throughput(Throughput::Elements((tokens * width) as u64));
    let mut measure = |name: &str, run: &dyn Fn() -> Result<Tensor>| {
        group.bench_function(name, |bencher| bencher.iter(|| run().unwrap()));
    };
    measure("swiglu", &|| swiglu(&gate, &up));
    measure("candle's silu", &|| gate.silu());
    measure("rms norm", &|| rms_norm(&gate, &weight, 1e-5));
    measure("rotary embedding", &|| rotate(&by_head, 1, &angles, &angles));
    measure("candle's sum of two tensors", &|| &gate + &up);
    group.finish();
}
