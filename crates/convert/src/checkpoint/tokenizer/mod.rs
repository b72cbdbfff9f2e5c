//! Tokenizer files: the vocabulary in the form that llama.cpp needs, whichever library wrote it.
//!
//! Two kinds are supported: SentencePiece (`tokenizer.model`, or merges in `tokenizer.json`;
//! `tokenizer.ggml.model` = `llama`) and byte-level BPE (`tokenizer.json`, `gpt2`). Tokens, scores
//! and types are those that llama.cpp's converter writes (`conversion/phi.py`,
//! `conversion/base.py`).

mod bpe;
mod fallback;
mod fingerprint;
mod sentencepiece;
mod special;

pub use special::{ChatTemplate, Special};

use std::path::Path;

use serde_json::{Map, Value};

use super::{Checkpoint, Error, MOST_BYTES, Problem, read_optional};

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One entry of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its text: a SentencePiece piece, or for BPE text in GPT-2's byte alphabet.
    pub text: Vec<u8>,
    /// SentencePiece's score; 0 for BPE.
    pub score: f32,
    /// Its kind.
    pub kind: TokenType,
}

/// The algorithm that splits text into tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Algorithm {
    /// SentencePiece: pieces with scores.
    SentencePiece {
        /// Whether a space is added before the text.
        add_space_prefix: bool,
    },
    /// Byte-level BPE.
    Bpe {
        /// llama.cpp's name for the regular expression that cuts text into words.
        pre: &'static str,
        /// Merges as `left right`, the highest priority first.
        merges: Vec<String>,
    },
}

/// A vocabulary with its special tokens and options.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The algorithm that splits text into tokens.
    pub algorithm: Algorithm,
    /// One entry for each row of the embedding; the index is the token id.
    pub tokens: Vec<Token>,
    /// Special tokens, flags, stop tokens and the chat template.
    pub special: Special,
    /// `add_prefix_space` of `tokenizer_config.json`, if present.
    pub space_prefix: Option<bool>,
    /// Notes for the user on tokens out of range and choices that were made.
    pub notes: Vec<String>,
}

/// The parsed tokenizer files of a folder.
struct Files<'a> {
    folder: &'a Path,
    /// `tokenizer_config.json`; empty if there is none.
    config: Map<String, Value>,
    /// `tokenizer.json`.
    json: Option<Map<String, Value>>,
    /// Number of rows of the embedding.
    vocab_size: usize,
}

impl Files<'_> {
    fn error(&self, file: &str, problem: Problem) -> Error {
        Error::new(&self.folder.join(file), problem)
    }

    fn optional(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, Error> {
        read_optional(&folder.join(name))
    }
}

/// Maximum size of a vocabulary, larger than any in use; it bounds what a damaged `vocab_size` can
/// allocate.
const MOST_TOKENS: u64 = 1 << 24;

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint whose embedding has `vocab_size` rows.
    pub fn read(checkpoint: &Checkpoint, vocab_size: u64) -> Result<Self, Error> {
        let folder = checkpoint.folder();
        if vocab_size == 0 || vocab_size > MOST_TOKENS {
            let text = format!("states vocab_size {vocab_size}; 1 to {MOST_TOKENS} are possible");
            return Err(Error::new(
                &folder.join("config.json"),
                Problem::Tokenizer(text),
            ));
        }
        let files = Files {
            folder,
            config: Files::optional(folder, "tokenizer_config.json")?.unwrap_or_default(),
            json: Files::optional(folder, "tokenizer.json")?,
            vocab_size: vocab_size as usize,
        };
        let mut notes = Vec::new();
        let (algorithm, tokens) = match (files.is_bpe(), files.byte_fallback()) {
            (true, _) => bpe::read(&files, &mut notes)?,
            (false, Some(json)) => fallback::read(&files, json, &mut notes)?,
            (false, None) => sentencepiece::read(&files, &mut notes)?,
        };
        let special = Special::read(checkpoint, &files, &tokens, &mut notes)?;
        Ok(Self {
            algorithm,
            tokens,
            special,
            space_prefix: files
                .config
                .get("add_prefix_space")
                .and_then(Value::as_bool),
            notes,
        })
    }

    /// `tokenizer.ggml.model`.
    pub fn model(&self) -> &'static str {
        match self.algorithm {
            Algorithm::SentencePiece { .. } => "llama",
            Algorithm::Bpe { .. } => "gpt2",
        }
    }
}

impl Files<'_> {
    /// Returns whether this is byte-level BPE. llama.cpp's converter decides by the class alone;
    /// where the class does not tell (`PreTrainedTokenizerFast`), a byte-level `tokenizer.json`
    /// without `tokenizer.model` does.
    fn is_bpe(&self) -> bool {
        let class = self.config.get("tokenizer_class").and_then(Value::as_str);
        let named = class.is_some_and(|class| class.starts_with("GPT2Tokenizer"));
        let byte_level = self.json.as_ref().is_some_and(bpe::is_byte_level);
        named || (byte_level && !self.has_model())
    }

    /// Returns `tokenizer.json` if it holds a SentencePiece model and there is no
    /// `tokenizer.model`.
    fn byte_fallback(&self) -> Option<&Map<String, Value>> {
        let json = self.json.as_ref()?;
        (fallback::has_byte_tokens(json) && !self.has_model()).then_some(json)
    }

    fn has_model(&self) -> bool {
        self.folder.join("tokenizer.model").is_file()
    }
}

/// Sets the token at `id`, or adds a note if the embedding has no such row.
fn place(
    tokens: &mut [Token],
    id: u64,
    token: Token,
    notes: &mut Vec<String>,
) -> Option<TokenType> {
    let rows = tokens.len();
    let Some(slot) = usize::try_from(id).ok().and_then(|i| tokens.get_mut(i)) else {
        let text = String::from_utf8_lossy(&token.text).into_owned();
        notes.push(format!(
            "token {id} `{text}` left out: the embedding has {rows} rows"
        ));
        return None;
    };
    let kind = token.kind;
    *slot = token;
    Some(kind)
}

/// Returns a vocabulary of placeholders, which the real tokens replace.
fn padding(n: usize, score: f32) -> Vec<Token> {
    (0..n)
        .map(|id| Token {
            text: format!("[PAD{id}]").into_bytes(),
            score,
            kind: TokenType::Unused,
        })
        .collect()
}
