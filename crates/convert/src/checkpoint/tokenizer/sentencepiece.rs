//! `tokenizer.model`: SentencePiece's protocol buffer, and the files that amend it.

use prost::Message;
use serde_json::{Map, Value};

use super::bpe::looks_special;
use super::{Algorithm, Files, MOST_BYTES, Token, TokenType, padding, place};
use crate::checkpoint::{Error, Problem};
use modelve_base::infile;

/// The part of `sentencepiece_model.proto` that a vocabulary needs.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "3")]
    pub(crate) normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SentencePiece {
    #[prost(string, optional, tag = "1")]
    pub(crate) piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub(crate) score: Option<f32>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    #[prost(int32, optional, tag = "3")]
    pub(crate) kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NormalizerSpec {
    #[prost(bool, optional, tag = "3")]
    pub(crate) add_dummy_prefix: Option<bool>,
}

/// Score of a token that is not in the SentencePiece model.
pub(super) const ADDED_SCORE: f32 = -1000.0;
/// Score of a row of the embedding without a token.
pub(super) const PADDING_SCORE: f32 = -10000.0;

/// Reads the vocabulary: the pieces, then `added_tokens.json`, `added_tokens_decoder` of
/// `tokenizer_config.json` and `added_tokens` of `tokenizer.json`, where later ones override
/// earlier ones.
pub(super) fn read(
    files: &Files<'_>,
    notes: &mut Vec<String>,
) -> Result<(Algorithm, Vec<Token>), Error> {
    const MODEL: &str = "tokenizer.model";
    let path = files.folder.join(MODEL);
    if !path.is_file() {
        let text = match &files.json {
            Some(_) => {
                "has no tokenizer.model, and its tokenizer.json is not byte-level BPE: \
                        no vocabulary that can be converted"
            }
            None => "has neither tokenizer.model nor tokenizer.json",
        };
        return Err(Error::new(files.folder, Problem::Tokenizer(text.into())));
    }
    let bytes = infile::regular(&path, MOST_BYTES).map_err(|e| Error::new(&path, e))?;
    let model = ModelProto::decode(bytes.as_slice()).map_err(|e| {
        let text = format!("is not a SentencePiece model: {e}");
        files.error(MODEL, Problem::Tokenizer(text))
    })?;
    if model.pieces.is_empty() || model.pieces.len() > files.vocab_size {
        let text = format!(
            "has {} pieces for an embedding of {} rows",
            model.pieces.len(),
            files.vocab_size
        );
        return Err(files.error(MODEL, Problem::Tokenizer(text)));
    }

    let mut tokens = padding(files.vocab_size, PADDING_SCORE);
    for (slot, piece) in tokens.iter_mut().zip(model.pieces) {
        *slot = Token {
            text: piece.piece.unwrap_or_default().into_bytes(),
            score: piece.score.unwrap_or(0.0),
            kind: match piece.kind.unwrap_or(1) {
                2 => TokenType::Unknown,
                3 => TokenType::Control,
                5 => TokenType::Unused,
                6 => TokenType::Byte,
                // llama.cpp's converter treats user-defined pieces as normal ones, too.
                _ => TokenType::Normal,
            },
        };
    }
    let mut add = |id: u64, text: &str, kind: TokenType| {
        let token = Token {
            text: text.as_bytes().to_vec(),
            score: ADDED_SCORE,
            kind,
        };
        place(&mut tokens, id, token, notes);
    };
    if let Some(added) = Files::optional(files.folder, "added_tokens.json")? {
        for (text, id) in &added {
            if let Some(id) = id.as_u64() {
                add(id, text, TokenType::UserDefined);
            }
        }
    }
    for (id, text, special) in added_tokens(&files.config, files.json.as_ref()) {
        match special || looks_special(text) {
            true => add(id, text, TokenType::Control),
            false => add(id, &text.replace('\u{2581}', " "), TokenType::UserDefined),
        }
    }
    let normalizer = model.normalizer_spec;
    let add_space_prefix = normalizer.and_then(|n| n.add_dummy_prefix).unwrap_or(true);
    Ok((Algorithm::SentencePiece { add_space_prefix }, tokens))
}

/// Returns added tokens as id, text and whether they are special: those of `tokenizer_config.json`,
/// then those of `tokenizer.json`.
pub(super) fn added_tokens<'a>(
    config: &'a Map<String, Value>,
    json: Option<&'a Map<String, Value>>,
) -> Vec<(u64, &'a str, bool)> {
    let entry = |id: Option<u64>, token: &'a Value| {
        let text = token.get("content")?.as_str()?;
        let special = token.get("special").and_then(Value::as_bool);
        Some((id?, text, special.unwrap_or(false)))
    };
    let decoder = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object);
    let list = json
        .and_then(|json| json.get("added_tokens"))
        .and_then(Value::as_array);
    let of_config = decoder
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| entry(id.parse().ok(), token));
    let of_json = list
        .into_iter()
        .flatten()
        .filter_map(|token| entry(token.get("id").and_then(Value::as_u64), token));
    of_config.chain(of_json).collect()
}
