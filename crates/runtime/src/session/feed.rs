//! Computes with a session: feeds tokens, returns logits, and runs hooks on the nodes.

use std::collections::BTreeMap;

use super::Session;
use crate::active_hook::ActiveHook;
use crate::error::{Error, Result};
use crate::graph::{Hook, Pass};
use crate::seq::Seq;
use crate::token::Token;

/// Which tokens of a feed get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantLogits<'a> {
    /// None of them.
    None,
    /// The last one.
    Last,
    /// Every one.
    All,
    /// Those at these indices into the fed tokens.
    At(&'a [usize]),
}

impl WantLogits<'_> {
    fn has(&self, i: usize, n: usize) -> bool {
        match self {
            WantLogits::None => false,
            WantLogits::Last => i + 1 == n,
            WantLogits::All => true,
            WantLogits::At(list) => list.contains(&i),
        }
    }
}

/// A token for one sequence, in [`Session::step`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The sequence it continues.
    pub seq: &'a Seq,
    /// The token.
    pub token: Token,
    /// Whether its logits are requested.
    pub output: bool,
}

impl Session {
    /// Appends tokens to a sequence, and passes the requested logits, one value per vocabulary
    /// entry, to `on_logits` with the index of their token.
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything is computed; [`Error::TokenRange`];
    /// [`Error::Cancelled`]. After an error the sequence is as long as before, or empty if the
    /// model's memory cannot be rolled back in part.
    pub fn feed(
        &mut self,
        seq: &Seq,
        tokens: &[Token],
        want: WantLogits<'_>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.feed_in_parts(seq, tokens, want, None, on_logits)
            .map(drop)
    }

    /// [`Session::feed`] with a hook. Needs [`crate::Settings::hooks`]. Within the last layer,
    /// llama.cpp drops the rows of tokens without logits, so a hook that needs every position of
    /// the last layer must request all logits. If the feed has several batches, `Break` removes all
    /// of them: the sequence is as long as before the call.
    ///
    /// # Errors
    /// See [`Session::feed`]; [`Error::NoHooks`]; the hook's errors.
    pub fn feed_hooked(
        &mut self,
        seq: &Seq,
        tokens: &[Token],
        want: WantLogits<'_>,
        hook: &mut dyn Hook,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Pass> {
        self.roles()?;
        self.feed_in_parts(seq, tokens, want, Some(hook), on_logits)
    }

    /// [`Session::step`] with a hook. Needs [`crate::Settings::hooks`].
    ///
    /// # Errors
    /// See [`Session::step`]; [`Error::NoHooks`]; [`Error::HookOnSeveral`]; the hook's errors.
    pub fn step_hooked(
        &mut self,
        entries: &[Entry<'_>],
        hook: &mut dyn Hook,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Pass> {
        self.roles()?;
        self.run(entries, Some(hook), on_logits)
    }

    fn feed_in_parts(
        &mut self,
        seq: &Seq,
        tokens: &[Token],
        want: WantLogits<'_>,
        mut hook: Option<&mut (dyn Hook + '_)>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Pass> {
        let before = self.len(seq)?;
        let need = before + tokens.len();
        if need > self.longest() {
            return Err(Error::ContextFull {
                need,
                n_ctx: self.longest(),
            });
        }
        let limits = self.context.limits();
        let (n_batch, n_outputs) = (limits.n_batch as usize, limits.n_outputs as usize);
        let mut fed = 0;
        while fed < tokens.len() {
            let mut entries: Vec<Entry<'_>> = Vec::new();
            let mut outputs = 0;
            for (i, &token) in tokens.iter().enumerate().skip(fed).take(n_batch) {
                let output = want.has(i, tokens.len());
                if output && outputs == n_outputs {
                    break;
                }
                outputs += usize::from(output);
                entries.push(Entry { seq, token, output });
            }
            let hook: Option<&mut dyn Hook> = match &mut hook {
                Some(hook) => Some(&mut **hook),
                None => None,
            };
            let result = self.run(&entries, hook, &mut |i, row| on_logits(fed + i, row));
            if !matches!(result, Ok(Pass::Complete)) {
                self.roll_back(self.slot(seq)?, before);
                return result;
            }
            fed += entries.len();
        }
        Ok(Pass::Complete)
    }

    /// Computes one batch of at most [`crate::Settings::n_batch`] tokens of any sequences. Tokens
    /// of one sequence are appended in the given order. The requested logits are passed to
    /// `on_logits` with the index of their entry.
    ///
    /// # Errors
    /// See [`Session::feed`]; [`Error::ForeignSequence`].
    pub fn step(
        &mut self,
        entries: &[Entry<'_>],
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.run(entries, None, on_logits).map(drop)
    }

    fn run(
        &mut self,
        entries: &[Entry<'_>],
        hook: Option<&mut dyn Hook>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Pass> {
        self.collect();
        let longest = self.longest();
        let mut grown: BTreeMap<u32, usize> = BTreeMap::new();
        self.batch.clear();
        for entry in entries {
            let slot = self.slot(entry.seq)?;
            let length = self.tokens[slot as usize].len();
            let position = length + *grown.entry(slot).and_modify(|n| *n += 1).or_insert(0);
            if position >= longest {
                return Err(Error::ContextFull {
                    need: longest + 1,
                    n_ctx: longest,
                });
            }
            self.batch.push(entry.token, position, slot, entry.output);
        }
        if entries.len() > self.n_ctx().saturating_sub(self.cells.taken()) {
            return Err(Error::ContextFull {
                need: self.cells.taken() + entries.len(),
                n_ctx: self.n_ctx(),
            });
        }
        let result = self.decode(hook, grown.len());
        if !matches!(result, Ok(Pass::Complete)) {
            for &slot in grown.keys() {
                self.roll_back(slot, self.tokens[slot as usize].len());
            }
            return result;
        }
        for entry in entries {
            let slot = self.slot(entry.seq)? as usize;
            self.tokens[slot].push(entry.token);
            self.cells.push(slot);
        }
        for (i, entry) in entries.iter().enumerate() {
            if entry.output
                && let Some(logits) = self.context.logits(i)
            {
                on_logits(i, logits);
            }
        }
        Ok(Pass::Complete)
    }

    /// Computes the batch, which has tokens of `n_seq` sequences.
    fn decode(&mut self, hook: Option<&mut dyn Hook>, n_seq: usize) -> Result<Pass> {
        let (Some(hook), Some(roles)) = (hook, &self.roles) else {
            return self.context.decode(&mut self.batch, None);
        };
        // llama.cpp computes a batch in the given order, except for recurrent memories, which need
        // groups of sequences of equal length.
        if n_seq > 1 && self.context.is_recurrent() {
            let arch = self.model.facts().arch.clone();
            return Err(Error::HookOnSeveral { arch });
        }
        let (tokens, outputs) = self.batch.rows();
        let hook = ActiveHook::new(hook, &tokens, &outputs, roles);
        self.context.decode(&mut self.batch, Some(hook))
    }
}
