//! The memory that a model needs besides its weights and its KV cache, estimated from its header.
//!
//! The constants were measured as the resident memory of `modelve complete`, less the mapped file, the KV cache and
//! the buffers that llama.cpp reports, for eight models with vocabularies of 2,112 to 262,144 tokens: what remains is
//! 22.4 MiB, and 158 to 171 bytes for each token and each merge. docs/inspecting.md has the figures.

use super::kv::Header;

/// Bytes of the process itself, with llama.cpp started.
const PROCESS: u64 = 23 << 20;
/// Bytes of what llama.cpp builds of a token of the vocabulary, or of a merge.
const ENTRY: u64 = 168;
/// Tokens of a prompt that are computed at once, at most.
const BATCH: u64 = 512;
/// Bytes of a value of a state.
const VALUE: u64 = 4;

/// Memory besides weights and KV cache, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Working {
    /// Whatever the length of the context.
    pub fixed: u64,
}

impl Working {
    /// For each token of the context: a row of the attention mask, in 32 and in 16 bits, for every token that
    /// is computed at once.
    pub const PER_TOKEN: u64 = BATCH * (4 + 2);

    /// Estimates what the model with this header needs. A header that does not say how wide the model is or
    /// which tokens it has counts as one without.
    pub fn of(header: &dyn Header) -> Working {
        let number = |key: &str| header.number(key).unwrap_or(0);
        let layers = number("block_count");
        let widest = |key: &str| {
            let widths = header.per_layer(key, layers.min(super::kv::MAX_LAYERS));
            let widths = widths.into_iter().flatten();
            widths.max().unwrap_or(0)
        };
        let experts =
            widest("expert_used_count").saturating_mul(number("expert_feed_forward_length"));
        let feed_forward = widest("feed_forward_length").max(experts);
        let vocabulary = header.entries("tokenizer.ggml.tokens");
        let vocabulary = vocabulary.unwrap_or_else(|| number("vocab_size"));
        let merges = header.entries("tokenizer.ggml.merges").unwrap_or(0);
        // Three states of the feed-forward network and four of the residual stream are held at once.
        let states = feed_forward
            .saturating_mul(3)
            .saturating_add(number("embedding_length").saturating_mul(4))
            .saturating_mul(BATCH * VALUE);
        let fixed = PROCESS
            .saturating_add(vocabulary.saturating_add(merges).saturating_mul(ENTRY))
            .saturating_add(states)
            // The logits of one token, and their copy.
            .saturating_add(vocabulary.saturating_mul(2 * VALUE));
        Working { fixed }
    }
}
