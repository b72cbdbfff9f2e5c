//! `tokenizer.json` with byte-level BPE, as in GPT-2 and Phi-4.

use serde_json::{Map, Value};

use super::fingerprint;
use super::sentencepiece::added_tokens;
use super::{Algorithm, Files, Token, TokenType, padding, place};
use crate::checkpoint::{Error, Problem};

const FILE: &str = "tokenizer.json";

/// Returns whether this is BPE over bytes, that is, has a `ByteLevel` step before the model.
pub(super) fn is_byte_level(json: &Map<String, Value>) -> bool {
    let model = json.get("model").and_then(|model| model.get("type"));
    let kinds = steps(json.get("pre_tokenizer"));
    model.is_none_or(|kind| kind == "BPE") && kinds.iter().any(|step| step["type"] == "ByteLevel")
}

/// Reads tokens and merges; rows of the embedding without a token become `[PADn]`.
pub(super) fn read(
    files: &Files<'_>,
    notes: &mut Vec<String>,
) -> Result<(Algorithm, Vec<Token>), Error> {
    let error = |text: String| files.error(FILE, Problem::Tokenizer(text));
    let Some(json) = &files.json else {
        let what = "tokenizer.json, which a GPT2Tokenizer needs";
        return Err(Error::new(files.folder, Problem::Absent { what }));
    };
    let model = json.get("model").and_then(Value::as_object);
    let vocab = model.and_then(|model| model.get("vocab")?.as_object());
    let (Some(model), Some(vocab)) = (model, vocab) else {
        return Err(error("has no object `model.vocab`".into()));
    };
    let pre = match fingerprint::name(json) {
        Some(name) => name,
        None => pre_tokenizer(json, model).map_err(error)?,
    };
    let merges = match model.get("merges").and_then(Value::as_array) {
        Some(list) => merges(list).map_err(error)?,
        None => return Err(error("has no list `model.merges`".into())),
    };

    let mut tokens = padding(files.vocab_size, 0.0);
    let mut add = |id: u64, text: &str, kind: TokenType| {
        let token = Token {
            text: text.as_bytes().to_vec(),
            score: 0.0,
            kind,
        };
        place(&mut tokens, id, token, notes);
    };
    for (text, id) in vocab {
        let id = id
            .as_u64()
            .ok_or_else(|| error(format!("the id of `{text}` is not a number")))?;
        add(id, text, TokenType::Normal);
    }
    for (id, text, special) in added_tokens(&files.config, Some(json)) {
        match special || looks_special(text) {
            true => add(id, text, TokenType::Control),
            false => add(id, &text.replace('\u{2581}', " "), TokenType::UserDefined),
        }
    }
    Ok((Algorithm::Bpe { pre, merges }, tokens))
}

/// Returns whether a text has the form of a control token. Some models do not mark theirs as
/// `special` (`does_token_look_special` in llama.cpp's converter).
pub(super) fn looks_special(text: &str) -> bool {
    let between = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Reads merges as `left right`. Newer files hold pairs; a space inside a half is written in
/// GPT-2's byte alphabet (Ġ), so that the only space is the one between the halves.
fn merges(list: &[Value]) -> Result<Vec<String>, String> {
    let one = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => {
                let half = |text: &str| text.replace(' ', "Ġ");
                Some(format!("{} {}", half(left), half(right)))
            }
            _ => None,
        },
        _ => None,
    };
    list.iter()
        .enumerate()
        .map(|(i, merge)| one(merge).ok_or_else(|| format!("merge {i} is not a pair of texts")))
        .collect()
}

/// Returns the steps of a normalizer, pre-tokenizer or post-processor, which may be a sequence.
pub(super) fn steps(value: Option<&Value>) -> Vec<&Value> {
    let Some(value) = value else {
        return Vec::new();
    };
    let inner = ["pretokenizers", "processors", "normalizers"]
        .iter()
        .find_map(|key| value.get(key)?.as_array());
    match inner {
        Some(list) => list.iter().collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

/// GPT-2's pattern, which a `ByteLevel` step with `use_regex` applies by itself.
pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// OpenAI's cl100k: Phi-4, Llama 3.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// OpenAI's o200k: Phi-4-mini.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2 and later: cl100k with digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 3.5: combining marks belong to words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral Nemo and later: o200k without contractions, digits one by one.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Patterns, and llama.cpp's names for them.
static PATTERNS: &[(&str, &str)] = &[
    (GPT2, "gpt-2"),
    (CL100K, "dbrx"),
    (QWEN2, "qwen2"),
    (QWEN35, "qwen35"),
    (O200K, "gpt-4o"),
    (TEKKEN, "tekken"),
];

/// Returns llama.cpp's name of the pre-tokenizer by the pattern of its `Split` step, where
/// [`fingerprint`] does not know it. Names and patterns are those of `llm_tokenizer_bpe` in
/// llama-vocab.cpp; `dbrx` and `gpt-4o` are what its converter gives Phi-4 and Phi-4-mini.
fn pre_tokenizer(
    json: &Map<String, Value>,
    model: &Map<String, Value>,
) -> Result<&'static str, String> {
    let steps = steps(json.get("pre_tokenizer"));
    let patterns: Vec<&str> = steps
        .iter()
        .filter(|step| step["type"] == "Split")
        .filter_map(|step| step["pattern"]["Regex"].as_str())
        .collect();
    // The default of `use_regex` is true.
    let own_pattern = steps
        .iter()
        .any(|step| step["type"] == "ByteLevel" && step["use_regex"] != false);
    let single_digits = steps
        .iter()
        .any(|step| step["type"] == "Digits" && step["individual_digits"] == true);
    let ignore_merges = model.get("ignore_merges") == Some(&Value::Bool(true));
    match patterns.as_slice() {
        [] if own_pattern && single_digits => Ok("smollm"),
        [] if own_pattern => Ok("gpt-2"),
        [] => Err("its pre-tokenizer has no pattern".into()),
        [pattern] if !own_pattern => {
            let mut known = PATTERNS.iter();
            match known.find(|(known, _)| plain(pattern) == plain(known)) {
                Some((_, "dbrx")) if ignore_merges => Ok("llama-bpe"),
                Some((_, name)) => Ok(name),
                None => Err(format!(
                    "splits text by a rule that llama.cpp does not have: {pattern}"
                )),
            }
        }
        _ => Err(format!(
            "splits text by a rule that llama.cpp does not have: {}",
            patterns.join(" then ")
        )),
    }
}

/// Normalizes a pattern: possessive quantifiers become greedy (what follows them here never matches
/// what they took), contractions are spelled out, and line ends after `\s*` are written once.
fn plain(pattern: &str) -> String {
    pattern
        .replace("?+", "?")
        .replace("++", "+")
        .replace("*+", "*")
        .replace("}+", "}")
        .replace("'(?i:[sdmt]|ll|ve|re)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")
        .replace(r"|\s+$", "")
        .replace(r"\s*[\r\n]|", r"\s*[\r\n]+|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pre(pre_tokenizer: Value, model: Value) -> Result<&'static str, String> {
        let json = json!({"pre_tokenizer": pre_tokenizer, "model": model});
        let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
        pre_tokenizer_of(&object(&json), &object(&json["model"]))
    }

    fn pre_tokenizer_of(
        json: &Map<String, Value>,
        model: &Map<String, Value>,
    ) -> Result<&'static str, String> {
        super::pre_tokenizer(json, model)
    }

    #[test]
    fn the_pattern_tells_the_pre_tokenizer() {
        let split = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"},
                {"type": "ByteLevel", "use_regex": false}]})
        };
        let cl100k = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
        assert_eq!(pre(split(cl100k), json!({})), Ok("dbrx"));
        assert_eq!(pre(split(CL100K), json!({})), Ok("dbrx"));
        let llama = json!({"ignore_merges": true});
        assert_eq!(pre(split(CL100K), llama), Ok("llama-bpe"));
        assert_eq!(pre(split(QWEN2), json!({})), Ok("qwen2"));
        let smollm = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "use_regex": true}]});
        assert_eq!(pre(smollm, json!({})), Ok("smollm"));
        assert_eq!(pre(split(O200K), json!({})), Ok("gpt-4o"));
        assert_eq!(pre(json!({"type": "ByteLevel"}), json!({})), Ok("gpt-2"));
        let error = pre(split(r"\w+"), json!({})).unwrap_err();
        assert!(error.contains(r"\w+"), "{error}");
    }

    #[test]
    fn merges_are_read_in_both_spellings() {
        let old = merges(&[json!("a b"), json!("Ġ c")]);
        let new = merges(&[json!(["a", "b"]), json!([" ", "c"])]);
        assert_eq!(old, new);
        assert!(merges(&[json!(["a"])]).is_err());
    }
}
