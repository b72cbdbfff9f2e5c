//! A context of a model: open sequences, feed tokens, read logits, go back, branch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::cells::Cells;
use super::context::{self, kv_bytes};
use super::context_ffi::Context;
use super::control::layers_added;
use super::error::{Error, Result};
use super::graph::{Hook, Pass, Roles};
use super::host;
use super::kv::CONTEXT_STEP;
use super::looking::Looking;
use super::model::Model;
use super::params::ContextParams;
use super::rope::Regime;
use super::seq::{Home, Seq};
use super::settings::{FlashAttention, MAX_SEQ, Settings};
use super::token::Token;
use super::trace::RawNode;

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
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The sequence it continues.
    pub seq: &'a Seq,
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
    home: Arc<Home>,
    /// Slots that no sequence has.
    vacant: Vec<u32>,
    /// The tokens of each slot.
    tokens: Vec<Vec<Token>>,
    cells: Cells,
    batch: Batch,
    /// What nodes are; none without hooks.
    roles: Option<Arc<Roles>>,
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
        if settings.n_seq == 0 || settings.n_seq > MAX_SEQ {
            return Err(Error::Sequences {
                n_seq: settings.n_seq,
                most: MAX_SEQ,
            });
        }
        if settings.kv_type.is_quantized() {
            if settings.flash_attention == FlashAttention::Off {
                return Err(Error::QuantizedCacheUnfused);
            }
            let (k, v) = facts.head_sizes;
            if k % 32 != 0 || v % 32 != 0 {
                return Err(Error::QuantizedCacheHeads { k, v });
            }
        }
        let padded = settings.n_ctx.checked_next_multiple_of(CONTEXT_STEP);
        let Some(padded) = padded.filter(|&padded| padded > 0) else {
            return Err(Error::ContextSize {
                n_ctx: settings.n_ctx,
            });
        };
        if let Some(control) = &settings.control {
            control.check(facts)?;
        }
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
                watched: settings.hooks || settings.control.is_some(),
                offload,
                cancel: settings.cancel.clone(),
            };
            Context::new(&model.inner.raw, model.vocab().len(), params)
        };
        let (raw, cache_offloaded) = match make(offload) {
            // The weights left no room on the device: the cache is kept, and used, on the CPU.
            Err(error @ Error::OutOfMemory { .. }) if offload => {
                tracing::warn!("the KV cache stays on the CPU: {error}");
                context::check_host_memory(model, &settings)?;
                (make(false)?, false)
            }
            made => (made?, offload),
        };
        let mut session = Session {
            context: raw,
            model: model.clone(),
            home: Arc::default(),
            vacant: (0..settings.n_seq).rev().collect(),
            tokens: vec![Vec::new(); settings.n_seq as usize],
            cells: Cells::new(settings.n_seq),
            settings,
            batch: Batch::default(),
            roles: None,
            cache_offloaded,
            made_in: Duration::ZERO,
        };
        if session.settings.hooks {
            session.roles = Some(session.find_roles()?);
        }
        session.add_control()?;
        session.made_in = start.elapsed();
        Ok(session)
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

    /// Rows of logits that one batch can have.
    pub(super) fn max_outputs(&self) -> usize {
        self.context.limits().n_outputs as usize
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

    /// Cells of the cache that no sequence holds.
    pub fn free_cells(&mut self) -> usize {
        self.collect();
        self.n_ctx().saturating_sub(self.cells.taken())
    }

    /// Sequences that can still be opened.
    pub fn free_sequences(&mut self) -> usize {
        self.collect();
        self.vacant.len()
    }

    /// Opens an empty sequence.
    ///
    /// # Errors
    /// [`Error::NoSequence`]: all of [`Settings::n_seq`] are open.
    pub fn open(&mut self) -> Result<Seq> {
        self.collect();
        match self.vacant.pop() {
            Some(slot) => Ok(Seq::new(slot, &self.home)),
            None => Err(Error::NoSequence {
                n_seq: self.settings.n_seq,
            }),
        }
    }

    /// Closes a sequence and gives its cells free, as dropping it does.
    pub fn close(&mut self, seq: Seq) {
        drop(seq);
        self.collect();
    }

    /// Takes back what was closed.
    fn collect(&mut self) {
        let returned = self.home.take_returned();
        if returned.is_empty() {
            return;
        }
        for slot in returned {
            self.forget(slot);
            self.vacant.push(slot);
        }
        // The lowest is handed out first, so that the same calls give the same names.
        self.vacant.sort_unstable_by(|a, b| b.cmp(a));
    }

    fn forget(&mut self, slot: u32) {
        self.context.truncate(slot, 0);
        self.tokens[slot as usize].clear();
        self.cells.truncate(slot as usize, 0);
    }

    fn slot(&self, seq: &Seq) -> Result<u32> {
        seq.slot_in(&self.home).ok_or(Error::ForeignSequence)
    }

    /// The tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn tokens(&self, seq: &Seq) -> Result<&[Token]> {
        Ok(&self.tokens[self.slot(seq)? as usize])
    }

    /// How many tokens a sequence has.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn len(&self, seq: &Seq) -> Result<usize> {
        Ok(self.tokens(seq)?.len())
    }

    /// Whether a sequence has no tokens.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn is_empty(&self, seq: &Seq) -> Result<bool> {
        Ok(self.len(seq)? == 0)
    }

    /// Appends tokens to a sequence and hands the logits asked for, one value per vocabulary
    /// entry, to `on_logits` with the index of their token.
    ///
    /// # Errors
    /// [`Error::ContextFull`] before anything is computed, [`Error::TokenRange`],
    /// [`Error::Cancelled`]; after an error the sequence is as long as before, or empty if the
    /// model's memory cannot be taken back in part.
    pub fn feed(
        &mut self,
        seq: &Seq,
        tokens: &[Token],
        want: Want<'_>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.feed_in_parts(seq, tokens, want, None, on_logits)
            .map(drop)
    }

    /// [`Session::feed`] with a hook. Needs [`Settings::hooks`]. llama.cpp drops the rows that get
    /// no logits before the end of the last layer, so who wants every position of the last layer
    /// asks for all logits. Of a feed in several batches `Break` leaves nothing either: the
    /// sequence is as long as before the call.
    ///
    /// # Errors
    /// See [`Session::feed`]; [`Error::NoHooks`]; what the hook returns.
    pub fn feed_hooked(
        &mut self,
        seq: &Seq,
        tokens: &[Token],
        want: Want<'_>,
        hook: &mut dyn Hook,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Pass> {
        self.roles()?;
        self.feed_in_parts(seq, tokens, want, Some(hook), on_logits)
    }

    /// [`Session::step`] with a hook. Needs [`Settings::hooks`].
    ///
    /// # Errors
    /// See [`Session::step`]; [`Error::NoHooks`]; [`Error::HookOnSeveral`]; what the hook returns.
    pub fn step_hooked(
        &mut self,
        entries: &[Entry<'_>],
        hook: &mut dyn Hook,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Pass> {
        self.roles()?;
        self.run(entries, Some(hook), on_logits)
    }

    /// The roles that nodes of this model's graph have, as this session computes it.
    ///
    /// # Errors
    /// [`Error::NoHooks`].
    pub fn roles(&self) -> Result<&Roles> {
        self.roles.as_deref().ok_or(Error::NoHooks)
    }

    /// Has llama.cpp add the control vector of the settings, and proves that its graph does.
    fn add_control(&mut self) -> Result<()> {
        let Some(control) = self.settings.control.clone() else {
            return Ok(());
        };
        let (directions, first, last) = control.flat();
        let width = control.width();
        if !self.context.set_control(&directions, width, first, last) {
            return Err(Error::ControlVector {
                what: "is declined by llama.cpp".to_owned(),
            });
        }
        let (_, graph) = self.survey()?;
        let added = layers_added(&graph, width);
        let layers = control.directions().map(|(layer, _)| layer);
        let missing: Vec<usize> = layers.filter(|layer| !added.contains(layer)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::NoControl {
                arch: self.model.facts().arch.clone(),
                layers: missing,
            }),
        }
    }

    /// The graph of a pass over a token or two, all with logits, and how many they are.
    fn survey(&mut self) -> Result<(usize, Vec<RawNode>)> {
        let limits = self.context.limits();
        let n = limits.n_batch.min(limits.n_outputs).min(2) as usize;
        self.batch.clear();
        (0..n).for_each(|position| self.batch.push(Token(0), position, 0, true));
        Ok((n, self.context.survey(&mut self.batch)?))
    }

    /// Holds the table of roles against the graph of two tokens.
    fn find_roles(&mut self) -> Result<Arc<Roles>> {
        let model = self.model.clone();
        let flash = self.settings.flash_attention;
        model.inner.roles.get_or_find(flash, || {
            let (n, graph) = self.survey()?;
            let facts = model.facts();
            let (n_layer, n_embd) = (facts.n_layer as usize, facts.n_embd as usize);
            let fused = flash != FlashAttention::Off;
            Ok(Roles::find(&facts.arch, fused, n_layer, n_embd, n, &graph))
        })
    }

    fn feed_in_parts(
        &mut self,
        seq: &Seq,
        tokens: &[Token],
        want: Want<'_>,
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
                self.take_back(self.slot(seq)?, before);
                return result;
            }
            fed += entries.len();
        }
        Ok(Pass::Complete)
    }

    /// Computes one batch with tokens of any sequences, at most [`Settings::n_batch`] in all;
    /// tokens of one sequence follow each other in the order given. The logits asked for go to
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
                self.take_back(slot, self.tokens[slot as usize].len());
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
        // llama.cpp computes a batch in the order given, but for memories that want sequences of
        // equal length side by side.
        if n_seq > 1 && self.context.is_recurrent() {
            let arch = self.model.facts().arch.clone();
            return Err(Error::HookOnSeveral { arch });
        }
        let (tokens, outputs) = self.batch.rows();
        let looking = Looking::new(hook, &tokens, &outputs, roles);
        self.context.decode(&mut self.batch, Some(looking))
    }

    /// The factors this context computes with.
    pub fn regime(&self) -> Regime {
        match self.uses_long_rope() {
            Some(true) => Regime::Long,
            _ => Regime::Short,
        }
    }

    /// What llama.cpp's memory holds of a sequence.
    pub(super) fn state_of(&mut self, seq: &Seq) -> Result<Vec<u8>> {
        let slot = self.slot(seq)?;
        self.context.state(slot)
    }

    /// Fills an empty sequence with what llama.cpp's memory held of it.
    pub(super) fn put_state(&mut self, seq: &Seq, tokens: Vec<Token>, state: &[u8]) -> Result<()> {
        let slot = self.slot(seq)?;
        if let Err(error) = self.context.put_state(slot, state, tokens.len()) {
            self.forget(slot);
            return Err(error);
        }
        tokens.iter().for_each(|_| self.cells.push(slot as usize));
        self.tokens[slot as usize] = tokens;
        Ok(())
    }

    /// Removes whatever of a slot lies behind its first `length` tokens; all of it, if the memory
    /// cannot be taken back in part.
    fn take_back(&mut self, slot: u32, length: usize) {
        if self.context.truncate(slot, length) {
            self.tokens[slot as usize].truncate(length);
            self.cells.truncate(slot as usize, length);
        } else {
            self.forget(slot);
        }
    }

    /// Whether a sequence can be taken back to its first `length` tokens: to none and to all it
    /// always can. A recurrent memory cannot otherwise, and one with a sliding window only while
    /// it still holds what the window then reaches back to.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn can_truncate(&self, seq: &Seq, length: usize) -> Result<bool> {
        let slot = self.slot(seq)?;
        let have = self.tokens[slot as usize].len();
        Ok(length == 0 || length >= have || self.context.holds_window_before(slot, length))
    }

    fn check_truncate(&self, seq: &Seq, length: usize) -> Result<()> {
        match self.can_truncate(seq, length)? {
            true => Ok(()),
            false => Err(Error::CannotTakeBack {
                arch: self.model.facts().arch.clone(),
                have: self.len(seq)?,
                want: length,
            }),
        }
    }

    /// Takes a sequence back to its first `length` tokens.
    ///
    /// # Errors
    /// [`Error::CannotTakeBack`] for a model whose memory cannot be taken back in part, see
    /// [`Session::can_truncate`]: then nothing is changed.
    pub fn truncate(&mut self, seq: &Seq, length: usize) -> Result<()> {
        let slot = self.slot(seq)?;
        if length >= self.tokens[slot as usize].len() {
            return Ok(());
        }
        self.check_truncate(seq, length)?;
        if !self.context.truncate(slot, length) {
            return Err(Error::CannotTakeBack {
                arch: self.model.facts().arch.clone(),
                have: self.tokens[slot as usize].len(),
                want: length,
            });
        }
        self.tokens[slot as usize].truncate(length);
        self.cells.truncate(slot as usize, length);
        Ok(())
    }

    /// Opens a sequence that begins as a copy of the first `length` tokens of `from`. They share
    /// the cache's cells until they part.
    ///
    /// # Errors
    /// [`Error::NoSequence`]; [`Error::CannotTakeBack`] if less than all of `from` is wanted of a
    /// memory that cannot be taken back in part.
    pub fn fork(&mut self, from: &Seq, length: usize) -> Result<Seq> {
        let source = self.slot(from)? as usize;
        self.check_truncate(from, length)?;
        let fork = self.open()?;
        let (slot, length) = (self.slot(&fork)?, length.min(self.tokens[source].len()));
        let all = length == self.tokens[source].len();
        self.context
            .copy(source as u32, slot, (!all).then_some(length));
        self.tokens[slot as usize] = self.tokens[source][..length].to_vec();
        self.cells.share(source, slot as usize, length);
        Ok(fork)
    }
}
