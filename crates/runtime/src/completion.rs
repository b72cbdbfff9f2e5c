//! What a completion is made from and what comes of it.

use std::time::{Duration, Instant};

use super::error::Error;
use super::sampling::{Likely, Sampling};
use super::token::Token;

/// How to complete a prompt.
#[derive(Debug, Clone)]
pub struct Options {
    /// Tokens to add, at most.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end a completion and are not part of it.
    pub stops: Vec<String>,
    /// Never choose a token that ends a text.
    pub ignore_end: bool,
    /// Whether to tell each token's log-probability.
    pub logprobs: bool,
    /// How many of the likeliest tokens to tell at each step.
    pub top: usize,
    /// Whether to tell the same of the prompt's tokens. Then all of the prompt is computed, and
    /// nothing of it is taken over from another text.
    pub prompt_logprobs: bool,
    /// Control tokens that the text shows by their names; others are no part of it.
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
    /// The model ended it, a stop string, or a grammar that was complete.
    Stop,
    /// It has the tokens asked for, or fills the context.
    Length,
    /// Somebody stopped it.
    Cancelled,
}

/// One token of a completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The token.
    pub token: Token,
    /// Its log-probability before any sampler; 0 unless asked for.
    pub logprob: f32,
    /// The likeliest tokens at this place, as many as asked for.
    pub top: Vec<Likely>,
}

/// A prompt's completion.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The text after the prompt.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Its tokens, the one that ended the text not among them.
    pub steps: Vec<Step>,
    /// The token that ended the text, if one did.
    pub end: Option<Step>,
    /// The prompt's tokens from the second on, each judged by those before it; empty unless asked
    /// for.
    pub prompt: Vec<Step>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were taken over from another text.
    pub reused: usize,
    /// From when the prompt's turn came to its first logits.
    pub prefill: Duration,
    /// When the first token was there, if there was one.
    pub first_token: Option<Instant>,
    /// From the first token to the last.
    pub generate: Duration,
}

/// What happens while prompts are completed.
#[derive(Debug)]
pub enum Event {
    /// A token was chosen.
    Token {
        /// Which prompt, counted from 0.
        index: usize,
        /// The token.
        step: Step,
        /// The text that is certain now; may be empty, or belong to earlier tokens.
        text: String,
    },
    /// A completion ended.
    Done {
        /// Which prompt, counted from 0.
        index: usize,
        /// All of it.
        completion: Completion,
    },
    /// A prompt could not be completed to its end; others go on.
    Failed {
        /// Which prompt, counted from 0.
        index: usize,
        /// Why.
        error: Error,
    },
}

/// What it took.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every context made, in order.
    pub contexts: Vec<ContextReport>,
    /// Tokens of prompts computed, those computed again in a longer context included.
    pub prefilled: usize,
    /// Tokens of prompts that were taken over from another text.
    pub reused: usize,
    /// Decode calls.
    pub calls: usize,
}

/// One context that was used.
#[derive(Debug, Clone)]
pub struct ContextReport {
    /// Tokens it holds.
    pub n_ctx: usize,
    /// Bytes of its KV cache.
    pub kv_bytes: u64,
    /// Whether it has the long RoPE factors; none: the model has one set.
    pub long_rope: Option<bool>,
    /// Sequences it keeps apart.
    pub n_seq: u32,
    /// How long it took to make.
    pub made_in: Duration,
    /// Whether its KV cache lies in a device's memory.
    pub cache_offloaded: bool,
}
