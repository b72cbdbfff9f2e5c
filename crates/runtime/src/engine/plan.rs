//! Chooses the sizes of contexts: how long a text may be, and how many texts share a context.

use super::request::Setup;
use crate::context::{self, kv_bytes};
use crate::error::{Error, Result};
use crate::host;
use crate::model::Model;
use crate::rope::RopeFactors;
use crate::settings::{MAX_SEQ, Settings};
use crate::token::Token;

/// Maximum number of cells of a context for several prompts, unless one prompt needs more or the
/// RoPE factors set the limit. Attention visits all of them for every token.
const SHARED_CELLS: usize = 4096;
/// Default for the number of texts that are computed at once.
pub const PARALLEL: u32 = 32;
/// Maximum number of prompt tokens whose log-probabilities are computed at once; each needs a row
/// of logits.
const JUDGED_AT_ONCE: u32 = 64;
/// Maximum number of tokens that are computed at once. A larger pass takes more memory without more
/// tokens per second.
const MAX_BATCH: usize = 512;

/// What a prompt and its completion need in addition to a shared prefix.
pub(super) struct Need {
    /// The number of tokens to feed before the first is chosen.
    pub prompt: usize,
    /// The number of cells of the KV cache.
    pub cells: usize,
    /// Whether logits are needed after every token of the prompt.
    pub judged: bool,
}

/// The length of the longest text, in tokens.
///
/// # Errors
/// The requested length is more than the model was trained on.
pub(super) fn longest_text(model: &Model, ctx_size: Option<u32>) -> Result<usize> {
    let trained = model.facts().n_ctx_train;
    match ctx_size {
        Some(size) if size > trained => Err(Error::BeyondTraining { size, trained }),
        Some(0) => Err(Error::ContextSize { n_ctx: 0 }),
        Some(size) => Ok(size as usize),
        None => Ok(trained as usize),
    }
}

/// Checks that there is enough memory for a text of `tokens` tokens.
pub(super) fn check_fit(model: &Model, settings: &Settings, tokens: usize) -> Result<()> {
    let n_ctx = u32::try_from(tokens).unwrap_or(u32::MAX);
    context::check_memory(
        model,
        &Settings {
            n_ctx,
            ..settings.clone()
        },
    )
}

/// The length of the common prefix of all prompts; 0 if it is not worth computing separately.
pub(super) fn shared_prefix<'a>(mut prompts: impl Iterator<Item = &'a [Token]>) -> usize {
    let Some(first) = prompts.next() else {
        return 0;
    };
    // The last token of a prompt is always computed, for its logits.
    let mut shared = first.len() - 1;
    let mut others = 0;
    for prompt in prompts {
        let same = first.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        shared = shared.min(same).min(prompt.len() - 1);
        others += 1;
    }
    // Saving a few tokens is not worth another decode call.
    if shared * others >= 64 { shared } else { 0 }
}

/// The settings of a context of a given size.
pub(super) fn fixed(settings: &Settings, n_ctx: u32, n_seq: u32) -> Settings {
    let n_seq = n_seq.clamp(1, MAX_SEQ);
    Settings {
        n_ctx,
        n_seq,
        n_batch: MAX_BATCH as u32,
        // Hooks and log-probabilities of prompts need the logits of several tokens at once, in
        // addition to those of generating sequences.
        n_outputs: n_seq + JUDGED_AT_ONCE,
        ..settings.clone()
    }
}

/// The settings of the smallest context that serves the needs well.
pub(super) fn settings(
    model: &Model,
    setup: &Setup,
    rope_factors: RopeFactors,
    shared: usize,
    needs: &[Need],
) -> Settings {
    let kv_type = setup.settings.kv_type;
    let one = needs.iter().map(|need| need.cells).max().unwrap_or(1) + shared;
    let most = setup.parallel.unwrap_or(PARALLEL).clamp(1, MAX_SEQ - 1) as usize;
    let mut cells: Vec<usize> = needs.iter().map(|need| need.cells).collect();
    cells.sort_unstable_by_key(|&n| std::cmp::Reverse(n));
    let wanted = shared + cells.iter().take(most).sum::<usize>();
    // A context for several texts takes at most a quarter of the free memory.
    let per_token = kv_bytes(model.facts(), kv_type, 1).max(1);
    let affordable = host::free_memory().map_or(u64::MAX, |free| free / 4 / per_token);
    let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
    let cap = match model.rope() {
        Some(rope) if rope_factors == RopeFactors::Short => rope.short_context as usize,
        _ => SHARED_CELLS,
    };
    let mut n_ctx = wanted.min(cap).min(affordable).max(one);
    if rope_factors == RopeFactors::Long {
        n_ctx = n_ctx.max(model.context_for(rope_factors, n_ctx) as usize);
    }
    let together = cells.iter().rev().scan(shared, |sum, &n| {
        *sum += n;
        Some(*sum)
    });
    let n_seq = together
        .take_while(|&sum| sum <= n_ctx)
        .count()
        .clamp(1, most);
    let prompts: usize = needs.iter().take(n_seq).map(|need| need.prompt).sum();
    let n_batch = prompts
        .max(shared)
        .max(n_seq)
        .clamp(1, MAX_BATCH.max(n_seq));
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let judged = needs.iter().any(|need| need.judged);
    Settings {
        n_ctx: small(n_ctx),
        n_seq: small(n_seq) + u32::from(shared > 0),
        n_batch: small(n_batch),
        n_outputs: small(n_seq) + if judged { JUDGED_AT_ONCE } else { 0 },
        ..setup.settings.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_shared_when_it_saves_enough() {
        let system: Vec<Token> = (0..40).map(Token).collect();
        let with = |tail: &[i32]| {
            let tail = tail.iter().map(|&id| Token(id));
            system.iter().copied().chain(tail).collect::<Vec<_>>()
        };
        let prompts = [with(&[100, 101]), with(&[100, 102]), with(&[103])];
        assert_eq!(shared_prefix(prompts.iter().map(Vec::as_slice)), 40);
        // Equal prompts still compute their last token separately.
        let same = [with(&[]), with(&[]), with(&[])];
        assert_eq!(shared_prefix(same.iter().map(Vec::as_slice)), 39);
        let short = [[1, 2, 3], [1, 2, 4]].map(|ids| ids.map(Token).to_vec());
        assert_eq!(shared_prefix(short.iter().map(Vec::as_slice)), 0);
        assert_eq!(shared_prefix(same[..1].iter().map(Vec::as_slice)), 0);
    }
}
