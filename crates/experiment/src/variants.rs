//! Variants of one prompt, which differ from it in some tokens or by edits from some position on.
//! Only what follows from there is computed.
//!
//! The prompt is read once. A variant is a fork of its sequence at the first position that differs;
//! as many forks as fit share one batch, and one hook applies the edits of each.

use modelve_runtime::graph::Pass;
use modelve_runtime::{
    Entry, Error as RuntimeError, FlashAttention, KvType, Model, Seq, Session, Settings, Token,
    WantLogits, kv,
};

use super::edit::{Edit, Editing, States};
use super::error::Result;

/// A text that was read, of which variants are forks.
pub struct Base {
    /// Its sequence; `None` once its cells were needed for variants.
    seq: Option<Seq>,
    ids: Vec<Token>,
    /// The logits after its last token, one per vocabulary entry.
    pub logits: Vec<f32>,
}

/// A variant of a text.
#[derive(Debug, Clone)]
pub struct Variant<'a> {
    /// All its tokens; at least one.
    pub ids: &'a [Token],
    /// The first position at which its tokens or its edits differ from the text.
    pub from: usize,
    /// The edits of its pass.
    pub edits: Vec<Edit>,
}

impl<'a> Variant<'a> {
    /// Makes a variant with the same tokens and some edits.
    pub fn edited(ids: &'a [Token], edits: Vec<Edit>) -> Self {
        let first = edits.iter().map(|edit| edit.at.first()).min();
        Variant {
            ids,
            from: first.unwrap_or(ids.len()),
            edits,
        }
    }
}

/// Maximum number of variants that are computed in one batch.
const MOST_LANES: usize = 64;
/// Maximum number of tokens in a batch.
const BATCH: u32 = 512;
/// Number of tokens from which a batch makes good use of each weight that is read for it.
const ENOUGH: usize = 192;
/// Approximate limit in bytes of the logits of a batch.
const LOGITS_HELD: usize = 96 << 20;

/// Returns settings for exact comparisons. Unless the base asks for flash attention or a quantized
/// cache, flash attention is off and keys and values are kept in 32 bits: results are small
/// differences, and the rounding of either depends on what else is in a batch.
pub fn exact(base: Settings) -> Settings {
    let open = base.flash_attention == FlashAttention::Auto && !base.kv_type.is_quantized();
    match open {
        true => Settings {
            flash_attention: FlashAttention::Off,
            kv_type: KvType::F32,
            ..base
        },
        false => base,
    }
}

/// Returns the settings of a session for experiments: [`exact`], with hooks and room for variants.
pub fn settings(model: &Model, base: Settings) -> Settings {
    let row = 4 * model.vocab().len().max(1) as usize;
    let mut lanes = (LOGITS_HELD / row).clamp(1, MOST_LANES);
    // A recurrent memory needs a state for each sequence, and its variants are computed one by one.
    let gguf = model.gguf();
    if ["ssm.state_size", "wkv.head_size"]
        .iter()
        .any(|key| gguf.arch(key).is_some())
    {
        lanes = 1;
    }
    Settings {
        n_seq: lanes as u32 + 2,
        n_batch: BATCH,
        n_outputs: lanes as u32,
        hooks: true,
        ..exact(base)
    }
}

/// Returns the number of tokens of variants to compute at once where `taken` cells are in use.
/// Attention multiplies every token of a batch with all cells up to the last one in use, rounded up
/// to a whole step, and most of these belong to other variants. So a batch fills up a step, and is
/// no larger than it needs to be to make good use of the weights.
fn batch_tokens(taken: usize) -> usize {
    (taken + ENOUGH).next_multiple_of(kv::CONTEXT_STEP as usize) - taken
}

/// Returns the number of cells for variants in addition to a text of `tokens` tokens.
pub fn room(tokens: usize) -> usize {
    tokens.max(BATCH as usize)
}

impl Base {
    /// Reads a text with edits and keeps the values that `states` wants.
    ///
    /// # Errors
    /// A text without tokens or one that does not fit the session; [`RuntimeError::Cancelled`].
    pub fn read(
        session: &mut Session,
        ids: &[Token],
        edits: &[Edit],
        states: &mut States,
    ) -> Result<Base> {
        let Some(last) = ids.len().checked_sub(1) else {
            return Err(modelve_probe::Error::EmptyPrompt.into());
        };
        let seq = session.open()?;
        let want = match states.wants_all() {
            true => WantLogits::All,
            false => WantLogits::Last,
        };
        let mut hook = Editing::new([(seq.id(), edits)]).reading(seq.id(), states);
        let mut logits = Vec::new();
        let mut keep = |i: usize, row: &[f32]| {
            if i == last {
                logits = row.to_vec();
            }
        };
        let _: Pass = session.feed_hooked(&seq, ids, want, &mut hook, &mut keep)?;
        Ok(Base {
            seq: Some(seq),
            ids: ids.to_vec(),
            logits,
        })
    }

    /// Returns the token ids of the text.
    pub fn ids(&self) -> &[Token] {
        &self.ids
    }

    /// Appends one token, with edits, and updates the logits of the text.
    ///
    /// # Errors
    /// The text no longer fits the session; [`RuntimeError::Cancelled`].
    pub fn push(&mut self, session: &mut Session, token: Token, edits: &[Edit]) -> Result<()> {
        let Base { seq, ids, logits } = self;
        if let Some(seq) = seq {
            let mut hook = Editing::new([(seq.id(), edits)]);
            let mut keep = |_: usize, row: &[f32]| *logits = row.to_vec();
            let _: Pass =
                session.feed_hooked(seq, &[token], WantLogits::Last, &mut hook, &mut keep)?;
            ids.push(token);
        }
        Ok(())
    }

    /// Makes a sequence with the tokens that a variant shares with the text, and returns their
    /// number. The last token is always computed again, because its logits are wanted.
    fn fork(&self, session: &mut Session, variant: &Variant<'_>) -> Result<(Seq, usize)> {
        let start = variant.from.min(variant.ids.len() - 1).min(self.ids.len());
        if let Some(seq) = &self.seq
            && start > 0
            && session.can_truncate(seq, start)?
        {
            return Ok((session.fork(seq, start)?, start));
        }
        Ok((session.open()?, 0))
    }

    /// Returns how many of a variant's tokens have to be computed.
    fn cost(&self, session: &Session, variant: &Variant<'_>) -> Result<usize> {
        let start = variant.from.min(variant.ids.len() - 1).min(self.ids.len());
        let shared = match &self.seq {
            Some(seq) if start > 0 && session.can_truncate(seq, start)? => start,
            _ => 0,
        };
        Ok(variant.ids.len() - shared)
    }

    /// Computes variants in order and hands the logits after the last token of each to `on_logits`
    /// with its index.
    ///
    /// # Errors
    /// A variant that does not fit the session; [`RuntimeError::Cancelled`] once the session's flag
    /// is set. The logits handed over until then are valid.
    pub fn run(
        &mut self,
        session: &mut Session,
        variants: &[Variant<'_>],
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let settings = session.settings();
        let n_batch = settings.n_batch as usize;
        let mut most = settings.n_outputs as usize;
        let mut done = 0;
        while done < variants.len() {
            let lanes = most.min(session.free_sequences().max(1));
            let free = session.free_cells();
            let taken = session.n_ctx().saturating_sub(free);
            let cells = free.min(n_batch).min(batch_tokens(taken));
            let mut total = 0;
            let mut n = 0;
            for variant in variants[done..].iter().take(lanes) {
                let cost = self.cost(session, variant)?;
                if total + cost > cells {
                    break;
                }
                total += cost;
                n += 1;
            }
            if n < 2 {
                self.one(session, &variants[done], &mut |row| on_logits(done, row))?;
                done += 1;
                continue;
            }
            let here = &variants[done..done + n];
            match self.batch(session, here, &mut |i, row| on_logits(done + i, row)) {
                Ok(()) => done += n,
                // A recurrent memory can only be hooked with one sequence at a time.
                Err(super::Error::Runtime(RuntimeError::HookOnSeveral { .. })) => most = 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Computes one variant, in as many batches as it needs.
    fn one(
        &mut self,
        session: &mut Session,
        variant: &Variant<'_>,
        on_logits: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        if self.cost(session, variant)? > session.free_cells() {
            // The cells of the text are needed; from now on variants are computed from their first
            // token.
            self.seq = None;
        }
        let (seq, start) = self.fork(session, variant)?;
        let mut hook = Editing::new([(seq.id(), &variant.edits[..])]);
        let mut keep = |_: usize, row: &[f32]| on_logits(row);
        let ids = &variant.ids[start..];
        let _: Pass = session.feed_hooked(&seq, ids, WantLogits::Last, &mut hook, &mut keep)?;
        session.close(seq);
        Ok(())
    }

    /// Computes several variants in one batch.
    fn batch(
        &self,
        session: &mut Session,
        variants: &[Variant<'_>],
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let mut lanes = Vec::with_capacity(variants.len());
        for variant in variants {
            lanes.push(self.fork(session, variant)?);
        }
        let mut entries = Vec::new();
        let mut whose = Vec::new();
        for (lane, ((seq, start), variant)) in lanes.iter().zip(variants).enumerate() {
            let last = variant.ids.len() - 1;
            for (position, &token) in variant.ids.iter().enumerate().skip(*start) {
                let output = position == last;
                entries.push(Entry { seq, token, output });
                whose.push(lane);
            }
        }
        let edits = lanes.iter().zip(variants);
        let edits = edits.map(|((seq, _), variant)| (seq.id(), &variant.edits[..]));
        let mut hook = Editing::new(edits);
        let mut keep = |i: usize, row: &[f32]| on_logits(whose[i], row);
        let _: Pass = session.step_hooked(&entries, &mut hook, &mut keep)?;
        Ok(())
    }
}

/// Returns whether an error only means that the work was cancelled.
pub fn is_cancelled(error: &super::Error) -> bool {
    use modelve_probe::Error as ProbeError;
    matches!(
        error,
        super::Error::Runtime(RuntimeError::Cancelled)
            | super::Error::Probe(ProbeError::Runtime(RuntimeError::Cancelled))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_where_a_step_of_the_cache_does() {
        assert_eq!(batch_tokens(15), 241);
        assert_eq!(batch_tokens(64), 192);
        assert_eq!(batch_tokens(65), 447);
        assert_eq!(batch_tokens(600), 424);
    }

    #[test]
    fn experiments_are_exact_unless_asked_otherwise() {
        let plain = exact(Settings::default());
        assert_eq!(plain.flash_attention, FlashAttention::Off);
        assert_eq!(plain.kv_type, KvType::F32);
        let fused = exact(Settings {
            flash_attention: FlashAttention::On,
            ..Settings::default()
        });
        assert_eq!(fused.flash_attention, FlashAttention::On);
        assert_eq!(fused.kv_type, Settings::default().kv_type);
        let small = exact(Settings {
            kv_type: KvType::Q8_0,
            ..Settings::default()
        });
        assert_eq!(small.kv_type, KvType::Q8_0);
    }
}
