#![no_main]
//! `model.safetensors`: whatever its header says, no tensor is read past the end of the file.

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;
use stic_fuzz::folder;
use stic_trainer::model::{Family, weights::Weights};

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&[("model.safetensors", bytes)]);
    let Ok(weights) = Weights::open(folder.path(), Family::LlavaNext.renames(), DType::F32, &Device::Cpu)
    else {
        return;
    };
    let mut read = 0;
    for name in weights.names() {
        let shape = weights.shape(name).expect("an indexed tensor has a shape");
        if let Ok(tensor) = weights.get_stored(name) {
            assert_eq!(tensor.dims(), shape);
            read += tensor.elem_count() * tensor.dtype().size_in_bytes();
        }
        let _ = weights.get(shape, name);
    }
    assert!(read <= bytes.len(), "{read} bytes of {}", bytes.len());
    let to_check =
        Weights::open_to_check(folder.path(), Family::LlavaNext.renames()).expect("it could be opened");
    for name in to_check.names() {
        let _ = to_check.get(to_check.shape(name).expect("as above"), name);
    }
});
