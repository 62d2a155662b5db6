//! The tensors of a checkpoint: memory-mapped safetensors, sharded or not, under canonical names.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Shape, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::config::quantization;
use super::renames::{RenameTables, canonical_name};
use super::weight_files::weight_files;
use crate::data::files::{CONFIG_FILE, damage_advice, require_regular};
use crate::error::{Error, Result};

/// The tensors of a checkpoint under their canonical names, which are those that transformers 5 saves.
pub struct Weights {
    files: Vec<MappedFile>,
    index: BTreeMap<String, Location>,
    renames: RenameTables,
    dir: PathBuf,
    dtype: DType,
    device: Device,
    check_only: bool,
    /// Bytes of the tensors that were read, in the types that they were converted to.
    read_bytes: Cell<u64>,
}

struct MappedFile {
    path: PathBuf,
    bytes: memmap2::Mmap,
}

struct Location {
    file: usize,
    stored_name: String,
}

impl Weights {
    /// Maps the checkpoint in `dir`. Tensors are converted to `dtype` on `device` as they are read.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file when there is no checkpoint, a shard is missing or truncated, or two
    /// tensors have the same canonical name.
    pub fn open(dir: &Path, renames: RenameTables, dtype: DType, device: &Device) -> Result<Self> {
        let mut weights = Self {
            files: Vec::new(),
            index: BTreeMap::new(),
            renames,
            dir: dir.to_owned(),
            dtype,
            device: device.clone(),
            check_only: false,
            read_bytes: Cell::new(0),
        };
        weights.add_dir(dir)?;
        Ok(weights)
    }

    /// As [`Weights::open`], for a check of names and shapes: no tensor is read, each is a broadcast zero.
    pub fn open_to_check(dir: &Path, renames: RenameTables, dtype: DType) -> Result<Self> {
        Ok(Self { check_only: true, ..Self::open(dir, renames, dtype, &Device::Cpu)? })
    }

    /// Bytes of all tensors that were read or checked.
    pub(super) const fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }

    /// Adds the tensors in `dir`: the repository of a separate vision tower.
    pub(super) fn add_dir(&mut self, dir: &Path) -> Result<()> {
        weight_files(dir)?.iter().try_for_each(|path| self.add_file(path))
    }

    #[expect(
        unsafe_code,
        reason = "a memory map; the checkpoint is mounted read-only and digested by `prepare`"
    )]
    fn add_file(&mut self, path: &Path) -> Result<()> {
        require_regular(path)?;
        let file = File::open(path).map_err(Error::storage(path))?;
        // SAFETY: this process does not write to the file, and models lie on volumes that are mounted read-only.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::storage(path))?;
        let tensors = parse(path, &bytes)?;
        let number = self.files.len();
        for (name, _) in tensors.iter() {
            if let Some(format) = quantization::format_of_tensor(name) {
                return Err(Error::Config(format!(
                    "{}: tensor {name:?} is of a quantised checkpoint ({format}); {}",
                    path.display(),
                    quantization::ADVICE
                )));
            }
            match self.index.entry(canonical_name(name, self.renames)) {
                Entry::Vacant(entry) => {
                    entry.insert(Location { file: number, stored_name: name.to_owned() });
                }
                Entry::Occupied(entry) => {
                    return Err(Error::Config(format!(
                        "{}: tensors {:?} and {name:?} are both {:?}; the checkpoint mixes two layouts, export it again",
                        path.display(),
                        entry.get().stored_name,
                        entry.key()
                    )));
                }
            }
        }
        self.files.push(MappedFile { path: path.to_owned(), bytes });
        Ok(())
    }

    /// The model's config, for messages.
    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Refuses a checkpoint with more layers than its config has, which would run as a different model.
    ///
    /// # Errors
    /// [`Error::Config`] when there is `tensor`, which is of the layer after the last of `layers`.
    pub(super) fn require_last_layer(&self, layers: usize, tensor: &str) -> Result<()> {
        if !self.contains(tensor) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: has {tensor:?}, but num_hidden_layers in {} is {layers}; the config and the weights are of different models, download both again",
            self.file_of(tensor),
            self.config_path().display()
        )))
    }

    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
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

    /// As [`Weights::get`], in f32 whatever the type of the others: of norms and the patch embedding.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn get_f32(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        self.get_as(&shape.into(), name, DType::F32)
    }

    /// The tensor in the type it is stored in, on the CPU.
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
            let stored = candle_dtype(view.dtype()).ok_or_else(|| self.unsupported(name, view.dtype()))?;
            if view.shape() != shape.dims() {
                return Err(Error::Config(format!(
                    "{}: tensor {:?} has shape {:?}, but it must be {:?} by {}; the config and the weights are of different models, download both again",
                    self.file_of(name),
                    self.index[name].stored_name,
                    view.shape(),
                    shape.dims(),
                    CONFIG_FILE
                )));
            }
            self.read_bytes.set(self.read_bytes.get() + (shape.elem_count() * dtype.size_in_bytes()) as u64);
            if self.check_only {
                return Ok(Tensor::zeros(1, dtype, &Device::Cpu)?.broadcast_as(shape)?);
            }
            if stored == dtype {
                return Ok(Tensor::from_raw_buffer(view.data(), stored, shape.dims(), &self.device)?);
            }
            // Converted on the CPU, so that a GPU never holds a copy in another type.
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
                "{}: has no tensor {name:?}; the checkpoint is incomplete or its {} is of another model, download both again",
                self.dir.display(),
                CONFIG_FILE
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
        Error::Config(format!(
            "{}: not a valid safetensors file ({e}); {}",
            path.display(),
            damage_advice(bytes)
        ))
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
