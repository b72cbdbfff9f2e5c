//! What several kinds of answers have in common.

use modelve_runtime::{Completion, Finish};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What computed an answer: with another the same seed may give another text.
pub const FINGERPRINT: &str = concat!("modelve-", env!("CARGO_PKG_VERSION"));

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of the answers.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// More about the first.
    pub prompt_tokens_details: PromptDetails,
}

/// More about the tokens of prompts.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Those that were not computed again.
    pub cached_tokens: usize,
}

impl Usage {
    /// Counts a completion; its prompt only if nobody did before.
    pub fn add(&mut self, completion: &Completion, with_prompt: bool) {
        if with_prompt {
            self.prompt_tokens += completion.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += completion.reused;
        }
        self.completion_tokens += completion.steps.len() + usize::from(completion.end.is_some());
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// What is told at the end of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// What the answer took.
    pub include_usage: Option<bool>,
}

/// Why an answer ended, in OpenAI's words.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::Cancelled => "length",
    }
}
