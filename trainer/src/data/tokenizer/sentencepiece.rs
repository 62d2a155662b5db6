//! Converts a SentencePiece `tokenizer.model` to a `tokenizers` pipeline, as transformers' legacy `LlamaConverter` does.

use std::path::Path;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};
use serde_json::{Value, json};

use crate::{Error, Result};

/// SentencePiece's visible space.
const SPACE: &str = "\u{2581}";

pub(super) fn load(path: &Path) -> Result<tokenizers::Tokenizer> {
    let bytes = std::fs::read(path).map_err(Error::storage(path))?;
    let wrong = |reason: String| {
        Error::Config(format!(
            "{}: {reason}; copy the file again, or add the tokenizer.json of the model's repository",
            path.display()
        ))
    };
    let model = SentencePieceModel::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let pipeline = pipeline(&model).map_err(wrong)?;
    let mut tokenizer: tokenizers::Tokenizer =
        serde_json::from_value(pipeline).map_err(|error| wrong(error.to_string()))?;
    let special = model
        .pieces()
        .iter()
        .filter(|piece| matches!(piece.r#type(), Type::Control | Type::Unknown))
        .map(|piece| tokenizers::AddedToken::from(piece.piece().to_owned(), true));
    tokenizer.add_special_tokens(special).map_err(|error| wrong(error.to_string()))?;
    let symbols = model
        .pieces()
        .iter()
        .filter(|piece| piece.r#type() == Type::UserDefined)
        .map(|piece| tokenizers::AddedToken::from(piece.piece().to_owned(), false).normalized(false));
    tokenizer.add_tokens(symbols).map_err(|error| wrong(error.to_string()))?;
    Ok(tokenizer)
}

/// The `tokenizer.json` of a model, or why it cannot be converted.
fn pipeline(model: &SentencePieceModel) -> Result<Value, String> {
    let trainer = model.trainer().ok_or("it has no trainer_spec")?;
    let normalizer = model.normalizer().ok_or("it has no normalizer_spec")?;
    if normalizer.precompiled_charsmap().iter().any(|_| true) {
        return Err(format!(
            "it normalises text by {:?}; only identity is supported",
            normalizer.name.as_deref().unwrap_or("a table")
        ));
    }
    if normalizer.remove_extra_whitespaces() {
        return Err("it removes extra white space, which is not supported".into());
    }
    let unk = trainer.unk_piece().to_owned();
    let vocab: serde_json::Map<String, Value> =
        model.pieces().iter().enumerate().map(|(id, piece)| (piece.piece().to_owned(), json!(id))).collect();
    let body = match trainer.model_type() {
        ModelType::Bpe => json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unk,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": trainer.byte_fallback(),
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges(model),
        }),
        ModelType::Unigram => json!({
            "type": "Unigram",
            "unk_id": trainer.unk_id(),
            "byte_fallback": trainer.byte_fallback(),
            "vocab": model.pieces().iter().map(|piece| json!([piece.piece(), piece.score()])).collect::<Vec<_>>(),
        }),
        other => {
            return Err(format!(
                "it is a SentencePiece model of type {other:?}; only BPE and unigram are supported"
            ));
        }
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let dummy_prefix = normalizer.add_dummy_prefix();
    let normalizers =
        if dummy_prefix { json!([{"type": "Prepend", "prepend": SPACE}, replace]) } else { json!([replace]) };
    let strip = json!({"type": "Strip", "content": " ", "start": u8::from(dummy_prefix), "stop": 0});
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            strip,
        ]},
        "model": body,
    }))
}

/// Every merge of two pieces into another, ordered by its score, then by its id, then by the ids of the two.
fn merges(model: &SentencePieceModel) -> Vec<[String; 2]> {
    let pieces = model.pieces();
    let ids: std::collections::HashMap<&str, usize> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.piece(), id)).collect();
    let mut merges = Vec::new();
    for (id, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.r#type() == Type::Normal) {
        let text = piece.piece();
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                merges.push((piece.score(), id, left_id, right_id, [left.to_owned(), right.to_owned()]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    merges.into_iter().map(|(.., halves)| halves).collect()
}
