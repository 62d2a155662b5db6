//! `score`: the log-probability of every response token, for any prompts, images and responses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::data::encode::Encoder;
use crate::data::image::{self, Limits};
use crate::data::images_dir;
use crate::data::jsonl;
use crate::data::processor::PixelValues;
use crate::data::template::Turn;
use crate::error::{Error, Result};
use crate::io::adapter::write_safetensors;
use crate::io::atomic;
use crate::io::stop::Stop;
use crate::model::lora::LoraAdapter;
use crate::stages::Vlm;
use crate::training::Branches;
use crate::training::step::response_log_probs;

/// A line of the input.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Names the row in the output.
    pub id: String,
    /// The image, relative to the image folder.
    #[serde(default)]
    pub image: Option<String>,
    /// Instead of an image: a safetensors file as `--dump-pixels` writes it, relative to the image folder.
    #[serde(default)]
    pub pixels: Option<String>,
    /// What the user asks.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Instead of a prompt: its token ids, taken as they are but for a single image token, which is repeated for
    /// each feature of the image.
    #[serde(default)]
    pub prompt_ids: Option<Vec<u32>>,
    /// The response as text: tokenised together with its prompt, EOS appended.
    #[serde(default)]
    pub response: Option<String>,
    /// The response as token ids, taken as they are.
    #[serde(default)]
    pub response_ids: Option<Vec<u32>>,
}

/// A line of the output.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// The row's id.
    pub id: String,
    /// `base` or `adapter`.
    pub policy: &'static str,
    /// The response's token ids.
    pub tokens: Vec<u32>,
    /// log p of each, in nats, given all before it.
    pub logprobs: Vec<f32>,
    /// Their sum.
    pub sum: f64,
    /// Their mean.
    pub mean: f64,
}

/// Scores rows with one model.
pub struct Scorer<'a> {
    /// The model.
    pub vlm: &'a Vlm,
    /// Its tokenizer under one template; rows of token ids need none.
    pub encoder: Option<&'a Encoder>,
    /// The folder images are in.
    pub images: &'a Path,
    /// Where to write what the model was fed, a file a row.
    pub dump: Option<PathBuf>,
}

/// A row as token ids.
struct Encoded {
    prompt: Vec<u32>,
    response: Vec<u32>,
}

impl Scorer<'_> {
    /// Reads the rows of `input`.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and line.
    pub fn read(input: &Path) -> Result<Vec<(usize, Request)>> {
        let mut rows: Vec<(usize, Request)> = Vec::new();
        let mut lines = HashMap::new();
        for row in jsonl::read::<Request>(input)? {
            let (line, row) = row?;
            if let Some(first) = lines.insert(row.id.clone(), line) {
                return Err(Error::Data(format!(
                    "{}:{line}: id {:?} is that of the row on line {first}; give each row an id of its own",
                    input.display(),
                    row.id
                )));
            }
            rows.push((line, row));
        }
        if rows.is_empty() {
            return Err(Error::Data(format!(
                "{}: holds no row; add some or correct the path",
                input.display()
            )));
        }
        Ok(rows)
    }

    /// The scores of one row under each policy given, by name.
    ///
    /// # Errors
    /// [`Error::Data`] for an image that cannot be read or a response that cannot be told from its prompt.
    pub fn score(
        &self,
        request: &Request,
        policies: &[(&'static str, Option<&LoraAdapter>)],
    ) -> Result<Vec<Score>> {
        let pixels = match (&request.image, &request.pixels) {
            (Some(image), None) => Some(self.preprocess(image)?),
            (None, Some(dumped)) => Some(self.read_dumped(dumped)?),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(Error::Data("give at most one of image and pixels".into())),
        };
        // Whoever asks for scores can stop between rows.
        let stop = Stop::default();
        let seen = pixels.as_ref().map(|pixels| self.vlm.see_pixels(pixels, &stop)).transpose()?;
        let encoded = self.encode(request, seen.as_ref().map(|seen| seen.tokens))?;
        if let Some(dir) = &self.dump {
            dump(dir, request, pixels.as_ref(), &encoded)?;
        }
        let responses = [encoded.response.as_slice()];
        let branches = Branches {
            prompt: &encoded.prompt,
            features: seen.as_ref().map(|seen| &seen.features),
            responses: &responses,
        };
        policies
            .iter()
            .map(|(policy, adapter)| {
                let logprobs =
                    response_log_probs(&self.vlm.model, &branches, adapter.map(Into::into))?.concat();
                let sum: f64 = logprobs.iter().map(|v| f64::from(*v)).sum();
                Ok(Score {
                    id: request.id.clone(),
                    policy,
                    tokens: encoded.response.clone(),
                    sum,
                    mean: sum / logprobs.len() as f64,
                    logprobs,
                })
            })
            .collect()
    }

    fn preprocess(&self, relative: &str) -> Result<PixelValues> {
        let path = images_dir::resolve(self.images, relative)?;
        let image = image::open(&path, &Limits::default())
            .map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
        self.vlm.checked.processor.preprocess(&image)
    }

    fn read_dumped(&self, relative: &str) -> Result<PixelValues> {
        let path = images_dir::resolve(self.images, relative)?;
        let invalid = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .map_err(|e| invalid(format!("{e}; dump it again")))?;
        let values =
            tensors.get("pixel_values").ok_or_else(|| invalid("has no tensor pixel_values".into()))?;
        let dims = values.dims();
        let [.., 3, height, width] = *dims else {
            return Err(invalid(format!(
                "pixel_values has shape {dims:?}; expected [crops, 3, height, width]"
            )));
        };
        let original = match tensors.get("image_sizes") {
            Some(sizes) => match sizes.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?.as_slice() {
                [h, w] => (*h as u32, *w as u32),
                other => {
                    return Err(invalid(format!("image_sizes is {other:?}; expected one (height, width)")));
                }
            },
            None => (height as u32, width as u32),
        };
        let crops = dims[..dims.len() - 3].iter().product();
        let expected = self.vlm.checked.processor.packing(original).map_or(1, |packing| packing.tiles() + 1);
        if crops != expected {
            return Err(invalid(format!(
                "pixel_values has {crops} crops, an image of {original:?} has {expected}"
            )));
        }
        Ok(PixelValues {
            data: values.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            crops,
            height,
            width,
            original,
        })
    }

    fn encode(&self, request: &Request, image_tokens: Option<usize>) -> Result<Encoded> {
        let turn =
            |text: &str| if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
        let encoder = || {
            self.encoder.ok_or_else(|| {
                Error::Config("the model has no tokenizer; give prompt_ids and response_ids".into())
            })
        };
        let encoded = match (&request.prompt, &request.prompt_ids, &request.response, &request.response_ids) {
            (Some(prompt), None, Some(text), None) => {
                let whole =
                    encoder()?.encode_supervised(&[turn(prompt), Turn::assistant(text)], image_tokens)?;
                let start = whole.labels.iter().position(|label| *label).unwrap_or(whole.ids.len());
                Encoded { prompt: whole.ids[..start].to_vec(), response: whole.ids[start..].to_vec() }
            }
            (Some(prompt), None, None, Some(ids)) => Encoded {
                prompt: encoder()?.encode_prompt(&[turn(prompt)], image_tokens)?.ids,
                response: ids.clone(),
            },
            (None, Some(prompt), None, Some(ids)) => {
                Encoded { prompt: self.expand(prompt, image_tokens), response: ids.clone() }
            }
            _ => {
                return Err(Error::Data(
                    "give prompt with response or response_ids, or prompt_ids with response_ids".into(),
                ));
            }
        };
        let vocabulary = self.vlm.checked.config.text.vocab_size;
        if encoded.response.is_empty() {
            return Err(Error::Data("the response is empty".into()));
        }
        let image = self.vlm.checked.config.image_token_id;
        let beyond = |id: &&u32| **id as usize >= vocabulary;
        let prompt = encoded.prompt.iter().filter(|id| **id != image);
        if let Some(id) = prompt.chain(&encoded.response).find(beyond) {
            return Err(Error::Data(format!("token id {id} is beyond the vocabulary of {vocabulary}")));
        }
        let (tokens, limit) = (encoded.prompt.len() + encoded.response.len(), self.vlm.checked.max_tokens());
        if tokens > limit {
            return Err(Error::Data(format!(
                "prompt and response have {tokens} tokens, the model takes {limit}"
            )));
        }
        Ok(encoded)
    }
}

impl Scorer<'_> {
    /// One image token becomes as many as the image has features.
    fn expand(&self, prompt: &[u32], image_tokens: Option<usize>) -> Vec<u32> {
        let image = self.vlm.checked.config.image_token_id;
        let single = prompt.iter().filter(|id| **id == image).count() == 1;
        let times = |id: u32| if single && id == image { image_tokens.unwrap_or(1) } else { 1 };
        prompt.iter().flat_map(|id| std::iter::repeat_n(*id, times(*id))).collect()
    }
}

/// `pixel_values` `[crops, 3, h, w]`, `image_sizes` `[1, 2]` (height, width), `prompt_ids` and `response_ids` `[n]`.
fn dump(dir: &Path, request: &Request, pixels: Option<&PixelValues>, encoded: &Encoded) -> Result<()> {
    atomic::create_dir(dir)?;
    let name: String = request
        .id
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect();
    let ids = |ids: &[u32]| Tensor::from_iter(ids.iter().map(|id| i64::from(*id)), &Device::Cpu);
    let mut tensors = std::collections::BTreeMap::from([
        ("prompt_ids".to_owned(), ids(&encoded.prompt)?),
        ("response_ids".to_owned(), ids(&encoded.response)?),
    ]);
    if let Some(pixels) = pixels {
        let shape = (pixels.crops, 3, pixels.height, pixels.width);
        tensors.insert("pixel_values".into(), Tensor::from_slice(&pixels.data, shape, &Device::Cpu)?);
        let size = [i64::from(pixels.original.0), i64::from(pixels.original.1)];
        tensors.insert("image_sizes".into(), Tensor::from_slice(&size, (1, 2), &Device::Cpu)?);
    }
    write_safetensors(&dir.join(format!("{name}.safetensors")), &tensors)
}
