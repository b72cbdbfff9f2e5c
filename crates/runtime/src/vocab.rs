//! Text to tokens and back, by llama.cpp's tokenizers.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2 as sys;

use super::check::{self, Alphabet, Facts, StopTokens};
use super::error::{Error, Result};
use super::ffi;
use super::params::{Extent, LoadParams};
use super::start::start;
use super::token::Token;
use modelve_gguf::Gguf;

/// A model's vocabulary. Cheap to clone and shared by threads.
#[derive(Clone)]
pub struct Vocab {
    raw: Arc<LlamaModel>,
    alphabet: Arc<Alphabet>,
    stops: Arc<StopTokens>,
    kind: sys::llama_vocab_type,
    len: u32,
}

/// How [`Vocab::tokenize`] reads a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// A prompt, as `tokenizer(text)` reads it in transformers: what the model wants around a
    /// text is added (the BOS token, if it wants one), and control tokens written out in it,
    /// such as `<|user|>`, are those tokens.
    Prompt,
    /// A text of which every character is plain text, with what the model wants around it.
    Text,
    /// A part of a prompt: nothing is added, control tokens written out are those tokens.
    PromptPart,
    /// A part of a text: nothing is added, every character is plain text.
    TextPart,
}

impl Reading {
    /// The same for a part, to which nothing is added.
    pub fn part(self) -> Self {
        match self {
            Reading::Prompt | Reading::PromptPart => Reading::PromptPart,
            Reading::Text | Reading::TextPart => Reading::TextPart,
        }
    }

    /// The same with every character as plain text.
    pub fn plain(self) -> Self {
        match self {
            Reading::Prompt | Reading::Text => Reading::Text,
            Reading::PromptPart | Reading::TextPart => Reading::TextPart,
        }
    }

    fn is_whole(self) -> bool {
        matches!(self, Reading::Prompt | Reading::Text)
    }

    fn knows_control_tokens(self) -> bool {
        matches!(self, Reading::Prompt | Reading::PromptPart)
    }
}

impl fmt::Debug for Vocab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocab")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Vocab {
    /// Reads the vocabulary of a GGUF file and none of its weights.
    ///
    /// # Errors
    /// The file is no GGUF, is damaged, or has no vocabulary that llama.cpp knows.
    pub fn load(path: &Path) -> Result<Vocab> {
        Vocab::of(path, &Gguf::open(path)?)
    }

    /// [`Vocab::load`] of a file whose header was read.
    ///
    /// # Errors
    /// See [`Vocab::load`].
    pub fn of(path: &Path, gguf: &Gguf) -> Result<Vocab> {
        let facts = check::vocabulary(path, gguf)?;
        let raw = ffi::load_model(
            start(),
            path,
            gguf,
            LoadParams {
                extent: Extent::Vocabulary,
                repack: false,
                gpu_layers: 0,
                device: None,
                overrides: &[],
                progress: &mut |_| true,
            },
        )?;
        Ok(Vocab::new(Arc::new(raw), &facts))
    }

    /// Returns whether all that could end llama.cpp in a vocabulary of this file's kind is checked
    /// when it is loaded. Where it is not, the file should be tried in a process of its own first.
    pub fn is_covered(gguf: &Gguf) -> bool {
        check::covers_vocabulary(gguf)
    }

    pub(super) fn new(raw: Arc<LlamaModel>, facts: &Facts) -> Vocab {
        let kind = ffi::vocab_kind(&raw);
        let len = match kind {
            sys::LLAMA_VOCAB_TYPE_NONE => 0,
            _ => u32::try_from(raw.vocab().n_tokens()).unwrap_or(0),
        };
        Vocab {
            raw,
            alphabet: Arc::new(facts.alphabet.clone()),
            stops: Arc::new(facts.stop_tokens.clone()),
            kind,
            len,
        }
    }

    pub(super) fn raw(&self) -> &LlamaModel {
        &self.raw
    }

    /// Entries of the vocabulary.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Every token, in their order.
    pub fn all(&self) -> impl Iterator<Item = Token> + use<> {
        (0..self.len as usize).map(Token::at)
    }

    /// Returns whether there is no vocabulary at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether [`Vocab::tokenize`] puts a token before a whole text.
    pub fn adds_bos(&self) -> bool {
        self.raw.vocab().should_add_bos() && self.bos().is_some()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<Token> {
        self.known(self.raw.vocab().bos())
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<Token> {
        self.known(self.raw.vocab().eos())
    }

    /// Returns whether the token ends a text or a turn (`<|endoftext|>`, `<|end|>` and their kin).
    pub fn is_end(&self, token: Token) -> bool {
        match &*self.stops {
            StopTokens::Exactly(stops) => stops.contains(&token),
            StopTokens::Besides(more) => self.ends_grammar(token) || more.contains(&token),
        }
    }

    /// Returns whether llama.cpp lets the token end a text that follows a grammar.
    pub(super) fn ends_grammar(&self, token: Token) -> bool {
        self.raw.vocab().is_eog(LlamaToken(token.0))
    }

    fn known(&self, token: LlamaToken) -> Option<Token> {
        u32::try_from(token.0)
            .ok()
            .filter(|&id| id < self.len)
            .map(|_| Token(token.0))
    }

    /// The tokens of a text, read as `reading` says.
    ///
    /// # Errors
    /// A character that the vocabulary cannot express, or a text of more than 512 MiB.
    pub fn tokenize(&self, text: impl AsRef<[u8]>, reading: Reading) -> Result<Vec<Token>> {
        let text = text.as_ref();
        if self.len == 0 {
            return Err(Error::NoVocabulary);
        }
        // The tokenizer writes lengths in 32 bits, and a space as three bytes.
        if text.len() > i32::MAX as usize / 4 {
            return Err(Error::Unencodable {
                what: format!("a text of {} bytes", text.len()),
            });
        }
        if let Some(unknown) = self.alphabet.unknown(text) {
            let what = format!("{:?}", String::from_utf8_lossy(unknown));
            return Err(Error::Unencodable { what });
        }
        let vocab = self.raw.vocab();
        // llama.cpp asserts that a token it is to add exists.
        let lacks = |wanted: bool, token: LlamaToken| wanted && self.known(token).is_none();
        let add_special = reading.is_whole()
            && !lacks(vocab.should_add_bos(), vocab.bos())
            && !lacks(vocab.should_add_eos(), vocab.eos())
            && !lacks(self.kind == sys::LLAMA_VOCAB_TYPE_WPM, vocab.bos())
            && !lacks(self.kind == sys::LLAMA_VOCAB_TYPE_WPM, vocab.sep());
        let tokens = vocab.tokenize(text, add_special, reading.knows_control_tokens());
        Ok(tokens.into_iter().map(|token| Token(token.0)).collect())
    }

    /// The bytes a token stands for; a character can span tokens. Control tokens are empty
    /// unless `special` asks for their names.
    ///
    /// # Errors
    /// [`Error::TokenRange`].
    pub fn piece(&self, token: Token, special: bool) -> Result<Vec<u8>> {
        self.check(token)?;
        Ok(self
            .raw
            .vocab()
            .token_to_piece(LlamaToken(token.0), special, None))
    }

    /// The bytes of a whole text, without the space that some tokenizers put before it.
    ///
    /// # Errors
    /// [`Error::TokenRange`].
    pub fn detokenize(&self, tokens: &[Token], special: bool) -> Result<Vec<u8>> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: Vec<LlamaToken> = tokens
            .iter()
            .map(|&token| self.check(token).map(|()| LlamaToken(token.0)))
            .collect::<Result<_>>()?;
        Ok(self.raw.vocab().detokenize(&tokens, false, special))
    }

    /// # Errors
    /// [`Error::TokenRange`] if the vocabulary does not have this token.
    pub fn check(&self, token: Token) -> Result<()> {
        if token.index() < self.len as usize {
            return Ok(());
        }
        Err(Error::TokenRange {
            token,
            n_vocab: self.len,
        })
    }
}
