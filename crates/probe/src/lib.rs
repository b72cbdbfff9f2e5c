//! Probes: what a model expects next, how likely it finds a text, what its layers would predict,
//! what its heads attend to, and what quantization changed.
//!
//! Each probe is a function over a [`Session`]. It returns plain data that serializes to the
//! documented JSON, and prints nothing. It opens the sequences it needs and closes them again;
//! other sequences of the session are left alone. Probabilities are the model's own, before
//! temperature and over the whole vocabulary; `logprob` is a natural logarithm.
//!
//! | function | requirement on the session |
//! |---|---|
//! | [`next::next`] | room for the prompt and what is tried after it |
//! | [`score::score`] | room for a window of text |
//! | [`live::Texts::read`] | [`live::settings`] |
//! | [`lens::lens`] | [`lens::settings`] |
//! | [`attention::attention`] | [`attention::settings`] |
//! | [`compare::compare`] | [`compare::settings`], one session for each model |
//! | [`effect::Predictions::read`] | an [`Exchange`](modelve_runtime::Exchange) instead of a session |
//! | [`importance::Measurement::read`] | [`importance::settings`] |
//!
//! ```no_run
//! use modelve_probe::{Prompt, next};
//! use modelve_runtime::{LoadOptions, Model, Session, Settings};
//!
//! let model = Model::load("model.gguf".as_ref(), &LoadOptions::default())?;
//! let mut session = Session::new(&model, &Settings::default())?;
//! let prompt = Prompt::new(model.vocab(), "The ball hit the bat, and")?;
//! let options = next::Options { top: 5, ..next::Options::default() };
//! let next = next::next(&mut session, &prompt, &options, &mut |_| {})?;
//! for choice in &next.top {
//!     println!("{:?} {:.1} %", choice.piece, 100.0 * choice.prob);
//! }
//! # Ok::<(), modelve_probe::Error>(())
//! ```

pub mod attention;
pub mod calibration;
pub mod compare;
pub mod effect;
mod error;
pub mod html;
pub mod importance;
pub mod lens;
pub mod live;
pub mod math;
pub mod next;
mod pieces;
mod readout;
pub mod score;
mod subject;
pub mod swap;
pub mod tree;
mod unembed_ffi;
pub mod weights;

pub use error::{Error, Result};
pub use pieces::{JsonText, Piece};
pub use readout::{FrozenNorm, Readout};
pub use subject::Subject;

use serde::Serialize;

use math::Distribution;
use modelve_runtime::{Reading, Seq, Session, Token, Vocab, WantLogits};

/// A text and its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Its token ids, beginning with a BOS token if the model uses one.
    pub ids: Vec<Token>,
}

impl Prompt {
    /// Tokenizes a prompt. Control tokens written out in the text (`<|user|>`) become those tokens.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], and the errors of [`Vocab::tokenize`].
    pub fn new(vocab: &Vocab, text: &str) -> Result<Self> {
        Self::tokenized(vocab, text, Reading::Prompt)
    }

    /// Tokenizes a text without recognizing control tokens in it.
    ///
    /// # Errors
    /// See [`Prompt::new`].
    pub fn plain(vocab: &Vocab, text: &str) -> Result<Self> {
        Self::tokenized(vocab, text, Reading::Text)
    }

    fn tokenized(vocab: &Vocab, text: &str, reading: Reading) -> Result<Self> {
        let ids = vocab.tokenize(text, reading)?;
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Ok(Prompt {
            text: text.to_owned(),
            ids,
        })
    }

    /// Returns the text of each token.
    pub fn pieces(&self, vocab: &Vocab) -> Vec<Piece> {
        self.ids.iter().map(|&id| piece(vocab, id)).collect()
    }
}

/// The text that is used where none is given: prose, speech, numbers, facts, a little code.
pub const SAMPLE: &str = include_str!("sample.txt");

/// Returns the text of a token.
pub fn piece(vocab: &Vocab, id: Token) -> Piece {
    Piece::new(vocab.piece(id, true).unwrap_or_default())
}

/// Returns the text of tokens; bytes that are not valid UTF-8 become U+FFFD.
pub fn text_of(vocab: &Vocab, ids: &[Token]) -> String {
    let pieces = ids
        .iter()
        .map(|&id| vocab.piece(id, true).unwrap_or_default());
    String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()).into_owned()
}

/// A token with its probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The token.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
    /// Its probability.
    #[serde(serialize_with = "digits")]
    pub prob: f64,
    /// Natural logarithm of the probability.
    #[serde(serialize_with = "digits")]
    pub logprob: f64,
}

impl Choice {
    /// Looks a token up in a distribution.
    pub fn new(vocab: &Vocab, distribution: &Distribution<'_>, id: Token) -> Self {
        let logprob = distribution.logprob(id);
        Choice {
            id,
            piece: piece(vocab, id),
            prob: logprob.exp(),
            logprob,
        }
    }

    /// Returns the `n` likeliest tokens, likeliest first.
    pub fn top(vocab: &Vocab, distribution: &Distribution<'_>, n: usize) -> Vec<Self> {
        let ids = distribution.top(n).into_iter();
        ids.map(|id| Choice::new(vocab, distribution, id)).collect()
    }
}

/// Serializes a number with nine digits, more than 32-bit logits have; pages with many cells would
/// be twice as large otherwise. Infinities and NaN become null.
fn digits<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if *value == 0.0 || !value.is_finite() {
        return serializer.serialize_f64(*value);
    }
    let short: f64 = format!("{value:.8e}").parse().unwrap_or(*value);
    serializer.serialize_f64(short)
}

/// Reads `ids` into a new sequence and returns it with the logits after the last token.
/// `on_progress` gets the number of tokens done.
fn read(
    session: &mut Session,
    ids: &[Token],
    on_progress: &mut dyn FnMut(usize),
) -> Result<(Seq, Vec<f32>)> {
    let seq = session.open()?;
    let step = session.settings().n_batch as usize;
    let mut row = Vec::new();
    let mut done = 0;
    for part in ids.chunks(step) {
        done += part.len();
        let want = if done == ids.len() {
            WantLogits::Last
        } else {
            WantLogits::None
        };
        session.feed(&seq, part, want, &mut |_, logits| row = logits.to_vec())?;
        on_progress(done);
    }
    Ok((seq, row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_prompt_is_named_as_such() {
        assert_eq!(Error::EmptyPrompt.to_string(), "the prompt is empty");
    }
}
