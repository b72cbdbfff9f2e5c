//! The vocabulary of a GGUF file, read without a tokenizer.
//!
//! A token's *text* is what the vocabulary stores (`▁bat`, `<0x0A>`); its *piece* is the bytes
//! that it stands for in a text (` bat`, a line feed). How one follows from the other depends on
//! the tokenizer; source: `llama_vocab::impl::token_to_piece` of llama.cpp.

mod nearest;
mod spelling;

use std::borrow::Cow;
use std::collections::HashMap;

use crate::{ArrayRef, Gguf, ValueRef};
use spelling::Spelling;

/// What a token is for: `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for text that no other token can express.
    Unknown,
    /// Controls the model and stands for no text: `<|end|>`.
    Control,
    /// Added by the user: found literally in a text before the rest is tokenized.
    UserDefined,
    /// A placeholder without a meaning.
    Unused,
    /// One byte, for text that has no other token.
    Byte,
    /// A number that the format does not define.
    Undefined,
}

impl Kind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [Kind; 7] = [
        Kind::Normal,
        Kind::Control,
        Kind::UserDefined,
        Kind::Byte,
        Kind::Unknown,
        Kind::Unused,
        Kind::Undefined,
    ];

    /// The name in output: `user-defined`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Normal => "normal",
            Kind::Unknown => "unknown",
            Kind::Control => "control",
            Kind::UserDefined => "user-defined",
            Kind::Unused => "unused",
            Kind::Byte => "byte",
            Kind::Undefined => "undefined",
        }
    }

    fn from_number(number: Option<u64>) -> Self {
        match number {
            Some(1) => Kind::Normal,
            Some(2) => Kind::Unknown,
            Some(3) => Kind::Control,
            Some(4) => Kind::UserDefined,
            Some(5) => Kind::Unused,
            Some(6) => Kind::Byte,
            _ => Kind::Undefined,
        }
    }

    /// Returns whether a tokenizer looks for such tokens in a text before it splits the rest.
    pub fn is_special(self) -> bool {
        matches!(self, Kind::Control | Kind::UserDefined | Kind::Unknown)
    }
}

/// A file has no vocabulary, or an inconsistent one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("the file holds no vocabulary: `tokenizer.ggml.tokens` is missing")]
    Missing,
    #[error("`{key}` is not {expected}")]
    Type {
        key: &'static str,
        expected: &'static str,
    },
    #[error("`{key}` has {found} entries for {expected} tokens")]
    Length {
        key: &'static str,
        found: usize,
        expected: usize,
    },
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'a> {
    /// Its number in the vocabulary.
    pub id: u32,
    /// What the vocabulary stores; any bytes.
    pub text: &'a [u8],
    /// The bytes it stands for.
    pub piece: Cow<'a, [u8]>,
    /// What it is for.
    pub kind: Kind,
    /// Its score in a SentencePiece vocabulary: of several merges, the one of the highest score
    /// is done first.
    pub score: Option<f32>,
}

/// White space that a tokenizer drops around a special token. GGUF files do not state it;
/// llama.cpp recognizes a few models by name, and this follows it (`llama-vocab.cpp`, "token
/// attributes").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strips {
    /// White space before the token is dropped.
    pub left: bool,
    /// White space after the token is dropped.
    pub right: bool,
}

/// The role of a special token, such as that of ending a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// The role's name: `bos`, `eos`, `eot`, `eom`, `unk`, `sep`, `pad` or `mask`.
    pub name: &'static str,
    /// The token.
    pub id: u32,
    /// Whether the file says so; otherwise it follows from the token's text.
    pub stated: bool,
}

/// A model's vocabulary, borrowed from its file.
pub struct Vocabulary<'a> {
    gguf: &'a Gguf,
    model: Cow<'a, str>,
    texts: Vec<&'a [u8]>,
    kinds: Option<ArrayRef<'a>>,
    scores: Option<ArrayRef<'a>>,
    spelling: Spelling,
}

impl<'a> Vocabulary<'a> {
    /// The file that holds it.
    pub fn gguf(&self) -> &'a Gguf {
        self.gguf
    }

    /// Reads the vocabulary of `gguf`.
    ///
    /// # Errors
    /// The file has no vocabulary, or one whose arrays have other types or lengths than they must.
    pub fn new(gguf: &'a Gguf) -> Result<Self, Error> {
        let tokens = match gguf.get("tokenizer.ggml.tokens") {
            Some(value) => value.as_array().ok_or(Error::Type {
                key: "tokenizer.ggml.tokens",
                expected: "an array of strings",
            })?,
            None => return Err(Error::Missing),
        };
        let texts: Vec<&[u8]> = tokens.iter().map_while(|text| text.as_bytes()).collect();
        if texts.len() != tokens.len() || u32::try_from(texts.len()).is_err() {
            return Err(Error::Type {
                key: "tokenizer.ggml.tokens",
                expected: "an array of strings",
            });
        }
        let parallel = |key: &'static str| -> Result<Option<ArrayRef<'a>>, Error> {
            let Some(value) = gguf.get(key) else {
                return Ok(None);
            };
            let array = value
                .as_array()
                .filter(|array| array.element_type().fixed_size().is_some());
            let array = array.ok_or(Error::Type {
                key,
                expected: "an array of numbers",
            })?;
            if array.len() != texts.len() {
                return Err(Error::Length {
                    key,
                    found: array.len(),
                    expected: texts.len(),
                });
            }
            Ok(Some(array))
        };
        let kinds = parallel("tokenizer.ggml.token_type")?;
        let scores = parallel("tokenizer.ggml.scores")?;
        let text_of = |key| gguf.get(key).and_then(|value| value.as_str());
        let model = text_of("tokenizer.ggml.model").unwrap_or(Cow::Borrowed("unknown"));
        let spelling = Spelling::of(&model, text_of("tokenizer.ggml.pre").as_deref());
        Ok(Self {
            gguf,
            model,
            texts,
            kinds,
            scores,
            spelling,
        })
    }

    /// The value of `tokenizer.ggml.model`, such as `llama`, `gpt2` or `bert`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// A short description of that model of tokenization.
    pub fn model_in_words(&self) -> &'static str {
        match self.model() {
            "llama" => "SentencePiece, byte-pair merges by score, bytes as a last resort",
            "gpt2" => "byte-level byte-pair encoding, as GPT-2's",
            "bert" => "WordPiece",
            "t5" => "SentencePiece unigram",
            "rwkv" => "greedy longest match",
            _ => "a tokenizer that this program does not know",
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// What the vocabulary stores for `id`.
    pub fn text(&self, id: u32) -> Option<&'a [u8]> {
        self.texts.get(id as usize).copied()
    }

    /// What `id` is for; without `tokenizer.ggml.token_type` every token is normal.
    pub fn kind(&self, id: u32) -> Kind {
        match self.kinds {
            Some(kinds) => Kind::from_number(kinds.get(id as usize).and_then(|kind| kind.as_u64())),
            None => Kind::Normal,
        }
    }

    /// The token of that number.
    pub fn token(&self, id: u32) -> Option<Token<'a>> {
        let text = self.text(id)?;
        let kind = self.kind(id);
        let score = self.scores.and_then(|scores| scores.get(id as usize));
        Some(Token {
            id,
            text,
            piece: self.spelling.piece(text, kind),
            kind,
            score: score
                .and_then(|score| score.as_f64())
                .map(|score| score as f32),
        })
    }

    /// Every token, by id.
    pub fn tokens(&self) -> impl Iterator<Item = Token<'a>> {
        // `new` has checked that ids fit.
        (0..self.len() as u32).filter_map(|id| self.token(id))
    }

    /// The ids of the tokens with that text or, where there are none, with that piece.
    pub fn find(&self, wanted: &[u8]) -> Vec<u32> {
        let ids = |matches: &dyn Fn(u32) -> bool| -> Vec<u32> {
            (0..self.len() as u32).filter(|&id| matches(id)).collect()
        };
        let by_text = ids(&|id| self.text(id) == Some(wanted));
        if !by_text.is_empty() || wanted.is_empty() {
            return by_text;
        }
        ids(&|id| self.token(id).is_some_and(|token| token.piece == wanted))
    }

    /// Number of tokens of each kind that occurs.
    pub fn counts(&self) -> Vec<(Kind, usize)> {
        let mut counts: HashMap<Kind, usize> = HashMap::new();
        for id in 0..self.len() as u32 {
            *counts.entry(self.kind(id)).or_default() += 1;
        }
        let count = |kind| counts.get(&kind).map(|&n| (kind, n));
        Kind::ALL.into_iter().filter_map(count).collect()
    }

    /// Ids of the control and user-defined tokens, and of those with a [`Role`]. Padding that
    /// a converter marked as unknown is not among them.
    pub fn special(&self) -> Vec<u32> {
        let roles: Vec<u32> = self.roles().iter().map(|role| role.id).collect();
        (0..self.len() as u32)
            .filter(|id| match self.kind(*id) {
                Kind::Control | Kind::UserDefined => true,
                _ => roles.contains(id),
            })
            .collect()
    }

    /// The tokens with a role, as the file states them, then those that llama.cpp recognizes
    /// by their text.
    pub fn roles(&self) -> Vec<Role> {
        const KEYS: [(&str, &str); 8] = [
            ("bos", "tokenizer.ggml.bos_token_id"),
            ("eos", "tokenizer.ggml.eos_token_id"),
            ("eot", "tokenizer.ggml.eot_token_id"),
            ("eom", "tokenizer.ggml.eom_token_id"),
            ("unk", "tokenizer.ggml.unknown_token_id"),
            ("sep", "tokenizer.ggml.seperator_token_id"),
            ("pad", "tokenizer.ggml.padding_token_id"),
            ("mask", "tokenizer.ggml.mask_token_id"),
        ];
        // The most specific texts first; llama.cpp takes any of them.
        const END_OF_TURN: [&str; 6] = [
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<EOT>",
            "<|endoftext|>",
        ];
        let mut roles = Vec::new();
        for (name, key) in KEYS {
            let stated = self.gguf.get(key).and_then(|id| id.as_u64());
            let stated = stated.and_then(|id| u32::try_from(id).ok());
            let id = match stated.filter(|&id| (id as usize) < self.len()) {
                Some(id) => Some((id, true)),
                None if name == "eot" => END_OF_TURN
                    .iter()
                    .find_map(|text| self.find_special(text))
                    .map(|id| (id, false)),
                None => None,
            };
            roles.extend(id.map(|(id, stated)| Role { name, id, stated }));
        }
        roles
    }

    fn find_special(&self, text: &str) -> Option<u32> {
        let index = self
            .texts
            .iter()
            .position(|other| *other == text.as_bytes())?;
        Some(index as u32)
    }

    /// Returns whether the file says that a text begins with the BOS token; `None` when it does not
    /// say, and the tokenizer decides.
    pub fn adds_bos(&self) -> Option<bool> {
        self.gguf.get("tokenizer.ggml.add_bos_token")?.as_bool()
    }

    /// Returns whether the file says that a text ends with the EOS token.
    pub fn adds_eos(&self) -> Option<bool> {
        self.gguf.get("tokenizer.ggml.add_eos_token")?.as_bool()
    }

    /// The chat template, in Jinja.
    pub fn chat_template(&self) -> Option<Cow<'a, str>> {
        self.gguf.get("tokenizer.chat_template")?.as_str()
    }

    /// What llama.cpp's tokenizer does with white space around `id`.
    pub fn strips(&self, id: u32) -> Strips {
        let lower = |key| -> String {
            let value = self
                .gguf
                .get(key)
                .and_then(|value: ValueRef<'_>| value.as_str());
            value.map(|text| text.to_lowercase()).unwrap_or_default()
        };
        let (name, pre) = (lower("general.name"), lower("tokenizer.ggml.pre"));
        let architecture = lower("general.architecture");
        let text = self.text(id).unwrap_or_default();
        let masks_left = ["jina-v2-de", "jina-v2-es", "jina-v2-code", "mmbert"]
            .iter()
            .any(|part| pre.contains(part))
            || ["nomic-bert-moe", "jina-bert-v3"]
                .iter()
                .any(|part| architecture.contains(part));
        if masks_left {
            return Strips {
                left: text == b"<mask>",
                right: false,
            };
        }
        if name.contains("phi-3") || name.contains("phi3") {
            let keeps: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
            let right = text == b"</s>" || self.kind(id).is_special() && !keeps.contains(&text);
            return Strips { left: false, right };
        }
        Strips {
            left: name.contains("modern-bert") && text == b"[MASK]",
            right: false,
        }
    }
}
