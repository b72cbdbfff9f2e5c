//! A context of a model: open sequences, feed tokens, read logits, go back, branch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::cells::Cells;
use crate::context::{self, kv_bytes};
use crate::context_ffi::Context;
use crate::error::{Error, Result};
use crate::graph::Roles;
use crate::host;
use crate::kv::CONTEXT_STEP;
use crate::model::Model;
use crate::params::ContextParams;
use crate::rope::Regime;
use crate::seq::Home;
use crate::settings::{FlashAttention, MAX_SEQ, Settings};
use crate::token::Token;

mod feed;
mod sequences;
mod survey;

pub use feed::{Entry, Want};

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
    pub(crate) fn max_outputs(&self) -> usize {
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

    /// The roles that nodes of this model's graph have, as this session computes it.
    ///
    /// # Errors
    /// [`Error::NoHooks`].
    pub fn roles(&self) -> Result<&Roles> {
        self.roles.as_deref().ok_or(Error::NoHooks)
    }

    /// The factors this context computes with.
    pub fn regime(&self) -> Regime {
        match self.uses_long_rope() {
            Some(true) => Regime::Long,
            _ => Regime::Short,
        }
    }
}
