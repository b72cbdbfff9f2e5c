//! `tokenizer.json` with a SentencePiece model written as merges: BPE over characters, with byte
//! tokens for characters in no piece. Llama 2, Mistral and Gemma have it beside `tokenizer.model`;
//! some of their fine-tunes have only this file.
//!
//! llama.cpp joins the two neighbours whose piece has the highest score, while this file lists
//! pairs in the order in which they are joined. Both orders are the same, because the merges were
//! written from the scores; the scores are restored here. (llama.cpp's own converter gives every
//! piece the same score.)

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::bpe::{looks_special, steps};
use super::sentencepiece::{ADDED_SCORE, PADDING_SCORE, added_tokens};
use super::{Algorithm, Files, Token, TokenType, padding, place};
use crate::checkpoint::{Error, Problem};

const FILE: &str = "tokenizer.json";

/// Returns whether this is such a vocabulary: BPE with a token for each byte.
pub(super) fn has_byte_tokens(json: &Map<String, Value>) -> bool {
    let model = json.get("model");
    model.is_some_and(|model| model["byte_fallback"] == true && model["vocab"].is_object())
}

/// Reads tokens, with scores that give the merges the order of the file.
pub(super) fn read(
    files: &Files<'_>,
    json: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<(Algorithm, Vec<Token>), Error> {
    let error = |text: String| files.error(FILE, Problem::Tokenizer(text));
    let model = &json["model"];
    let vocab = model["vocab"].as_object();
    let (Some(vocab), Some(merges)) = (vocab, model["merges"].as_array()) else {
        return Err(error("has no vocabulary and merges".into()));
    };
    let (scores, apart) = scores(merges).map_err(error)?;
    let unknown = model["unk_token"].as_str();

    let mut tokens = padding(files.vocab_size, PADDING_SCORE);
    let lowest = -(scores.len() as f32);
    for (text, id) in vocab {
        let id = id
            .as_u64()
            .ok_or_else(|| error(format!("the id of `{text}` is not a number")))?;
        let kind = match text.as_str() {
            text if Some(text) == unknown => TokenType::Unknown,
            text if is_byte(text) => TokenType::Byte,
            _ => TokenType::Normal,
        };
        let score = match kind {
            // Single characters are not the result of a merge; their scores are never compared.
            TokenType::Normal => scores.get(text.as_str()).copied().unwrap_or(lowest),
            _ => 0.0,
        };
        let token = Token {
            text: text.as_bytes().to_vec(),
            score,
            kind,
        };
        place(&mut tokens, id, token, notes);
    }
    for (id, text, special) in added_tokens(&files.config, Some(json)) {
        let is_control = special || looks_special(text);
        let token = match is_control {
            _ if Some(text) == unknown => continue,
            true => Token {
                text: text.as_bytes().to_vec(),
                score: ADDED_SCORE,
                kind: TokenType::Control,
            },
            false => Token {
                text: text.replace('\u{2581}', " ").into_bytes(),
                score: ADDED_SCORE,
                kind: TokenType::UserDefined,
            },
        };
        place(&mut tokens, id, token, notes);
    }
    // Added tokens are split off a text before merging.
    let is_added = |piece: &String| {
        let mut added = tokens
            .iter()
            .filter(|token| token.kind == TokenType::UserDefined);
        added.any(|token| token.text == piece.as_bytes())
    };
    if let Some(piece) = apart.iter().find(|piece| !is_added(piece)) {
        notes.push(format!(
            "tokenizer.json merges to `{piece}` in two places, where SentencePiece has one score: \
             a text may be cut in another way"
        ));
    }
    let add_space_prefix = puts_space_before(json);
    Ok((Algorithm::SentencePiece { add_space_prefix }, tokens))
}

/// Returns the score of each piece that a merge makes: 0 for the first, one less for each next.
/// Also returns the pieces that several pairs make in non-consecutive merges, which does not happen
/// where merges were written from scores: no score gives exactly the same order.
fn scores(merges: &[Value]) -> Result<(HashMap<String, f32>, Vec<String>), String> {
    let mut scores: HashMap<String, f32> = HashMap::with_capacity(merges.len());
    let mut apart = Vec::new();
    let mut last = String::new();
    for (at, merge) in merges.iter().enumerate() {
        let piece = match merge {
            Value::String(merge) => merge.split_once(' ').map(|(a, b)| format!("{a}{b}")),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some(format!("{a}{b}")),
                _ => None,
            },
            _ => None,
        };
        let piece = piece.ok_or_else(|| format!("merge {at} is not a pair of texts"))?;
        if piece == last {
            continue;
        }
        match scores.contains_key(&piece) {
            true => apart.push(piece.clone()),
            false => {
                scores.insert(piece.clone(), -(scores.len() as f32));
            }
        }
        last = piece;
    }
    Ok((scores, apart))
}

/// Returns whether a text is a byte token such as `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text
        .strip_prefix("<0x")
        .and_then(|text| text.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Returns whether a space is added before a text, by the normalizer or by a pre-tokenizer.
fn puts_space_before(json: &Map<String, Value>) -> bool {
    let prepends = |step: &&Value| match step["type"].as_str() {
        Some("Prepend") => true,
        Some("Metaspace") => match step["prepend_scheme"].as_str() {
            Some(scheme) => scheme != "never",
            None => step["add_prefix_space"] != false,
        },
        _ => false,
    };
    let steps = |key: &str| steps(json.get(key));
    steps("normalizer").iter().any(prepends) || steps("pre_tokenizer").iter().any(prepends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scores_follow_the_merges_and_several_pairs_of_a_piece_share_one() {
        let merges = [
            json!("a b"),
            json!(["ab", "c"]),
            json!(["a", "bc"]),
            json!("b c"),
        ];
        let (scores, apart) = scores(&merges).unwrap();
        assert!(apart.is_empty());
        assert_eq!(
            (scores["ab"], scores["abc"], scores["bc"]),
            (0.0, -1.0, -2.0)
        );
        let pairs = [json!("a bc"), json!("b c"), json!("ab c")];
        assert_eq!(super::scores(&pairs).unwrap().1, ["abc"]);
    }

    #[test]
    fn a_space_is_put_before_where_a_step_says_so() {
        let puts = |json: Value| puts_space_before(json.as_object().unwrap());
        let llama = json!({"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace"}]}});
        assert!(puts(llama));
        let gemma = json!({"normalizer": {"type": "Replace"}, "pre_tokenizer": {"type": "Split"}});
        assert!(!puts(gemma));
        let never = json!({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}});
        assert!(!puts(never));
    }
}
