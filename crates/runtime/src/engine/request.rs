//! The requests to an engine, its setup, and its events.

use std::fmt;
use std::sync::Arc;

use crate::completion::{Completion, Options, Step};
use crate::error::Error;
use crate::settings::Settings;
use crate::store::StateStore;
use crate::token::Token;

/// The setup of an engine, which applies to all requests.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Threads, cache type, flash attention, hooks, control vector and the flag that stops a step;
    /// sizes are chosen by the engine.
    pub settings: Settings,
    /// Maximum length of a text, prompt and completion, in tokens; `None` for the length that the
    /// model was trained on.
    pub ctx_size: Option<u32>,
    /// The size of its contexts; `None` chooses what the waiting requests need, again each time a
    /// context has no active request.
    pub capacity: Option<Capacity>,
    /// Maximum number of texts that are computed at once; `None` for
    /// [`PARALLEL`](super::PARALLEL).
    pub parallel: Option<u32>,
    /// Whether ended sequences are removed from the cache at once instead of kept for requests that
    /// start with them. Then the cells of a text do not depend on what was computed before it.
    pub discard_ended: bool,
    /// Where the sequences of long texts that ended are saved, and those that a text starts with are
    /// looked for.
    pub store: Option<Arc<StateStore>>,
}

/// The size of an engine's contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The number of tokens of all texts together.
    pub cells: u32,
    /// The number of texts, including those that are kept for reuse.
    pub sequences: u32,
}

/// A prompt and how to complete it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt. An empty one is replaced by the model's BOS token.
    pub prompt: Vec<Token>,
    /// The seed of its random numbers.
    pub seed: u32,
    /// The options, which many requests can share.
    pub options: Arc<Options>,
}

/// The id of a request; later ones are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl RequestId {
    /// The index of the request: an engine's requests are counted from 0.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

/// An event of a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The prompt was computed: its tokens from the second on, each with its log-probability after
    /// those before it. Comes before the first token, and only if it was requested.
    Prompt(Vec<Step>),
    /// A token was chosen.
    Token {
        /// The token.
        step: Step,
        /// The text that can be shown now. It may be empty, or belong to earlier tokens, because
        /// incomplete characters and possible stop strings are held back.
        text: String,
    },
    /// It ended with this completion.
    Done(Completion),
    /// It failed with this error; the others continue.
    Failed(Error),
}

/// The number of requests of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// The number of those that are being computed.
    pub active: usize,
    /// The number of those that wait.
    pub waiting: usize,
}

/// Whether an engine has anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Some requests have not ended.
    Busy,
    /// All requests have ended.
    Idle,
}
