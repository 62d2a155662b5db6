//! `score`: the log-probability of every response token, for any prompts, images and responses.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
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
use crate::model::lora::LoraAdapter;
use crate::stages::Vlm;
use crate::training::step::{Branches, response_log_probs};

/// A line of the input.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Names the row in the output.
    pub id: String,
    /// The image, relative to the image folder.
    #[serde(default)]
    pub image: Option<String>,
    /// What the user asks.
    pub prompt: String,
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
    /// Its tokenizer under one template.
    pub encoder: &'a Encoder,
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
        jsonl::read(input)?.collect()
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
        let pixels = request.image.as_deref().map(|image| self.pixels(image)).transpose()?;
        let seen = pixels.as_ref().map(|pixels| self.vlm.see_pixels(pixels)).transpose()?;
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

    fn pixels(&self, relative: &str) -> Result<PixelValues> {
        let path = images_dir::resolve(self.images, relative)?;
        let image = image::open(&path, &Limits::default())
            .map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
        self.vlm.checked.processor.preprocess(&image)
    }

    fn encode(&self, request: &Request, image_tokens: Option<usize>) -> Result<Encoded> {
        let turn = if image_tokens.is_some() {
            Turn::user_with_image(&request.prompt)
        } else {
            Turn::user(&request.prompt)
        };
        let encoded = match (&request.response, &request.response_ids) {
            (Some(text), None) => {
                let whole = self.encoder.encode_supervised(&[turn, Turn::assistant(text)], image_tokens)?;
                let start = whole.labels.iter().position(|label| *label).unwrap_or(whole.ids.len());
                Encoded { prompt: whole.ids[..start].to_vec(), response: whole.ids[start..].to_vec() }
            }
            (None, Some(ids)) => Encoded {
                prompt: self.encoder.encode_prompt(&[turn], image_tokens)?.ids,
                response: ids.clone(),
            },
            _ => return Err(Error::Data("give exactly one of response and response_ids".into())),
        };
        let vocabulary = self.vlm.checked.config.text.vocab_size;
        if encoded.response.is_empty() {
            return Err(Error::Data("the response is empty".into()));
        }
        if let Some(id) = encoded.response.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Data(format!("response_ids: {id} is beyond the vocabulary of {vocabulary}")));
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
