//! Memory-mapped safetensors, sharded or not, in any of the four layouts of LLaVA's tensor names.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Shape, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::data::files::{mend_of, read_text, require_regular};
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a checkpoint under their canonical names: those that transformers 5 saves.
pub struct Weights {
    files: Vec<Mapped>,
    index: BTreeMap<String, Location>,
    dir: PathBuf,
    dtype: DType,
    device: Device,
    check_only: bool,
}

struct Mapped {
    path: PathBuf,
    bytes: memmap2::Mmap,
}

struct Location {
    file: usize,
    stored_name: String,
}

impl Weights {
    /// Maps the checkpoint in `dir`; tensors are converted to `dtype` on `device` as they are taken.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file when there is no checkpoint, a shard is missing or truncated, or two
    /// tensors have the same meaning.
    pub fn open(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let mut weights = Self {
            files: Vec::new(),
            index: BTreeMap::new(),
            dir: dir.to_owned(),
            dtype,
            device: device.clone(),
            check_only: false,
        };
        for path in checkpoint_files(dir)? {
            weights.add_file(&path)?;
        }
        Ok(weights)
    }

    /// The same, whose tensors are checked and not read: each is one zero in its place.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_to_check(dir: &Path) -> Result<Self> {
        Ok(Self { check_only: true, ..Self::open(dir, DType::F32, &Device::Cpu)? })
    }

    /// Adds the CLIP repository in `dir`, whose tensors become the vision tower.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn add_vision_tower(&mut self, dir: &Path) -> Result<()> {
        checkpoint_files(dir)?.iter().try_for_each(|path| self.add_file(path))
    }

    #[expect(
        unsafe_code,
        reason = "a memory map; the checkpoint is mounted read-only and digested by `prepare`"
    )]
    fn add_file(&mut self, path: &Path) -> Result<()> {
        require_regular(path)?;
        let file = File::open(path).map_err(Error::storage(path))?;
        // SAFETY: nothing of this process writes to the file. Another process that truncates it while it is
        // mapped would be a broken promise of the volume, not of this code.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::storage(path))?;
        let tensors = parse(path, &bytes)?;
        let number = self.files.len();
        for (name, _) in tensors.iter() {
            match self.index.entry(canonical_name(name)) {
                Entry::Vacant(entry) => {
                    entry.insert(Location { file: number, stored_name: name.to_owned() });
                }
                Entry::Occupied(entry) => {
                    return Err(Error::Config(format!(
                        "{}: tensors {:?} and {name:?} both mean {:?}; the checkpoint mixes layouts, export it again",
                        path.display(),
                        entry.get().stored_name,
                        entry.key()
                    )));
                }
            }
        }
        self.files.push(Mapped { path: path.to_owned(), bytes });
        Ok(())
    }

    /// The config beside it, for messages.
    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.join(super::config::CONFIG_FILE)
    }

    /// Refuses a checkpoint of more layers than its config knows of: it would run, and be another model.
    ///
    /// # Errors
    /// [`Error::Config`] when there is `tensor`, the first layer's beyond `layers`.
    pub(super) fn ends_at(&self, layers: usize, tensor: &str) -> Result<()> {
        if !self.contains(tensor) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: has {tensor:?}, but num_hidden_layers in {} is {layers}; the config and the weights are not of one model, download both again",
            self.file_of(tensor),
            self.config_path().display()
        )))
    }

    /// Whether the checkpoint has the tensor.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The number of elements of all tensors.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn parameter_count(&self) -> Result<u64> {
        let mut count = 0;
        for name in self.names() {
            count += self.shape(name)?.iter().map(|d| *d as u64).product::<u64>();
        }
        Ok(count)
    }

    /// The tensor's shape as stored.
    ///
    /// # Errors
    /// [`Error::Config`] when it is missing.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.view(name, |view| Ok(view.shape().to_vec()))
    }

    /// The tensor, which must have `shape`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the tensor when it is missing or has another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        let shape = shape.into();
        self.get_as(&shape, name, self.dtype)
    }

    /// As [`Weights::get`], in the type it is stored in, on the CPU.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn get_stored(&self, name: &str) -> Result<Tensor> {
        let shape = Shape::from(self.shape(name)?);
        self.view(name, |view| {
            let dtype = candle_dtype(view.dtype()).ok_or_else(|| self.unsupported(name, view.dtype()))?;
            Ok(Tensor::from_raw_buffer(view.data(), dtype, shape.dims(), &Device::Cpu)?)
        })
    }

    fn get_as(&self, shape: &Shape, name: &str, dtype: DType) -> Result<Tensor> {
        self.view(name, |view| {
            if view.shape() != shape.dims() {
                return Err(Error::Config(format!(
                    "{}: tensor {:?} has shape {:?}, but {} asks for {:?}; the config and the weights are not of one model, download both again",
                    self.file_of(name),
                    self.index[name].stored_name,
                    view.shape(),
                    super::config::CONFIG_FILE,
                    shape.dims()
                )));
            }
            let stored = candle_dtype(view.dtype()).ok_or_else(|| self.unsupported(name, view.dtype()))?;
            if self.check_only {
                return Ok(Tensor::zeros(1, dtype, &Device::Cpu)?.broadcast_as(shape)?);
            }
            // Converted where the bytes are: a copy in f32 never crosses to a GPU that keeps bf16.
            let tensor = Tensor::from_raw_buffer(view.data(), stored, shape.dims(), &Device::Cpu)?;
            Ok(tensor.to_dtype(dtype)?.to_device(&self.device)?)
        })
    }

    fn view<T>(
        &self,
        name: &str,
        read: impl FnOnce(safetensors::tensor::TensorView<'_>) -> Result<T>,
    ) -> Result<T> {
        let location = self.index.get(name).ok_or_else(|| {
            Error::Config(format!(
                "{}: no tensor means {name:?}; the checkpoint is incomplete or its {} is of another model, download both again",
                self.dir.display(),
                super::config::CONFIG_FILE
            ))
        })?;
        let file = &self.files[location.file];
        let tensors = parse(&file.path, &file.bytes)?;
        let view = tensors
            .tensor(&location.stored_name)
            .map_err(|e| Error::Config(format!("{}: {e}", file.path.display())))?;
        read(view)
    }

    fn file_of(&self, name: &str) -> String {
        self.index.get(name).map_or_else(
            || self.dir.display().to_string(),
            |location| self.files[location.file].path.display().to_string(),
        )
    }

    fn unsupported(&self, name: &str, dtype: Dtype) -> Error {
        Error::Config(format!(
            "{}: tensor {name:?} is stored as {dtype:?}; use a checkpoint in F32, F16 or BF16",
            self.file_of(name)
        ))
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| {
        Error::Config(format!("{}: not a whole safetensors file ({e}); {}", path.display(), mend_of(bytes)))
    })
}

const fn candle_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

/// The safetensors files of a checkpoint: those of its index, or the single one.
///
/// # Errors
/// [`Error::Config`] naming what is missing.
pub fn checkpoint_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index_path = dir.join(INDEX);
    if !index_path.exists() {
        let single = dir.join(SINGLE);
        if single.exists() {
            return Ok(vec![single]);
        }
        let bin = dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
        let mend = if bin {
            "it has pytorch_model.bin only: convert it with transformers' save_pretrained"
        } else {
            "the folder must hold a checkpoint in safetensors format"
        };
        return Err(Error::Config(format!("{}: neither {SINGLE} nor {INDEX} found; {mend}", dir.display())));
    }
    let text = read_text(&index_path)?.unwrap_or_default();
    let bad = |reason: &str| Error::Config(format!("{}: {reason}; download it again", index_path.display()));
    let json: Value = serde_json::from_str(&text).map_err(|e| bad(&e.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("field weight_map is missing"))?;
    let mut names: Vec<&str> = map
        .values()
        .map(|v| v.as_str().filter(|name| name.ends_with(".safetensors") && !name.contains(['/', '\\'])))
        .collect::<Option<_>>()
        .filter(|names: &Vec<&str>| !names.is_empty())
        .ok_or_else(|| bad("field weight_map must map tensors to names of safetensors files beside it"))?;
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let path = dir.join(name);
            if path.exists() {
                Ok(path)
            } else {
                Err(Error::Config(format!(
                    "{}: shard named by {INDEX} not found; download it again",
                    path.display()
                )))
            }
        })
        .collect()
}

/// The rename table: (stored prefix, canonical prefix), the first match wins.
const RENAMES: [(&str, &str); 16] = [
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("vision_tower.vision_model.", "vision_tower."),
    ("vision_model.", "vision_tower."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.layers.", "language_model.model.layers."),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.norm.", "language_model.model.norm."),
    ("language_model.layers.", "language_model.model.layers."),
];

/// What transformers 5 saves a tensor as, whichever layout `stored` is of.
#[must_use]
pub fn canonical_name(stored: &str) -> String {
    RENAMES
        .iter()
        .find_map(|(from, to)| stored.strip_prefix(from).map(|rest| format!("{to}{rest}")))
        .unwrap_or_else(|| stored.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_layouts_have_one_name() {
        let table = [
            (
                "language_model.model.layers.0.mlp.up_proj.weight",
                [
                    "language_model.model.layers.0.mlp.up_proj.weight",
                    "model.language_model.layers.0.mlp.up_proj.weight",
                    "model.layers.0.mlp.up_proj.weight",
                ]
                .as_slice(),
            ),
            ("language_model.lm_head.weight", &["language_model.lm_head.weight", "lm_head.weight"]),
            (
                "vision_tower.encoder.layers.1.mlp.fc1.bias",
                &[
                    "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
                    "vision_tower.encoder.layers.1.mlp.fc1.bias",
                    "model.vision_tower.encoder.layers.1.mlp.fc1.bias",
                    "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
                    "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
                    "vision_model.encoder.layers.1.mlp.fc1.bias",
                ],
            ),
            (
                "multi_modal_projector.linear_2.bias",
                &[
                    "multi_modal_projector.linear_2.bias",
                    "model.multi_modal_projector.linear_2.bias",
                    "model.mm_projector.2.bias",
                ],
            ),
            ("image_newline", &["image_newline", "model.image_newline"]),
            (
                "language_model.model.norm.weight",
                &[
                    "language_model.model.norm.weight",
                    "model.language_model.norm.weight",
                    "model.norm.weight",
                ],
            ),
        ];
        for (canonical, stored) in table {
            for name in stored {
                assert_eq!(canonical_name(name), canonical, "{name}");
            }
        }
    }
}
