//! Recognises quantised checkpoints, which do not hold the weights that their config describes.

use std::path::Path;

use crate::data::fields::Fields;
use crate::error::{Error, Result};

pub(in crate::model) const ADVICE: &str = "use the unquantised checkpoint of this model";

/// Where the libraries write that they quantised a checkpoint: transformers, MLX, and llm-compressor.
const FIELDS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];
/// Files of AutoGPTQ and of llm-awq, beside a config that does not say it.
const FILES: [(&str, &str); 2] = [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")];
/// Endings of the names of tensors that only quantised checkpoints have.
const TENSORS: [(&str, &str); 11] = [
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_scale", "fp8 or compressed-tensors"),
    (".weight_scale_inv", "fp8"),
    (".weight_packed", "compressed-tensors"),
    (".W_q", "HQQ"),
    (".scales", "MLX or another library"),
];

/// # Errors
/// [`Error::Config`] naming the field or the file that says that the checkpoint in `dir` is quantised.
pub(in crate::model) fn refuse(dir: &Path, root: &Fields<'_>) -> Result<()> {
    let nested = ["text_config", "vision_config", "llm_config"].map(|key| root.nested(key));
    let mut objects = vec![*root];
    for object in nested {
        objects.extend(object?);
    }
    for (object, field) in objects.iter().flat_map(|object| FIELDS.map(|field| (object, field))) {
        let Some(value) = object.get(field) else { continue };
        let method = value.get("quant_method").and_then(serde_json::Value::as_str);
        let method = method
            .or_else(|| value.get("mode").and_then(serde_json::Value::as_str))
            .unwrap_or("no method named");
        return Err(object.error(
            field,
            &format!("the checkpoint is quantised ({method}); {ADVICE}, or remove the field if its weights are not quantised"),
        ));
    }
    for (file, method) in FILES {
        let path = dir.join(file);
        if path.exists() {
            return Err(Error::Config(format!(
                "{}: the checkpoint is quantised ({method}); {ADVICE}, or remove the file if its weights are not quantised",
                path.display()
            )));
        }
    }
    Ok(())
}

/// The library that writes such a tensor.
pub(in crate::model) fn format_of_tensor(name: &str) -> Option<&'static str> {
    TENSORS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format)
}
