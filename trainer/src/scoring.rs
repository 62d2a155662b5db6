//! `score`: the log-probability of every token of given responses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::cancellation::CancellationToken;
use crate::data::encode::Encoder;
use crate::data::image::{self, ImageLimits};
use crate::data::images_dir;
use crate::data::processor::PixelValues;
use crate::data::template::Turn;
use crate::data::unique_rows::read_unique;
use crate::error::{Error, Result};
use crate::inference::Vlm;
use crate::io::{atomic, safetensors};
use crate::model::lora::LoraAdapter;
use crate::training::Branches;
use crate::training::step::response_log_probs;

/// A line of the input.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest {
    /// Repeated in the output.
    pub id: String,
    /// Relative to the image folder.
    #[serde(default)]
    pub image: Option<String>,
    /// Instead of an image: a safetensors file written by `--dump-pixels`, relative to the image folder.
    #[serde(default)]
    pub pixels: Option<String>,
    #[serde(default)]
    pub prompt: Option<String>,
    /// Instead of a prompt: its token ids. A single image token is repeated for each feature of the image; all else is
    /// used as is.
    #[serde(default)]
    pub prompt_ids: Option<Vec<u32>>,
    /// Tokenized together with its prompt, and followed by EOS.
    #[serde(default)]
    pub response: Option<String>,
    /// Instead of a response: its token ids, used as is.
    #[serde(default)]
    pub response_ids: Option<Vec<u32>>,
}

/// A line of the output.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// The id of the input line.
    pub id: String,
    /// `base` or `adapter`.
    pub policy: &'static str,
    /// The response's token ids.
    pub tokens: Vec<u32>,
    /// log p of each token given all before it, in nats.
    pub logprobs: Vec<f32>,
    pub sum: f64,
    pub mean: f64,
}

/// Scores responses with one model.
pub struct Scorer<'a> {
    pub vlm: &'a Vlm,
    /// Not needed for token ids.
    pub encoder: Option<&'a Encoder>,
    /// The folder of the images.
    pub images: &'a Path,
    /// Where to write the model's inputs, one file per request.
    pub dump: Option<PathBuf>,
}

struct TokenizedRequest {
    prompt: Vec<u32>,
    response: Vec<u32>,
}

impl Scorer<'_> {
    /// The requests of `input`, with their line numbers.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and line.
    pub fn read(input: &Path) -> Result<Vec<(usize, ScoreRequest)>> {
        read_unique(input, |request: &ScoreRequest| &request.id)
    }

    /// The scores of one request under each of the named policies.
    ///
    /// # Errors
    /// [`Error::Data`] for a request that cannot be scored.
    pub fn score(
        &self,
        request: &ScoreRequest,
        policies: &[(&'static str, Option<&LoraAdapter>)],
    ) -> Result<Vec<Score>> {
        let pixels = match (&request.image, &request.pixels) {
            (Some(image), None) => Some(self.preprocess(image)?),
            (None, Some(dumped)) => Some(self.read_pixels(dumped)?),
            (None, None) => None,
            (Some(_), Some(_)) => {
                return Err(Error::Data("image and pixels are both set; remove one".into()));
            }
        };
        // Cancellation takes effect between requests.
        let uncancelled = CancellationToken::default();
        let image = pixels.as_ref().map(|pixels| self.vlm.encode_image(pixels, &uncancelled)).transpose()?;
        let tokenized = self.tokenize(request, image.as_ref().map(|image| image.tokens))?;
        self.check(&tokenized)?;
        if let Some(dir) = &self.dump {
            dump(dir, request, pixels.as_ref(), &tokenized)?;
        }
        let responses = [tokenized.response.as_slice()];
        let branches = Branches {
            prompt: &tokenized.prompt,
            features: image.as_ref().map(|image| &image.features),
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
                    tokens: tokenized.response.clone(),
                    sum,
                    mean: sum / logprobs.len() as f64,
                    logprobs,
                })
            })
            .collect()
    }

    fn preprocess(&self, relative: &str) -> Result<PixelValues> {
        let path = images_dir::resolve(self.images, relative)?;
        let image = image::open(&path, &ImageLimits::default())
            .map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
        self.vlm.files.processor.preprocess(&image)
    }

    fn read_pixels(&self, relative: &str) -> Result<PixelValues> {
        let path = images_dir::resolve(self.images, relative)?;
        let invalid = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .map_err(|e| invalid(format!("{e}; write it again with --dump-pixels")))?;
        let values = tensors.get("pixel_values").ok_or_else(|| {
            invalid("tensor pixel_values is missing; write the file again with --dump-pixels".into())
        })?;
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
        let expected = self.vlm.files.processor.packing(original).map_or(1, |packing| packing.tiles() + 1);
        if crops != expected {
            return Err(invalid(format!(
                "pixel_values has {crops} crops, but an image of {original:?} has {expected}"
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

    fn tokenize(&self, request: &ScoreRequest, image_tokens: Option<usize>) -> Result<TokenizedRequest> {
        let turn =
            |text: &str| if image_tokens.is_some() { Turn::user_with_image(text) } else { Turn::user(text) };
        let encoder = || {
            self.encoder.ok_or_else(|| {
                Error::Config("the model has no tokenizer; use prompt_ids and response_ids".into())
            })
        };
        Ok(match (&request.prompt, &request.prompt_ids, &request.response, &request.response_ids) {
            (Some(prompt), None, Some(text), None) => {
                let whole =
                    encoder()?.encode_supervised(&[turn(prompt), Turn::assistant(text)], image_tokens)?;
                let start = whole.labels.iter().position(|label| *label).unwrap_or(whole.ids.len());
                TokenizedRequest {
                    prompt: whole.ids[..start].to_vec(),
                    response: whole.ids[start..].to_vec(),
                }
            }
            (Some(prompt), None, None, Some(ids)) => TokenizedRequest {
                prompt: encoder()?.encode_prompt(&[turn(prompt)], image_tokens)?.ids,
                response: ids.clone(),
            },
            (None, Some(prompt), None, Some(ids)) => {
                TokenizedRequest { prompt: self.expand(prompt, image_tokens), response: ids.clone() }
            }
            _ => {
                return Err(Error::Data(
                    "set prompt with response or response_ids, or prompt_ids with response_ids".into(),
                ));
            }
        })
    }

    /// Whether the model can take the tokens.
    fn check(&self, tokenized: &TokenizedRequest) -> Result<()> {
        let files = &self.vlm.files;
        let vocabulary = files.config.text.vocab_size;
        if tokenized.response.is_empty() {
            return Err(Error::Data("the response is empty; remove this line".into()));
        }
        let image = files.config.image_token_id;
        let prompt = tokenized.prompt.iter().filter(|id| **id != image);
        if let Some(id) = prompt.chain(&tokenized.response).find(|id| **id as usize >= vocabulary) {
            return Err(Error::Data(format!(
                "token id {id} is outside the vocabulary of {vocabulary}; use the tokenizer of this model"
            )));
        }
        let (tokens, limit) = (tokenized.prompt.len() + tokenized.response.len(), files.max_tokens());
        if tokens > limit {
            return Err(Error::Data(format!(
                "prompt and response have {tokens} tokens, but the model is limited to {limit}; shorten them"
            )));
        }
        Ok(())
    }

    /// Repeats a single image token for each feature of the image.
    fn expand(&self, prompt: &[u32], image_tokens: Option<usize>) -> Vec<u32> {
        let image = self.vlm.files.config.image_token_id;
        let single = prompt.iter().filter(|id| **id == image).count() == 1;
        let times = |id: u32| if single && id == image { image_tokens.unwrap_or(1) } else { 1 };
        prompt.iter().flat_map(|id| std::iter::repeat_n(*id, times(*id))).collect()
    }
}

/// `pixel_values` `[crops, 3, h, w]`, `image_sizes` `[1, 2]` (height, width), `prompt_ids` and `response_ids` `[n]`.
fn dump(
    dir: &Path,
    request: &ScoreRequest,
    pixels: Option<&PixelValues>,
    tokenized: &TokenizedRequest,
) -> Result<()> {
    atomic::create_dir(dir)?;
    let name: String = request
        .id
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect();
    let ids = |ids: &[u32]| Tensor::from_iter(ids.iter().map(|id| i64::from(*id)), &Device::Cpu);
    let mut tensors = BTreeMap::from([
        ("prompt_ids".to_owned(), ids(&tokenized.prompt)?),
        ("response_ids".to_owned(), ids(&tokenized.response)?),
    ]);
    if let Some(pixels) = pixels {
        let shape = (pixels.crops, 3, pixels.height, pixels.width);
        tensors.insert("pixel_values".into(), Tensor::from_slice(&pixels.data, shape, &Device::Cpu)?);
        let size = [i64::from(pixels.original.0), i64::from(pixels.original.1)];
        tensors.insert("image_sizes".into(), Tensor::from_slice(&size, (1, 2), &Device::Cpu)?);
    }
    safetensors::write(&dir.join(format!("{name}.safetensors")), &tensors)
}
