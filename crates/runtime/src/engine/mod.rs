//! An engine with continuous batching: requests arrive and end at any time, and share each decode.
//!
//! [`Engine::submit`] adds a request, [`Engine::step`] computes one decode for all requests,
//! [`Engine::cancel`] removes one. While some requests generate, long prompts are computed in
//! chunks, so that no token waits for more than one chunk. Capacity is counted in cells of the KV
//! cache: a request that does not fit waits, in order; one that can never fit is refused at once.
//!
//! The sequences of requests that ended stay in the cache while there is room; the least recently
//! used is dropped first. A request that starts with the same tokens reuses them. Tokens are then
//! in other cells of the cache than in a fresh computation, so that attention adds in another
//! order: logits agree except for rounding, and greedy texts agree unless two tokens are almost
//! equally likely. Models whose memory cannot be rolled back in part (recurrent ones, and sliding
//! windows that have moved on) reuse whole sequences only.

mod complete;
mod job;
mod lane;
mod plan;
mod request;

use std::sync::Arc;

use super::completion::{Completion, Finish, Options, Report};
use super::error::{Error, Result};
use super::model::Model;
use super::rope::{PerRegime, RopeFactors};
use super::session::Session;
use super::token::Token;
pub use complete::complete;
use job::Job;
use lane::{Lane, StepContext};
pub use request::{Capacity, Event, Load, Request, RequestId, Setup, State};

pub use plan::PARALLEL;

/// The number of steps of the lane with short RoPE factors after which a request that waits for the
/// other lane gets a turn.
const PATIENCE: usize = 256;

/// Completes many requests with a model and its contexts. Used by one thread at a time.
pub struct Engine {
    model: Model,
    setup: Setup,
    /// The longest text, in tokens.
    limit: usize,
    next_id: u64,
    lanes: PerRegime<Lane>,
    /// The events of requests that ended before a step.
    ended: Vec<(RequestId, Event)>,
    /// The options that were checked last.
    sound: Option<Arc<Options>>,
    /// The tokens that end a text; filled once a request must not choose one.
    ends: Vec<Token>,
    /// The number of cells for which there is memory.
    affordable: usize,
    /// The number of steps of the lane with short RoPE factors since the other had a turn.
    patience: usize,
    report: Report,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model)
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes an engine. Contexts are made when the first request needs them.
    ///
    /// # Errors
    /// The longest text is longer than the model was trained on, or there is not enough memory for
    /// the capacity.
    pub fn new(model: &Model, setup: Setup) -> Result<Engine> {
        let limit = plan::longest_text(model, setup.ctx_size)?;
        if let Some(capacity) = setup.capacity {
            plan::check_fit(model, &setup.settings, capacity.cells as usize)?;
        }
        Ok(Engine {
            model: model.clone(),
            setup,
            limit,
            next_id: 0,
            lanes: PerRegime::new(Lane::new(RopeFactors::Short), Lane::new(RopeFactors::Long)),
            ended: Vec::new(),
            sound: None,
            ends: Vec::new(),
            affordable: 0,
            patience: 0,
            report: Report::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The report of the work so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The numbers of requests that are being computed and that wait.
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        for &rope_factors in &RopeFactors::ALL {
            let lane = self.lanes.get(rope_factors);
            load.active += lane.n_active();
            load.waiting += lane.waiting.len();
        }
        load
    }

    /// Adds a request, which is admitted in one of the next steps.
    ///
    /// # Errors
    /// The reason why the request can never be served: tokens outside the vocabulary, a text that
    /// is too long, not enough memory, or options out of range.
    pub fn submit(&mut self, mut request: Request) -> Result<RequestId> {
        let vocab = self.model.vocab();
        for &token in &request.prompt {
            vocab.check(token)?;
        }
        if request.prompt.is_empty() {
            (request.prompt).push(vocab.bos().ok_or(Error::EmptyPrompt)?);
        }
        if request.prompt.len() > self.limit {
            return Err(Error::ContextFull {
                need: request.prompt.len(),
                n_ctx: self.limit,
            });
        }
        let options = &request.options;
        if !(self.sound.as_ref()).is_some_and(|sound| Arc::ptr_eq(sound, options)) {
            options.sampling.check(vocab)?;
            self.sound = Some(Arc::clone(options));
        }
        if options.ignore_end && self.ends.is_empty() {
            let ids = vocab.all();
            self.ends = ids.filter(|&token| vocab.is_end(token)).collect();
        }
        let id = RequestId(self.next_id);
        let job = Job::new(id, request);
        // If the context that it will need later cannot be made, the request is refused now.
        let cells = job.cells(self.limit);
        match self.setup.capacity {
            Some(capacity) if cells > capacity.cells as usize => {
                return Err(Error::ContextFull {
                    need: cells,
                    n_ctx: capacity.cells as usize,
                });
            }
            None if cells > self.affordable => {
                plan::check_fit(&self.model, &self.setup.settings, cells)?;
                self.affordable = cells;
            }
            _ => {}
        }
        self.next_id += 1;
        if job.options.max_tokens == 0 && !job.judges() {
            let completion = job.done(Finish::Length);
            self.ended.push((id, Event::Done(completion)));
        } else {
            let rope_factors = self.model.rope_factors(job.tokens.len());
            self.lanes.get_mut(rope_factors).waiting.push_back(job);
        }
        Ok(id)
    }

    /// Computes one decode, and adds the resulting events to `events`.
    ///
    /// # Errors
    /// Errors that concern all requests: [`Error::Cancelled`] when the flag of [`Setup::settings`]
    /// is set, not enough memory for a context, or a device that failed. The requests stay: another
    /// step continues them, [`Engine::cancel_all`] ends them.
    pub fn step(&mut self, events: &mut Vec<(RequestId, Event)>) -> Result<State> {
        events.append(&mut self.ended);
        let Some(rope_factors) = self.turn() else {
            return Ok(State::Idle);
        };
        if self.setup.settings.cancel.is_set() {
            return Err(Error::Cancelled);
        }
        let (lane, other) = self.lanes.both(rope_factors);
        let mut ctx = StepContext {
            model: &self.model,
            setup: &self.setup,
            limit: self.limit,
            ends: &self.ends,
            report: &mut self.report,
            events,
        };
        match lane.prepare(&mut ctx) {
            // The other lane's context may take the memory.
            Err(Error::Memory(_) | Error::OutOfMemory { .. }) if !other.is_active() => {
                other.release();
                lane.prepare(&mut ctx)?;
            }
            result => result?,
        }
        let outgrown = lane.step(&mut ctx)?;
        self.lanes
            .get_mut(RopeFactors::Long)
            .waiting
            .extend(outgrown);
        let busy = RopeFactors::ALL
            .iter()
            .any(|&rope_factors| self.lanes.get(rope_factors).is_busy());
        Ok(if busy { State::Busy } else { State::Idle })
    }

    /// The lane that computes next. Requests for the long factors wait until the other lane is
    /// idle, or for [`PATIENCE`] steps, so that several of them share one context.
    fn turn(&mut self) -> Option<RopeFactors> {
        let (short, long) = self.lanes.both(RopeFactors::Short);
        let rope_factors = match (short.is_busy(), long.is_busy()) {
            (false, false) => return None,
            (true, false) => RopeFactors::Short,
            (false, true) => RopeFactors::Long,
            (true, true) => {
                self.patience += 1;
                match long.is_active() {
                    true if self.patience.is_multiple_of(2) => RopeFactors::Long,
                    false if self.patience > PATIENCE => RopeFactors::Long,
                    _ => RopeFactors::Short,
                }
            }
        };
        if rope_factors == RopeFactors::Long && !long.is_active() {
            self.patience = 0;
        }
        Some(rope_factors)
    }

    /// Ends a request and returns its completion so far; others continue. `None` if it has already
    /// ended.
    pub fn cancel(&mut self, id: RequestId) -> Option<Completion> {
        let lanes = RopeFactors::ALL.iter();
        let job = lanes
            .into_iter()
            .find_map(|&rope_factors| self.lanes.get_mut(rope_factors).cancel(id));
        job.map(|job| job.done(Finish::Cancelled))
    }

    /// Ends all requests and returns their completions so far, in the order of their ids.
    pub fn cancel_all(&mut self) -> Vec<(RequestId, Completion)> {
        let lanes = RopeFactors::ALL.iter();
        let jobs = lanes.flat_map(|&rope_factors| self.lanes.get_mut(rope_factors).cancel_all());
        let mut jobs: Vec<Job> = jobs.collect();
        jobs.sort_by_key(|job| job.id);
        let done = jobs.into_iter();
        done.map(|job| (job.id, job.done(Finish::Cancelled)))
            .collect()
    }

    /// Lends the session for texts of `room` tokens between two steps, with room for one sequence
    /// of that length, which the caller opens, and closes before the next step. Kept sequences are
    /// dropped to make room.
    ///
    /// # Errors
    /// [`Error::ContextFull`] or [`Error::NoSequence`] if active requests need the room; the errors
    /// of [`Session::new`].
    pub fn session(&mut self, room: usize) -> Result<&mut Session> {
        let (lane, _) = self.lanes.both(self.model.rope_factors(room));
        let mut ctx = StepContext {
            model: &self.model,
            setup: &self.setup,
            limit: self.limit,
            ends: &self.ends,
            report: &mut self.report,
            events: &mut Vec::new(),
        };
        lane.lend(&mut ctx, room)
    }
}
