//! Converts text to tokens and back, with llama.cpp's tokenizers.

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
    /// A prompt, as `tokenizer(text)` reads it in transformers: the model's special tokens are
    /// added around it (a BOS token, for example), and the names of control tokens in it, such as
    /// `<|user|>`, become those tokens.
    Prompt,
    /// A text in which every character is plain text; special tokens are added around it.
    Text,
    /// A part of a prompt: nothing is added, and names of control tokens become those tokens.
    PromptPart,
    /// A part of a text: nothing is added, and every character is plain text.
    TextPart,
}

impl Reading {
    /// The same reading for a part, to which nothing is added.
    pub fn part(self) -> Self {
        match self {
            Reading::Prompt | Reading::PromptPart => Reading::PromptPart,
            Reading::Text | Reading::TextPart => Reading::TextPart,
        }
    }

    /// The same reading with every character as plain text.
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
    /// Reads the vocabulary of a GGUF file without its weights.
    ///
    /// # Errors
    /// The file is not a GGUF, is damaged, or has no vocabulary that llama.cpp supports.
    pub fn load(path: &Path) -> Result<Vocab> {
        Vocab::of(path, &Gguf::open(path)?)
    }

    /// [`Vocab::load`] for a file whose header has already been read.
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
                copied: false,
                repack: false,
                gpu_layers: 0,
                device: None,
                remote: &[],
                overrides: &[],
                progress: &mut |_| true,
            },
        )?;
        Ok(Vocab::new(Arc::new(raw), &facts))
    }

    /// Returns whether everything in a vocabulary of this file's kind that could make llama.cpp end
    /// the process is checked when it is loaded. If not, the file should first be tried in a
    /// process of its own.
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

    /// The number of entries of the vocabulary.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// All tokens, in order.
    pub fn all(&self) -> impl Iterator<Item = Token> + use<> {
        (0..self.len as usize).map(Token::at)
    }

    /// Returns whether the vocabulary has no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether [`Vocab::tokenize`] puts a token before a whole text.
    pub fn adds_bos(&self) -> bool {
        self.raw.vocab().should_add_bos() && self.bos().is_some()
    }

    /// The token that starts a text.
    pub fn bos(&self) -> Option<Token> {
        self.known(self.raw.vocab().bos())
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<Token> {
        self.known(self.raw.vocab().eos())
    }

    /// Returns whether the token ends a text or a turn, such as `<|endoftext|>` and `<|end|>`.
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

    /// Converts a text to tokens, read as `reading` says.
    ///
    /// # Errors
    /// A character that the vocabulary cannot express, or a text of more than 512 MiB.
    pub fn tokenize(&self, text: impl AsRef<[u8]>, reading: Reading) -> Result<Vec<Token>> {
        let text = text.as_ref();
        if self.len == 0 {
            return Err(Error::NoVocabulary);
        }
        // The tokenizer has 32-bit lengths, and replaces a space by three bytes.
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
        // llama.cpp asserts that the special tokens that it adds exist.
        let lacks = |wanted: bool, token: LlamaToken| wanted && self.known(token).is_none();
        let add_special = reading.is_whole()
            && !lacks(vocab.should_add_bos(), vocab.bos())
            && !lacks(vocab.should_add_eos(), vocab.eos())
            && !lacks(self.kind == sys::LLAMA_VOCAB_TYPE_WPM, vocab.bos())
            && !lacks(self.kind == sys::LLAMA_VOCAB_TYPE_WPM, vocab.sep());
        let tokens = vocab.tokenize(text, add_special, reading.knows_control_tokens());
        Ok(tokens.into_iter().map(|token| Token(token.0)).collect())
    }

    /// The bytes of a token; a character can extend over several tokens. Control tokens have none,
    /// unless `special` requests their names.
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

    /// Checks that the vocabulary has this token.
    ///
    /// # Errors
    /// [`Error::TokenRange`] if it has not.
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
