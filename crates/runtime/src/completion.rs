//! The options of a completion, its result, and the events on the way.

use std::time::{Duration, Instant};

use super::error::Error;
use super::sampling::{Likely, Sampling};
use super::token::Token;

/// The options of a completion.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum number of tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end a completion and are not part of it.
    pub stops: Vec<String>,
    /// Whether tokens that end a text are never chosen.
    pub ignore_end: bool,
    /// Whether to report each token's log-probability.
    pub logprobs: bool,
    /// The number of most likely tokens to report at each step.
    pub top: usize,
    /// Whether to report the same for the prompt's tokens. Then all of the prompt is computed, and
    /// no prefix is reused from another sequence.
    pub prompt_logprobs: bool,
    /// Control tokens whose names are part of the text; other control tokens are left out of it.
    pub shown: Vec<Token>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_tokens: 128,
            sampling: Sampling::default(),
            stops: Vec::new(),
            ignore_end: false,
            logprobs: false,
            top: 0,
            prompt_logprobs: false,
            shown: Vec::new(),
        }
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, a stop string appeared, or its grammar was complete.
    Stop,
    /// It has the maximum number of tokens, or fills the context.
    Length,
    /// It was cancelled.
    Cancelled,
}

/// One token of a completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The token.
    pub token: Token,
    /// Its log-probability before any sampler; 0 unless requested.
    pub logprob: f32,
    /// The most likely tokens at this position, as many as requested.
    pub top: Vec<Likely>,
}

/// A prompt's completion.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The text after the prompt.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Its tokens, without the one that ended the text.
    pub steps: Vec<Step>,
    /// The token that ended the text, if one did.
    pub end: Option<Step>,
    /// The prompt's tokens from the second on, each with its log-probability after those before
    /// it; empty unless requested.
    pub prompt: Vec<Step>,
    /// The number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// The number of them that were reused from another sequence instead of computed.
    pub reused: usize,
    /// The time from the start of the prefill to the first logits.
    pub prefill: Duration,
    /// When the first token was chosen, if there was one.
    pub first_token: Option<Instant>,
    /// The time from the first token to the last.
    pub generate: Duration,
}

/// An event while prompts are completed.
#[derive(Debug)]
pub enum Event {
    /// A token was chosen.
    Token {
        /// Which prompt, counted from 0.
        index: usize,
        /// The token.
        step: Step,
        /// The text that can be shown now. It may be empty, or belong to earlier tokens, because
        /// incomplete characters and possible stop strings are held back.
        text: String,
    },
    /// A completion ended.
    Done {
        /// Which prompt, counted from 0.
        index: usize,
        /// The completion.
        completion: Completion,
    },
    /// A completion failed; the others continue.
    Failed {
        /// Which prompt, counted from 0.
        index: usize,
        /// The reason.
        error: Error,
    },
}

/// What completing all prompts took.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every context that was made, in order.
    pub contexts: Vec<ContextReport>,
    /// The number of prompt tokens computed, counting again those computed again in a longer
    /// context.
    pub prefilled: usize,
    /// The number of prompt tokens that were reused from another sequence.
    pub reused: usize,
    /// The number of decode calls.
    pub calls: usize,
}

/// One context that was used.
#[derive(Debug, Clone)]
pub struct ContextReport {
    /// The number of tokens it holds.
    pub n_ctx: usize,
    /// The size of its KV cache in bytes.
    pub kv_bytes: u64,
    /// Whether it computes with the long RoPE factors; `None` if the model has only one set.
    pub long_rope: Option<bool>,
    /// Maximum number of sequences in it.
    pub n_seq: u32,
    /// The time it took to make.
    pub creation_time: Duration,
    /// Whether its KV cache is in a device's memory.
    pub cache_offloaded: bool,
}
