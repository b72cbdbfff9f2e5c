//! A context of a model: feed tokens, read logits, go back, branch.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::context::{self, kv_bytes};
use super::error::{Error, Result, Token};
use super::ffi::Context;
use super::host;
use super::model::Model;
use super::observe::Observer;
use super::params::ContextParams;
use super::settings::{CONTEXT_STEP, FlashAttention, MAX_SEQ, Settings};

/// Which tokens of a feed are to get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want<'a> {
    /// None of them.
    None,
    /// The last one.
    Last,
    /// Every one.
    All,
    /// Those at these indices into the fed tokens.
    At(&'a [usize]),
}

impl Want<'_> {
    fn has(&self, i: usize, n: usize) -> bool {
        match self {
            Want::None => false,
            Want::Last => i + 1 == n,
            Want::All => true,
            Want::At(list) => list.contains(&i),
        }
    }
}

/// A token for one sequence, in [`Session::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The sequence it continues.
    pub seq: u32,
    /// The token.
    pub token: Token,
    /// Whether its logits are wanted.
    pub output: bool,
}

/// One context of a [`Model`], used by one thread at a time.
pub struct Session {
    context: Context,
    model: Model,
    settings: Settings,
    /// Tokens in each sequence.
    lengths: Vec<usize>,
    batch: Batch,
    cache_offloaded: bool,
    made_in: Duration,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Makes a context.
    ///
    /// # Errors
    /// [`Error::Memory`], before anything is allocated; settings that contradict each other or
    /// the model.
    pub fn new(model: &Model, settings: &Settings) -> Result<Session> {
        let start = Instant::now();
        let facts = model.facts();
        let mut settings = settings.clone();
        if settings.n_ctx == 0 || settings.n_seq == 0 || settings.n_seq > MAX_SEQ {
            return Err(Error::Setting(format!(
                "a context of {} tokens for {} sequences (1 to {})",
                settings.n_ctx, settings.n_seq, MAX_SEQ
            )));
        }
        if settings.kv_type.is_quantized() {
            if settings.flash_attention == FlashAttention::Off {
                return Err(Error::Setting(
                    "a quantized KV cache needs flash attention".to_owned(),
                ));
            }
            let (k, v) = facts.head_sizes;
            if k % 32 != 0 || v % 32 != 0 {
                return Err(Error::Setting(format!(
                    "a quantized KV cache needs heads of a multiple of 32 values, not {k} and {v}"
                )));
            }
        }
        let Some(padded) = settings.n_ctx.checked_next_multiple_of(CONTEXT_STEP) else {
            return Err(Error::Setting(format!(
                "a context of {} tokens",
                settings.n_ctx
            )));
        };
        settings.n_ctx = padded;
        settings.n_batch = settings.n_batch.clamp(1, padded);
        context::check_memory(model, &settings)?;
        let offload = model.gpu_layers() > 0;
        let threads = settings.threads.unwrap_or_else(host::threads).clamp(1, 512);
        let make = |offload| {
            let params = ContextParams {
                n_ctx: padded,
                n_batch: settings.n_batch,
                n_seq: settings.n_seq,
                n_outputs: settings.n_outputs,
                threads,
                threads_batch: threads,
                kv_type: settings.kv_type,
                flash_attention: settings.flash_attention,
                observe: settings.observe,
                offload,
                cancel: settings.cancel.clone(),
            };
            Context::new(&model.inner.raw, model.vocab().len(), params)
        };
        let (raw, cache_offloaded) = match make(offload) {
            // The weights left no room on the device: the cache is kept, and used, on the CPU.
            Err(error) if offload && error.is_for_want_of_memory() => {
                tracing::warn!("the KV cache stays on the CPU: {error}");
                context::check_host_memory(model, &settings)?;
                (make(false)?, false)
            }
            made => (made?, offload),
        };
        Ok(Session {
            context: raw,
            model: model.clone(),
            lengths: vec![0; settings.n_seq as usize],
            settings,
            batch: Batch::default(),
            cache_offloaded,
            made_in: start.elapsed(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the session was made with, sizes rounded as they are in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long making the context took.
    pub fn made_in(&self) -> Duration {
        self.made_in
    }

    /// Whether the KV cache lies in a device's memory: layers are on it, and it had the room.
    pub fn cache_offloaded(&self) -> bool {
        self.cache_offloaded
    }

    /// Tokens the KV cache holds.
    pub fn n_ctx(&self) -> usize {
        self.context.n_ctx() as usize
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        kv_bytes(
            self.model.facts(),
            self.settings.kv_type,
            self.n_ctx() as u64,
        )
    }

    /// Whether this context computes with the long RoPE factors; `None` for a model with one
    /// set.
    pub fn uses_long_rope(&self) -> Option<bool> {
        self.model
            .rope()
            .map(|rope| self.context.n_ctx_seq() > rope.short_context)
    }

    /// The longest sequence this context computes rightly: its size, or less where longer texts
    /// are for the other RoPE factors.
    pub fn longest(&self) -> usize {
        match (self.model.rope(), self.uses_long_rope()) {
            (Some(rope), Some(false)) => self.n_ctx().min(rope.original as usize),
            _ => self.n_ctx(),
        }
    }

    /// Tokens in sequence `seq`.
    pub fn len(&self, seq: u32) -> usize {
        self.lengths.get(seq as usize).copied().unwrap_or(0)
    }

    /// Whether sequence `seq` has no tokens.
    pub fn is_empty(&self, seq: u32) -> bool {
        self.len(seq) == 0
    }

    /// Appends tokens to a sequence and hands the logits asked for, one value per vocabulary
    /// entry, to `on_logits` with the index of their token.
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything is computed, [`Error::TokenRange`],
    /// [`Error::Cancelled`]; after an error the sequence is as long as before.
    pub fn feed(
        &mut self,
        seq: u32,
        tokens: &[Token],
        want: Want<'_>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.feed_in_parts(seq, tokens, want, None, on_logits)
    }

    /// [`Session::feed`], with `observer` looking on. Needs [`Settings::observe`]. llama.cpp
    /// drops the rows that get no logits before the end of the last layer, so who wants every
    /// position of the last layer asks for all logits.
    ///
    /// # Errors
    /// See [`Session::feed`].
    pub fn feed_observed(
        &mut self,
        seq: u32,
        tokens: &[Token],
        want: Want<'_>,
        observer: &mut dyn Observer,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        if !self.settings.observe {
            return Err(Error::Setting(
                "the session was made without an observer".to_owned(),
            ));
        }
        self.feed_in_parts(seq, tokens, want, Some(observer), on_logits)
    }

    fn feed_in_parts(
        &mut self,
        seq: u32,
        tokens: &[Token],
        want: Want<'_>,
        mut observer: Option<&mut (dyn Observer + '_)>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let before = self.len(seq);
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
            let mut entries: Vec<Entry> = Vec::new();
            let mut outputs = 0;
            for (i, &token) in tokens.iter().enumerate().skip(fed).take(n_batch) {
                let output = want.has(i, tokens.len());
                if output && outputs == n_outputs {
                    break;
                }
                outputs += usize::from(output);
                entries.push(Entry { seq, token, output });
            }
            let observer: Option<&mut dyn Observer> = match &mut observer {
                Some(observer) => Some(&mut **observer),
                None => None,
            };
            let result = self.run(&entries, observer, &mut |i, row| on_logits(fed + i, row));
            if let Err(error) = result {
                self.truncate(seq, before);
                return Err(error);
            }
            fed += entries.len();
        }
        Ok(())
    }

    /// Computes one batch with tokens of any sequences, at most [`Settings::n_batch`] in all;
    /// tokens of one sequence follow each other in the order given. The logits asked for go to
    /// `on_logits` with the index of their entry.
    ///
    /// # Errors
    /// See [`Session::feed`].
    pub fn step(
        &mut self,
        entries: &[Entry],
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.run(entries, None, on_logits)
    }

    fn run(
        &mut self,
        entries: &[Entry],
        observer: Option<&mut dyn Observer>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let before = self.lengths.clone();
        let longest = self.longest();
        let n_seq = self.lengths.len();
        self.batch.clear();
        for entry in entries {
            let Some(length) = self.lengths.get_mut(entry.seq as usize) else {
                self.lengths = before;
                return Err(Error::Setting(format!(
                    "no sequence {} in a session of {n_seq}",
                    entry.seq
                )));
            };
            if *length >= longest {
                self.lengths = before;
                return Err(Error::ContextFull {
                    need: longest + 1,
                    n_ctx: longest,
                });
            }
            self.batch
                .push(entry.token, *length, entry.seq, entry.output);
            *length += 1;
        }
        if let Err(error) = self.context.decode(&mut self.batch, observer) {
            let grown: Vec<u32> = (0..n_seq as u32)
                .filter(|&seq| self.lengths[seq as usize] != before[seq as usize])
                .collect();
            for seq in grown {
                self.truncate(seq, before[seq as usize]);
            }
            return Err(error);
        }
        for (i, entry) in entries.iter().enumerate() {
            if entry.output
                && let Some(logits) = self.context.logits(i)
            {
                on_logits(i, logits);
            }
        }
        Ok(())
    }

    /// Takes a sequence back to its first `length` tokens. A model whose memory cannot be taken
    /// back in part (a recurrent one) forgets the sequence altogether: see [`Session::len`].
    pub fn truncate(&mut self, seq: u32, length: usize) {
        let Some(now) = self.lengths.get_mut(seq as usize) else {
            return;
        };
        if length >= *now {
            return;
        }
        *now = length;
        if !self.context.truncate(seq, length) {
            self.context.truncate(seq, 0);
            self.lengths[seq as usize] = 0;
        }
    }

    /// Makes sequence `to` a copy of the first `length` tokens of `from`; they share the cache's
    /// cells until they part.
    pub fn fork(&mut self, from: u32, to: u32, length: usize) {
        if from == to || to as usize >= self.lengths.len() {
            return;
        }
        let length = length.min(self.len(from));
        self.truncate(to, 0);
        self.context.copy(from, to, length);
        self.lengths[to as usize] = length;
    }

    /// Forgets all sequences.
    pub fn reset(&mut self) {
        self.context.clear();
        self.lengths.fill(0);
    }
}
