//! A lane: the requests that are computed with one set of RoPE factors. It holds those that wait,
//! those that are being computed, and the sequences of those that ended, as a prefix cache.

use std::collections::VecDeque;

use crate::completion::{ContextReport, Report};
use crate::engine::job::Job;
use crate::engine::plan::{self, Need};
use crate::engine::request::{Event, RequestId, Setup};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::rope::RopeFactors;
use crate::seq::Seq;
use crate::session::Session;
use crate::settings::Settings;
use crate::token::Token;

mod decode;
mod seat;
mod stored;

use seat::Source;

/// A sequence that is being computed.
struct Active {
    seq: Seq,
    work: Work,
    /// The number of cells of the KV cache that it will occupy at its end.
    cells: usize,
}

enum Work {
    Job(Box<Job>),
    /// A prefix that several waiting requests share; computed once, then forked.
    SharedPrefix(Vec<Token>),
}

impl Work {
    fn tokens(&self) -> &[Token] {
        match self {
            Work::Job(job) => &job.tokens,
            Work::SharedPrefix(tokens) => tokens,
        }
    }
}

/// What a step needs from the engine: the model, the setup, and where results go.
pub(super) struct StepContext<'a> {
    pub model: &'a Model,
    pub setup: &'a Setup,
    /// The longest text, in tokens.
    pub limit: usize,
    /// The tokens that end a text, for requests that must not choose one.
    pub ends: &'a [Token],
    pub report: &'a mut Report,
    pub events: &'a mut Vec<(RequestId, Event)>,
}

pub(super) struct Lane {
    rope_factors: RopeFactors,
    pub waiting: VecDeque<Job>,
    session: Option<Session>,
    active: Vec<Active>,
    /// A computed prefix that is kept while any request waits.
    shared_prefix: Option<Seq>,
    /// Sequences of requests that ended, the least recently used first.
    kept: VecDeque<Seq>,
}

impl Lane {
    pub fn new(rope_factors: RopeFactors) -> Self {
        Lane {
            rope_factors,
            waiting: VecDeque::new(),
            session: None,
            active: Vec::new(),
            shared_prefix: None,
            kept: VecDeque::new(),
        }
    }

    /// Returns whether any sequence is being computed.
    pub fn is_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Returns whether any request waits or is being computed.
    pub fn is_busy(&self) -> bool {
        self.is_active() || !self.waiting.is_empty()
    }

    /// The number of requests that are being computed.
    pub fn n_active(&self) -> usize {
        let jobs = self.active.iter();
        jobs.filter(|active| matches!(active.work, Work::Job(_)))
            .count()
    }

    /// Frees the context, unless a sequence is being computed in it.
    pub fn release(&mut self) {
        if !self.is_active() {
            self.shared_prefix = None;
            self.kept.clear();
            self.session = None;
        }
    }

    /// Removes a request. What it has computed stays in the prefix cache.
    pub fn cancel(&mut self, id: RequestId) -> Option<Job> {
        if let Some(at) = self.waiting.iter().position(|job| job.id == id) {
            return self.waiting.remove(at);
        }
        let of = |active: &Active| matches!(&active.work, Work::Job(job) if job.id == id);
        let active = self.active.remove(self.active.iter().position(of)?);
        self.kept.push_back(active.seq);
        match active.work {
            Work::Job(job) => Some(*job),
            Work::SharedPrefix(_) => None,
        }
    }

    /// Removes all requests.
    pub fn cancel_all(&mut self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.waiting.drain(..).collect();
        for active in self.active.drain(..) {
            self.kept.push_back(active.seq);
            if let Work::Job(job) = active.work {
                jobs.push(*job);
            }
        }
        jobs
    }

    /// The longest text, in tokens, that this lane computes.
    fn reach(&self, ctx: &StepContext<'_>) -> usize {
        ctx.model.reach(self.rope_factors).min(ctx.limit)
    }

    /// The settings for the waiting requests, and the length of the prefix that they all share.
    fn plan(&self, ctx: &StepContext<'_>) -> (Settings, usize) {
        let sharing = self.waiting.iter().filter(|job| !job.judges());
        let shared = plan::shared_prefix(sharing.map(|job| job.tokens.as_slice()));
        if let Some(capacity) = ctx.setup.capacity {
            let n_ctx = (ctx.model).context_for(self.rope_factors, capacity.cells as usize);
            let settings = plan::fixed(&ctx.setup.settings, n_ctx, capacity.sequences);
            return (settings, shared);
        }
        let reach = self.reach(ctx);
        let needs: Vec<Need> = self
            .waiting
            .iter()
            .map(|job| {
                // A request for the log-probabilities of its prompt computes all of it.
                let shared = if job.judges() { 0 } else { shared };
                Need {
                    prompt: job.tokens.len() - shared,
                    cells: job.cells(reach) - shared,
                    judged: job.judges(),
                }
            })
            .collect();
        let settings = plan::settings(ctx.model, ctx.setup, self.rope_factors, shared, &needs);
        (settings, shared)
    }

    /// Makes the context that the waiting requests need, unless the present one suffices. A context
    /// with active sequences is never replaced.
    ///
    /// # Errors
    /// See [`Session::new`].
    pub fn prepare(&mut self, ctx: &mut StepContext<'_>) -> Result<()> {
        if self.is_active() || self.waiting.is_empty() {
            return Ok(());
        }
        let (mut settings, shared) = self.plan(ctx);
        self.add_room_for_stored(ctx, &mut settings);
        let reach = self.reach(ctx);
        let first = self.waiting.front().map_or(0, |job| job.cells(reach));
        // A context that is large enough is kept, unless most of the waiting requests would not
        // fit into it at once.
        let will_do = self.session.as_ref().is_some_and(|session| {
            let wanted = settings.n_seq.saturating_sub(u32::from(shared > 0));
            session.n_ctx() >= first && 2 * session.settings().n_seq >= wanted
        });
        if will_do {
            return Ok(());
        }
        let carried = self.carried()?;
        if carried.is_some() {
            settings.n_ctx = self.grown(ctx, settings.n_ctx);
        }
        self.release();
        let session = Session::new(ctx.model, &settings)?;
        ctx.report.contexts.push(ContextReport {
            n_ctx: session.n_ctx(),
            kv_bytes: session.kv_bytes(),
            long_rope: session.uses_long_rope(),
            n_seq: settings.n_seq,
            creation_time: session.creation_time(),
            cache_offloaded: session.cache_offloaded(),
        });
        let session = self.session.insert(session);
        if let Some(bytes) = carried {
            // A state that cannot be restored is computed again.
            self.kept.extend(session.restore(&bytes).ok());
        }
        // A shared prefix is computed once, before any of the requests.
        let first = self.waiting.iter().find(|job| !job.judges());
        if let Some(first) = first.filter(|_| shared > 0) {
            let tokens = first.tokens[..shared].to_vec();
            self.start_shared_prefix(ctx, tokens)?;
        }
        Ok(())
    }

    /// Starts to compute a shared prefix, from as much of it as the store has.
    fn start_shared_prefix(&mut self, ctx: &mut StepContext<'_>, tokens: Vec<Token>) -> Result<()> {
        let seq = match self.restored(ctx, &tokens, 0)? {
            Some((seq, n)) => {
                ctx.report.reused += n;
                self.session()?.truncate(&seq, n)?;
                if n == tokens.len() {
                    self.shared_prefix = Some(seq);
                    return Ok(());
                }
                seq
            }
            None => self.session()?.open()?,
        };
        self.active.push(Active {
            seq,
            cells: tokens.len(),
            work: Work::SharedPrefix(tokens),
        });
        Ok(())
    }

    /// The saved state of the kept sequence that the first waiting request continues, to be
    /// restored in a larger context.
    fn carried(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(job) = self.waiting.front() else {
            return Ok(None);
        };
        let Some(Some((Source::Kept(i), _))) = self.best_source(&job.tokens)? else {
            return Ok(None);
        };
        match &mut self.session {
            Some(session) => session.save(&self.kept[i]).map(Some),
            None => Ok(None),
        }
    }

    /// The size of the context that replaces one that a growing text has filled: twice as large
    /// where memory allows, so that the state is seldom moved.
    fn grown(&self, ctx: &StepContext<'_>, n_ctx: u32) -> u32 {
        let now = self.session.as_ref().map_or(0, Session::n_ctx);
        let twice = ctx
            .model
            .context_for(self.rope_factors, (2 * now).min(self.reach(ctx)));
        match plan::check_fit(ctx.model, &ctx.setup.settings, twice as usize) {
            Ok(()) => n_ctx.max(twice),
            Err(_) => n_ctx,
        }
    }

    /// The session, with `cells` cells and one sequence that no active request needs.
    ///
    /// # Errors
    /// [`Error::ContextFull`] or [`Error::NoSequence`] if active requests need them.
    pub fn lend(&mut self, ctx: &mut StepContext<'_>, cells: usize) -> Result<&mut Session> {
        if self.session.is_none() {
            let n_ctx = ctx.model.context_for(self.rope_factors, cells);
            let settings = match ctx.setup.capacity {
                Some(_) => self.plan(ctx).0,
                None => plan::fixed(&ctx.setup.settings, n_ctx, 2),
            };
            self.session = Some(Session::new(ctx.model, &settings)?);
        }
        while self.spare_cells()? < cells || self.session()?.free_sequences() == 0 {
            if self.kept.pop_front().is_none() {
                let n_ctx = self.spare_cells()?;
                let n_seq = self.session()?.settings().n_seq;
                return Err(match n_ctx < cells {
                    true => Error::ContextFull { need: cells, n_ctx },
                    false => Error::NoSequence { n_seq },
                });
            }
        }
        self.session()
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or(Error::ForeignSequence)
    }

    /// The number of free cells that no active sequence will need.
    fn spare_cells(&mut self) -> Result<usize> {
        let Some(session) = &mut self.session else {
            return Ok(0);
        };
        let mut promised = 0;
        for active in &self.active {
            promised += active.cells.saturating_sub(session.len(&active.seq)?);
        }
        Ok(session.free_cells().saturating_sub(promised))
    }
}
