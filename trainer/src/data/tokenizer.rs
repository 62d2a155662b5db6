//! A model's own tokenizer: text to token ids and back.

mod sentencepiece;

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::data::files::{damage_advice, read_json, require_regular};
use crate::{Error, Result};

const PIPELINE: &str = "tokenizer.json";
const SENTENCEPIECE: &str = "tokenizer.model";
const CONFIG: &str = "tokenizer_config.json";
const OLDER_TOKENS: &str = "added_tokens.json";

#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    add_bos: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, else SentencePiece's `tokenizer.model`. `tokenizer_config.json` and
    /// `special_tokens_map.json` name the special tokens; `generation_config.json` may add ends of sequence.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no usable tokenizer, [`Error::Storage`] where a file cannot be read.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let config = read_json(&dir.join(CONFIG))?.unwrap_or_default();
        let special = read_json(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
        let mut inner = load_pipeline(dir)?;
        // The trainer decides on the length of a sequence.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Error::Config(format!("{}: {error}", dir.display())))?;
        add_tokens(&mut inner, dir, &config)?;

        let named = |field: &str| {
            let text = token_text(config.get(field)).or_else(|| token_text(special.get(field)))?;
            inner.token_to_id(&text)
        };
        let or_piece = |id: Option<u32>, piece: &str| id.or_else(|| inner.token_to_id(piece));
        let bos = or_piece(named("bos_token"), "<s>");
        let mut eos: Vec<u32> = or_piece(named("eos_token"), "</s>").into_iter().collect();
        for id in generation_eos(dir)? {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        if eos.is_empty() {
            return Err(Error::Config(format!(
                "{}: the tokenizer has no end of sequence; name eos_token in tokenizer_config.json",
                dir.display()
            )));
        }
        let (pad, unk) = (named("pad_token"), or_piece(named("unk_token"), "<unk>"));
        let add_bos = config.get("add_bos_token").and_then(Value::as_bool).unwrap_or(true);
        Ok(Self { inner, bos, eos, pad, unk, add_bos })
    }

    /// The ids of `text`. With `add_special` the BOS goes before them, unless they start with it.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| {
            Error::Data(format!("the tokenizer cannot encode {:?}: {error}; change the text", shorten(text)))
        })?;
        let mut ids = encoding.get_ids().to_vec();
        if add_special
            && let Some(bos) = self.prefix_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of `ids`, without special tokens where `skip_special`.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| Error::Data(format!("the tokenizer cannot decode {} ids: {error}", ids.len())))
    }

    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token that begins a sequence, where the tokenizer has one.
    #[must_use]
    pub const fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The BOS that every prompt starts with; `None` where there is none or `add_bos_token` is false.
    #[must_use]
    pub const fn prefix_bos(&self) -> Option<u32> {
        if self.add_bos { self.bos } else { None }
    }

    /// The token that ends a sequence and each supervised answer.
    #[must_use]
    pub fn eos_id(&self) -> u32 {
        self.eos.first().copied().unwrap_or_default()
    }

    /// All tokens that generation stops at, at least one, [`Self::eos_id`] first.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The padding token, where the tokenizer names one.
    #[must_use]
    pub const fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    #[must_use]
    pub const fn unk_id(&self) -> Option<u32> {
        self.unk
    }

    /// The token with the largest id, without `except` and the padding, which text is never encoded as.
    #[must_use]
    pub fn last_token(&self, except: u32) -> Option<(String, u32)> {
        let unused = |id: u32| id == except || Some(id) == self.pad;
        self.inner.get_vocab(true).into_iter().filter(|(_, id)| !unused(*id)).max_by_key(|(_, id)| *id)
    }

    /// The number of tokens, added ones included. The model's embedding may have more rows.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The pipeline in `tokenizer.json`, else in `tokenizer.model`.
fn load_pipeline(dir: &Path) -> Result<tokenizers::Tokenizer> {
    let (json, model) = (dir.join(PIPELINE), dir.join(SENTENCEPIECE));
    if json.exists() {
        require_regular(&json)?;
        let bytes = std::fs::read(&json).map_err(Error::storage(&json))?;
        return from_json(&bytes).map_err(|error| {
            Error::Config(format!("{}: {error}; {}", json.display(), damage_advice(&bytes)))
        });
    }
    if model.exists() {
        return sentencepiece::load(&model);
    }
    Err(Error::Config(format!(
        "{}: the model has no tokenizer: looked for tokenizer.json and tokenizer.model; copy one of them from the \
         model's repository",
        dir.display()
    )))
}

/// The pipeline in a `tokenizer.json`. The library panics on some files that are not JSON, so that is checked first.
fn from_json(bytes: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    let json = serde_json::from_slice::<Value>(bytes)?;
    if strips_ends(&json["decoder"]) {
        return Err("field decoder: a Strip with a stop above 0 is not supported; use the tokenizer of the base model".into());
    }
    tokenizers::Tokenizer::from_bytes(bytes)
}

/// Whether a decoder strips characters from the end of tokens. tokenizers 0.23 panics where a token has fewer.
fn strips_ends(decoder: &Value) -> bool {
    let strips = decoder["type"] == "Strip" && decoder["stop"].as_u64() != Some(0);
    strips || decoder["decoders"].as_array().is_some_and(|decoders| decoders.iter().any(strips_ends))
}

/// The beginning of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    const CHARS: usize = 60;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A token is written as a string or as an object with `content`.
fn token_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The ends of sequence in `generation_config.json`.
fn generation_eos(dir: &Path) -> Result<Vec<u32>> {
    let config = read_json(&dir.join("generation_config.json"))?.unwrap_or_default();
    let as_id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(as_id).collect(),
        Some(id) => as_id(id).into_iter().collect(),
        None => Vec::new(),
    })
}

/// Adds the tokens of `added_tokens_decoder` and of the older `added_tokens.json` that the tokenizer lacks.
fn add_tokens(inner: &mut tokenizers::Tokenizer, dir: &Path, config: &Map<String, Value>) -> Result<()> {
    for (file, id, token) in added_tokens(dir, config)? {
        let content = token.content.clone();
        if inner.token_to_id(&content).is_none() {
            let added =
                if token.special { inner.add_special_tokens([token]) } else { inner.add_tokens([token]) };
            added.map_err(|error| Error::Config(format!("{}: {content:?}: {error}", dir.display())))?;
        }
        if let Some(actual) = inner.token_to_id(&content)
            && actual != id
        {
            let tokenizer = if dir.join(PIPELINE).exists() { PIPELINE } else { SENTENCEPIECE };
            return Err(Error::Config(format!(
                "{}: gives {content:?} the id {id}, but {tokenizer} gives it {actual}; copy {tokenizer} and {file} from the \
                 same revision",
                dir.join(file).display()
            )));
        }
    }
    Ok(())
}

/// The added tokens that the files list, each with its file and its id, in the order of their ids.
fn added_tokens(dir: &Path, config: &Map<String, Value>) -> Result<Vec<(&'static str, u32, AddedToken)>> {
    let mut tokens = Vec::new();
    if let Some(Value::Object(decoder)) = config.get("added_tokens_decoder") {
        for (id, token) in decoder {
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            if let (Ok(id), Some(content)) = (id.parse::<u32>(), token_text(Some(token))) {
                let added = AddedToken::from(content, flag("special"))
                    .single_word(flag("single_word"))
                    .lstrip(flag("lstrip"))
                    .rstrip(flag("rstrip"))
                    .normalized(flag("normalized"));
                tokens.push((CONFIG, id, added));
            }
        }
    }
    if let Some(older) = read_json(&dir.join(OLDER_TOKENS))? {
        for (content, id) in older {
            let listed = tokens.iter().any(|(_, _, added)| added.content == content);
            if let (false, Some(id)) = (listed, id.as_u64().and_then(|id| u32::try_from(id).ok())) {
                tokens.push((OLDER_TOKENS, id, AddedToken::from(content, true)));
            }
        }
    }
    tokens.sort_by_key(|(_, id, _)| *id);
    Ok(tokens)
}
