//! An engine: requests come and go, and share each decode.
//!
//! [`Engine::submit`] takes a request at any time, [`Engine::step`] computes one decode for all
//! that are in, [`Engine::cancel`] takes one out. While some generate, long prompts are read in
//! pieces, so nobody waits for more than one. Room is counted in cells of the KV cache: who does
//! not fit waits, in order; who can never fit is refused at once.
//!
//! What ended stays in the cache while there is room. A request that begins with its tokens takes
//! them over; the least recently used leaves first. Where tokens lie in the cache differs then
//! from a fresh computation, and with it the order of sums in attention: logits agree up to
//! rounding, so greedy texts do unless two tokens are as good as equally likely. Models whose
//! memory cannot be taken back in part (recurrent ones, sliding windows that went on) take over
//! whole texts only.

mod complete;
mod job;
mod lane;
mod plan;
mod request;

use std::sync::Arc;

use super::completion::{Completion, Finish, Options, Report};
use super::error::{Error, Result};
use super::model::Model;
use super::rope::{PerRegime, Regime};
use super::session::Session;
use super::token::Token;
pub use complete::complete;
use job::Job;
use lane::{Lane, StepContext};
pub use request::{Capacity, Event, Load, Request, RequestId, Setup, State};

pub use plan::PARALLEL;

/// Steps of the short lane after which one who waits for the long one gets a turn.
const PATIENCE: usize = 256;

/// A model and its contexts, at work for many requests. Used by one thread at a time.
pub struct Engine {
    model: Model,
    setup: Setup,
    /// The longest text, in tokens.
    limit: usize,
    next_id: u64,
    lanes: PerRegime<Lane>,
    /// What ended before it came to a step.
    ended: Vec<(RequestId, Event)>,
    /// Options last found sound.
    sound: Option<Arc<Options>>,
    /// Tokens that end a text, once somebody must not choose one.
    ends: Vec<Token>,
    /// Cells for which there is memory.
    affordable: usize,
    /// Steps of the short lane since the long one had a turn.
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
    /// An engine. Contexts are made when the first request needs them.
    ///
    /// # Errors
    /// A longest text that the model was not trained on; a capacity for which there is no memory.
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
            lanes: PerRegime::new(Lane::new(Regime::Short), Lane::new(Regime::Long)),
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

    /// What it took so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// How many requests are computed, and how many wait for their turn.
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        for &regime in &Regime::ALL {
            let lane = self.lanes.get(regime);
            load.active += lane.n_active();
            load.waiting += lane.waiting.len();
        }
        load
    }

    /// Takes a request; its turn comes in one of the next steps.
    ///
    /// # Errors
    /// A request that can never be served, with the reason: tokens outside the vocabulary, a text
    /// that is too long, no memory for it, options that make no sense.
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
        // A context that will be needed later is refused now.
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
            let regime = self.model.regime(job.tokens.len());
            self.lanes.get_mut(regime).waiting.push_back(job);
        }
        Ok(id)
    }

    /// Computes one decode, and adds what came of it to `events`.
    ///
    /// # Errors
    /// What is wrong with all of it: [`Error::Cancelled`] when the flag of
    /// [`Setup::settings`] is raised, no memory for a context, a device that failed. The requests
    /// are still there: another step goes on, [`Engine::cancel_all`] ends them.
    pub fn step(&mut self, events: &mut Vec<(RequestId, Event)>) -> Result<State> {
        events.append(&mut self.ended);
        let Some(regime) = self.turn() else {
            return Ok(State::Idle);
        };
        if self.setup.settings.cancel.is_set() {
            return Err(Error::Cancelled);
        }
        let (lane, other) = self.lanes.both(regime);
        let mut ctx = StepContext {
            model: &self.model,
            setup: &self.setup,
            limit: self.limit,
            ends: &self.ends,
            report: &mut self.report,
            events,
        };
        match lane.prepare(&mut ctx) {
            // The other lane's context may be what takes the memory.
            Err(Error::Memory(_) | Error::OutOfMemory { .. }) if !other.is_active() => {
                other.release();
                lane.prepare(&mut ctx)?;
            }
            result => result?,
        }
        let outgrown = lane.step(&mut ctx)?;
        self.lanes.get_mut(Regime::Long).waiting.extend(outgrown);
        let busy = Regime::ALL
            .iter()
            .any(|&regime| self.lanes.get(regime).is_busy());
        Ok(if busy { State::Busy } else { State::Idle })
    }

    /// Whose turn it is. Who waits for the long factors waits until the short ones have nothing
    /// to do, or for [`PATIENCE`] steps, so that several need one context.
    fn turn(&mut self) -> Option<Regime> {
        let (short, long) = self.lanes.both(Regime::Short);
        let regime = match (short.is_busy(), long.is_busy()) {
            (false, false) => return None,
            (true, false) => Regime::Short,
            (false, true) => Regime::Long,
            (true, true) => {
                self.patience += 1;
                match long.is_active() {
                    true if self.patience.is_multiple_of(2) => Regime::Long,
                    false if self.patience > PATIENCE => Regime::Long,
                    _ => Regime::Short,
                }
            }
        };
        if regime == Regime::Long && !long.is_active() {
            self.patience = 0;
        }
        Some(regime)
    }

    /// Ends a request and gives what there is of it; others are not disturbed. `None` if it has
    /// ended.
    pub fn cancel(&mut self, id: RequestId) -> Option<Completion> {
        let lanes = Regime::ALL.iter();
        let job = lanes
            .into_iter()
            .find_map(|&regime| self.lanes.get_mut(regime).cancel(id));
        job.map(|job| job.done(Finish::Cancelled))
    }

    /// Ends all requests and gives what there is of them, in their order.
    pub fn cancel_all(&mut self) -> Vec<(RequestId, Completion)> {
        let lanes = Regime::ALL.iter();
        let jobs = lanes.flat_map(|&regime| self.lanes.get_mut(regime).cancel_all());
        let mut jobs: Vec<Job> = jobs.collect();
        jobs.sort_by_key(|job| job.id);
        let done = jobs.into_iter();
        done.map(|job| (job.id, job.done(Finish::Cancelled)))
            .collect()
    }

    /// The session that texts of `room` tokens are computed in, between two steps, with as much
    /// room as that in a sequence that the caller opens, and closes before the next step. What
    /// is kept for requests leaves for it.
    ///
    /// # Errors
    /// [`Error::ContextFull`], [`Error::NoSequence`]: requests need what there is; see
    /// [`Session::new`].
    pub fn session(&mut self, room: usize) -> Result<&mut Session> {
        let (lane, _) = self.lanes.both(self.model.regime(room));
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
