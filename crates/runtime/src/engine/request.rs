//! What is asked of an engine, and what it answers.

use std::fmt;
use std::sync::Arc;

use crate::completion::{Completion, Options, Step};
use crate::error::Error;
use crate::settings::Settings;
use crate::token::Token;

/// How an engine computes, whoever asks.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Threads, cache type, flash attention, hooks, control vector and the flag that stops a step;
    /// sizes are chosen by the engine.
    pub settings: Settings,
    /// The longest text allowed, prompt and completion, in tokens; none: what the model was
    /// trained on.
    pub ctx_size: Option<u32>,
    /// What its contexts are to hold; none: what those that wait need, chosen anew whenever
    /// nobody is in a context.
    pub capacity: Option<Capacity>,
    /// Texts computed at once, at most; none: [`PARALLEL`](super::PARALLEL).
    pub parallel: Option<u32>,
    /// Whether what ended leaves the cache at once, and is not kept for requests that begin with
    /// it: then a text is computed in the same cells whatever was computed before it.
    pub forget_ended: bool,
}

/// The size of an engine's contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of all texts together.
    pub cells: u32,
    /// Texts, those that are kept for whoever begins like them included.
    pub sequences: u32,
}

/// A prompt and how to complete it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt. An empty one begins with the model's BOS token.
    pub prompt: Vec<Token>,
    /// Where its random numbers begin.
    pub seed: u32,
    /// How to complete it; many requests can share that.
    pub options: Arc<Options>,
}

/// The name of a request; later ones are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl RequestId {
    /// Its number: an engine's requests are counted from 0.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

/// What happens to a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The prompt was read: its tokens from the second on, each judged by those before it. Comes
    /// before the first token, and only if it was asked for.
    Prompt(Vec<Step>),
    /// A token was chosen.
    Token {
        /// The token.
        step: Step,
        /// The text that is certain now; may be empty, or belong to earlier tokens.
        text: String,
    },
    /// It ended: this is all of it.
    Done(Completion),
    /// It ended with an error, which is its own: others go on.
    Failed(Error),
}

/// How many requests an engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Those that are computed.
    pub active: usize,
    /// Those that wait for their turn.
    pub waiting: usize,
}

/// Whether there is anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Another step will do something.
    Busy,
    /// All requests have ended.
    Idle,
}
