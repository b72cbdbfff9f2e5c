//! A session with a model: open sequences, feed tokens, read logits, truncate, fork.

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
use crate::rope::RopeFactors;
use crate::seq::Home;
use crate::settings::{FlashAttention, MAX_SEQ, Settings};
use crate::token::Token;

mod feed;
mod sequences;
mod survey;

pub use feed::{Entry, WantLogits};

/// One context of a [`Model`], used by one thread at a time.
pub struct Session {
    context: Context,
    model: Model,
    settings: Settings,
    home: Arc<Home>,
    /// The slots without a sequence.
    vacant: Vec<u32>,
    /// The tokens of each slot.
    tokens: Vec<Vec<Token>>,
    cells: Cells,
    batch: Batch,
    /// The roles of the graph's nodes; `None` without hooks.
    roles: Option<Arc<Roles>>,
    cache_offloaded: bool,
    creation_time: Duration,
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
    /// [`Error::Memory`] before anything is allocated; errors for settings that contradict each
    /// other or the model.
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
                workers: model.workers().clone(),
            };
            Context::new(&model.inner.raw, model.vocab().len(), params)
        };
        let (raw, cache_offloaded) = match make(offload) {
            // The weights left no memory on the device: the cache stays in host memory, and
            // attention is computed on the CPU.
            Err(error @ Error::OutOfMemory { .. })
                if offload && model.remote().layers.is_empty() =>
            {
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
            creation_time: Duration::ZERO,
        };
        if session.settings.hooks {
            session.roles = Some(session.find_roles()?);
        }
        session.add_control()?;
        session.creation_time = start.elapsed();
        Ok(session)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The settings of the session, with sizes as rounded.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The time that making the context took.
    pub fn creation_time(&self) -> Duration {
        self.creation_time
    }

    /// Returns whether the KV cache is in a device's memory, because layers are on the device and
    /// the cache fitted, too.
    pub fn cache_offloaded(&self) -> bool {
        self.cache_offloaded
    }

    /// The number of tokens that the KV cache holds.
    pub fn n_ctx(&self) -> usize {
        self.context.n_ctx() as usize
    }

    /// The size of the KV cache in bytes.
    pub fn kv_bytes(&self) -> u64 {
        kv_bytes(
            self.model.facts(),
            self.settings.kv_type,
            self.n_ctx() as u64,
        )
    }

    /// Maximum number of rows of logits of one batch.
    pub(crate) fn max_outputs(&self) -> usize {
        self.context.limits().n_outputs as usize
    }

    /// Whether this context computes with the long RoPE factors; `None` if the model has only one
    /// set.
    pub fn uses_long_rope(&self) -> Option<bool> {
        self.model
            .rope()
            .map(|rope| self.context.n_ctx_seq() > rope.short_context)
    }

    /// The length of the longest sequence that this context computes correctly: its size, or less
    /// if longer texts need the other RoPE factors.
    pub fn longest(&self) -> usize {
        match (self.model.rope(), self.uses_long_rope()) {
            (Some(rope), Some(false)) => self.n_ctx().min(rope.original as usize),
            _ => self.n_ctx(),
        }
    }

    /// Returns whether the model's memory is recurrent, so that sequences cannot be truncated.
    pub(crate) fn is_recurrent(&self) -> bool {
        self.context.is_recurrent()
    }

    /// The roles of the nodes of this session's graph.
    ///
    /// # Errors
    /// [`Error::NoHooks`].
    pub fn roles(&self) -> Result<&Roles> {
        self.roles.as_deref().ok_or(Error::NoHooks)
    }

    /// The RoPE factors that this context computes with.
    pub fn rope_factors(&self) -> RopeFactors {
        match self.uses_long_rope() {
            Some(true) => RopeFactors::Long,
            _ => RopeFactors::Short,
        }
    }
}
