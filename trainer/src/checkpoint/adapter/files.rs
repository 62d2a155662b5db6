//! The names of an adapter's files.

pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The weights as older versions of PEFT wrote them.
pub(super) const PICKLED_FILE: &str = "adapter_model.bin";
/// The original LLaVA's further trained tensors, the projector among them.
pub(super) const PROJECTOR_FILE: &str = "non_lora_trainables.bin";
