//! Types that several kinds of answers share.

use modelve_runtime::{Completion, Finish};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Identifies the program that computed an answer; other versions may generate another text for the
/// same seed.
pub const FINGERPRINT: &str = concat!("modelve-", env!("CARGO_PKG_VERSION"));

/// Numbers of tokens of an answer.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Usage {
    /// Number of tokens in the prompts.
    pub prompt_tokens: usize,
    /// Number of generated tokens.
    pub completion_tokens: usize,
    /// Number of both together.
    pub total_tokens: usize,
    /// Details of `prompt_tokens`.
    pub prompt_tokens_details: PromptDetails,
}

/// Details of the prompt's tokens.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Number of tokens whose KV cache was reused.
    pub cached_tokens: usize,
}

impl Usage {
    /// Adds a completion; its prompt only if `with_prompt`.
    pub fn add(&mut self, completion: &Completion, with_prompt: bool) {
        if with_prompt {
            self.prompt_tokens += completion.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += completion.reused;
        }
        self.completion_tokens += completion.steps.len() + usize::from(completion.end.is_some());
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Whether the stream ends with the numbers of tokens.
    pub include_usage: Option<bool>,
}

/// Returns why an answer ended, in the terms of OpenAI's API.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::Cancelled => "length",
    }
}
