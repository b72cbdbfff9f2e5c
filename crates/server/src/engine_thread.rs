//! The thread that owns the engine. Requests arrive by one channel, and each gets its events by a
//! channel of its own.
//!
//! A client that disconnected has dropped its channel; its requests are cancelled before the next
//! decode.
//!
//! llama.cpp adds a control vector to everything that a context computes. Requests with a control
//! vector therefore run in a second engine: those with the same vector are batched together, those with
//! another vector wait until it is idle. Requests without a vector never wait for them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use modelve_runtime::Step;
use modelve_runtime::engine::{self, State};
use modelve_runtime::{
    Completion, ControlVector, Engine, Error as RuntimeError, Request, RequestId, Settings, Setup,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{ApiError, Result};
use crate::metrics::Counters;

/// An event of a request.
#[derive(Debug)]
pub enum Told {
    /// The prompt was read: its tokens from the second on, with their probabilities.
    Prompt(Vec<Step>),
    /// A token was sampled, and this text is complete with it.
    Token { step: Step, text: String },
    /// The request is complete.
    Done(Box<Completion>),
    /// The request failed.
    Failed(ApiError),
}

/// Channel to the client of completions that belong together, each with its index among them.
type Listener = UnboundedSender<(usize, Told)>;

/// A control vector with a digest, by which requests with the same vector are recognized.
#[derive(Debug, Clone)]
pub struct Control {
    vector: Arc<ControlVector>,
    digest: [u8; 32],
}

impl Control {
    /// Computes the digest of a vector.
    pub fn new(vector: ControlVector) -> Self {
        Control {
            digest: vector.digest(),
            vector: Arc::new(vector),
        }
    }
}

/// Completions that belong together, on their way to the engine.
struct Submission {
    requests: Vec<Request>,
    control: Option<Control>,
    permits: Vec<OwnedSemaphorePermit>,
    to: Listener,
    accepted: oneshot::Sender<Result<()>>,
}

/// A request that is computed or waiting, as shown by `/slots`.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its number.
    pub id: usize,
    /// Number of tokens in its prompt.
    pub n_prompt: usize,
    /// Number of tokens generated.
    pub n_decoded: usize,
}

/// State of the engine after its last step.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Number of requests that are being computed.
    pub active: usize,
    /// Number of requests that are waiting.
    pub waiting: usize,
    /// All of these requests.
    pub tasks: Vec<Task>,
}

/// A handle to the engine's thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: UnboundedSender<Submission>,
    room: Arc<Semaphore>,
    queue: usize,
    shared: Arc<Shared>,
}

/// State that the engine's thread publishes.
#[derive(Debug, Default)]
pub struct Shared {
    snapshot: Mutex<Snapshot>,
    /// The counters.
    pub counters: Counters,
}

impl Shared {
    /// Returns the state of the engine after its last step.
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.snapshot.lock();
        snapshot.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reserved places in the queue, taken before completions are submitted.
#[derive(Debug)]
pub struct Room(Vec<OwnedSemaphorePermit>);

/// The receiving end of the engine's channel.
pub struct Inbox(UnboundedReceiver<Submission>);

/// Makes the channel to an engine whose queue takes up to `queue` completions.
pub fn channel(queue: usize) -> (Handle, Inbox) {
    let (inbox, receiver) = unbounded_channel();
    let handle = Handle {
        inbox,
        room: Arc::new(Semaphore::new(queue)),
        queue,
        shared: Arc::default(),
    };
    (handle, Inbox(receiver))
}

impl Handle {
    /// Reserves places for `n` completions.
    ///
    /// # Errors
    /// An error about `param` if `n` is larger than the queue; 503 while there are not enough
    /// places.
    pub fn room(&self, n: usize, param: &str) -> Result<Room> {
        if n > self.queue {
            let message = format!(
                "{n} completions at once are more than the {} of the queue",
                self.queue
            );
            return Err(ApiError::wrong(param, message));
        }
        let full = |_| ApiError::unavailable("too many requests are waiting: try again soon");
        let permits = (0..n).map(|_| Arc::clone(&self.room).try_acquire_owned().map_err(full));
        permits.collect::<Result<_>>().map(Room)
    }

    /// Submits completions, as many as there are reserved places, all with the same control vector
    /// or none. Each event comes with the index of its completion. Dropping the receiver cancels
    /// those that are not complete.
    ///
    /// # Errors
    /// The engine's error for a completion that it refuses.
    pub async fn submit(
        &self,
        requests: Vec<Request>,
        control: Option<Control>,
        room: Room,
    ) -> Result<UnboundedReceiver<(usize, Told)>> {
        let (to, told) = unbounded_channel();
        let (accepted, answer) = oneshot::channel();
        let submission = Submission {
            requests,
            control,
            permits: room.0,
            to,
            accepted,
        };
        let gone = || ApiError::unavailable("the server is shutting down");
        self.inbox.send(submission).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(told)
    }

    /// Returns the state that the engine's thread publishes.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// A request in an engine.
struct Live {
    number: usize,
    index: usize,
    to: Listener,
    n_prompt: usize,
    n_decoded: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

/// An engine and its requests.
struct Lane {
    engine: Engine,
    live: HashMap<RequestId, Live>,
    busy: bool,
}

/// Computes requests until all senders are dropped. `setup` is the setup of the engine for requests
/// with a control vector, without the vector.
pub fn run(engine: Engine, setup: Setup, inbox: Inbox, shared: &Shared) {
    let Inbox(mut inbox) = inbox;
    let mut scheduler = Scheduler {
        plain: Lane::new(engine),
        steered: None,
        waiting: VecDeque::new(),
        setup,
        next: 0,
        shared,
    };
    loop {
        if !scheduler.is_busy() {
            scheduler.publish();
            match inbox.blocking_recv() {
                Some(submission) => scheduler.take(submission),
                None => return,
            }
        }
        while let Ok(submission) = inbox.try_recv() {
            scheduler.take(submission);
        }
        scheduler.admit();
        scheduler.step();
    }
}

/// All requests that are computed or waiting, and the engines.
struct Scheduler<'a> {
    plain: Lane,
    /// The engine of requests with a control vector, with the vector's digest.
    steered: Option<([u8; 32], Lane)>,
    /// Requests with another control vector, in the order of their arrival.
    waiting: VecDeque<(Control, Submission)>,
    setup: Setup,
    /// Number of requests so far.
    next: usize,
    shared: &'a Shared,
}

impl Scheduler<'_> {
    fn is_busy(&self) -> bool {
        let steered = self.steered.as_ref().is_some_and(|(_, lane)| lane.busy);
        self.plain.busy || steered || !self.waiting.is_empty()
    }

    fn take(&mut self, mut submission: Submission) {
        match submission.control.take() {
            None => self.plain.submit(submission, &mut self.next, self.shared),
            Some(control) => self.waiting.push_back((control, submission)),
        }
    }

    /// Submits waiting requests with a control vector, in order, as soon as their vector can be applied.
    fn admit(&mut self) {
        self.waiting
            .retain(|(_, submission)| !submission.to.is_closed());
        while let Some((control, _)) = self.waiting.front() {
            match &self.steered {
                Some((digest, _)) if *digest == control.digest => {}
                Some((_, lane)) if !lane.live.is_empty() => return,
                _ => {
                    // There is at most one such context, so that of another vector is dropped first.
                    self.steered = None;
                    let settings = Settings {
                        control: Some(Arc::clone(&control.vector)),
                        ..self.setup.settings.clone()
                    };
                    let setup = Setup {
                        settings,
                        ..self.setup.clone()
                    };
                    let digest = control.digest;
                    match Engine::new(self.plain.engine.model(), setup) {
                        Ok(engine) => self.steered = Some((digest, Lane::new(engine))),
                        Err(error) => {
                            if let Some((_, submission)) = self.waiting.pop_front() {
                                drop(submission.accepted.send(Err(error.into())));
                            }
                            continue;
                        }
                    }
                }
            }
            if let (Some((_, lane)), Some((_, submission))) =
                (&mut self.steered, self.waiting.pop_front())
            {
                lane.submit(submission, &mut self.next, self.shared);
            }
        }
    }

    fn step(&mut self) {
        let mut told = Vec::new();
        self.plain.step(self.shared, &mut told);
        if let Some((_, lane)) = &mut self.steered {
            lane.step(self.shared, &mut told);
        }
        // The counters are published first, so that a client that has its answer sees its effect.
        self.publish();
        for (to, index, told) in told {
            // A client that disconnected in between is noticed before the next decode.
            drop(to.send((index, told)));
        }
    }

    fn publish(&self) {
        let mut snapshot = Snapshot::default();
        let steered = self.steered.as_ref().map(|(_, lane)| lane);
        for lane in std::iter::once(&self.plain).chain(steered) {
            let load = lane.engine.load();
            snapshot.active += load.active;
            snapshot.waiting += load.waiting;
            snapshot
                .tasks
                .extend(lane.live.values().map(|request| Task {
                    id: request.number,
                    n_prompt: request.n_prompt,
                    n_decoded: request.n_decoded,
                }));
        }
        let waiting = self.waiting.iter();
        snapshot.waiting += waiting.map(|(_, s)| s.requests.len()).sum::<usize>();
        snapshot.tasks.sort_unstable_by_key(|task| task.id);
        *self
            .shared
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

impl Lane {
    fn new(engine: Engine) -> Self {
        Lane {
            engine,
            live: HashMap::new(),
            busy: false,
        }
    }

    fn submit(&mut self, submission: Submission, next: &mut usize, shared: &Shared) {
        let mut permits = submission.permits.into_iter();
        let mut ids = Vec::with_capacity(submission.requests.len());
        for (index, request) in submission.requests.into_iter().enumerate() {
            let n_prompt = request.prompt.len();
            match self.engine.submit(request) {
                Ok(id) => {
                    ids.push(id);
                    let request = Live {
                        number: *next,
                        index,
                        to: submission.to.clone(),
                        n_prompt,
                        n_decoded: 0,
                        _permit: permits.next(),
                    };
                    *next += 1;
                    self.live.insert(id, request);
                }
                Err(error) => {
                    // Either all of them are accepted or none.
                    for id in ids {
                        self.engine.cancel(id);
                        self.live.remove(&id);
                    }
                    drop(submission.accepted.send(Err(error.into())));
                    return;
                }
            }
        }
        self.busy = true;
        shared.counters.completions.add(ids.len() as u64);
        // The receiver is dropped if the client disconnected meanwhile.
        drop(submission.accepted.send(Ok(())));
    }

    /// Computes one decode, after cancelling the requests of clients that disconnected.
    fn step(&mut self, shared: &Shared, told: &mut Vec<(Listener, usize, Told)>) {
        if !self.busy {
            return;
        }
        self.live.retain(|&id, request| {
            let hung_up = request.to.is_closed();
            if hung_up && self.engine.cancel(id).is_some() {
                shared.counters.cancelled.add(1);
            }
            !hung_up
        });
        let before = Instant::now();
        let calls = self.engine.report().calls;
        let mut events = Vec::new();
        let result = self.engine.step(&mut events);
        let counters = &shared.counters;
        counters
            .busy_micros
            .add(before.elapsed().as_micros() as u64);
        let calls = self.engine.report().calls - calls;
        counters.decodes.add(calls as u64);
        let events = events.into_iter();
        told.extend(events.filter_map(|(id, event)| self.told(id, event, shared)));
        self.busy = match result {
            Ok(state) => state == State::Busy,
            Err(error) => {
                self.fail_all(&error);
                false
            }
        };
    }

    /// Turns an event of the engine into a message, with its receiver and the index of the
    /// completion.
    fn told(
        &mut self,
        id: RequestId,
        event: engine::Event,
        shared: &Shared,
    ) -> Option<(Listener, usize, Told)> {
        let told = match event {
            engine::Event::Prompt(steps) => Told::Prompt(steps),
            engine::Event::Token { step, text } => {
                if let Some(request) = self.live.get_mut(&id) {
                    request.n_decoded += 1;
                }
                shared.counters.generated.add(1);
                Told::Token { step, text }
            }
            engine::Event::Done(completion) => {
                let counters = &shared.counters;
                counters.prompt.add(completion.prompt_tokens as u64);
                counters.reused.add(completion.reused as u64);
                Told::Done(Box::new(completion))
            }
            engine::Event::Failed(error) => Told::Failed(error.into()),
            // Events that later versions of the engine may add.
            _ => return None,
        };
        let live = &mut self.live;
        let (to, index) = match told {
            Told::Done(_) | Told::Failed(_) => {
                live.remove(&id).map(|live| (live.to, live.index))?
            }
            _ => live.get(&id).map(|live| (live.to.clone(), live.index))?,
        };
        Some((to, index, told))
    }

    /// Ends all requests of the engine with an error.
    fn fail_all(&mut self, error: &RuntimeError) {
        tracing::error!("a step failed: {error}");
        let failure = match error {
            RuntimeError::Cancelled => ApiError::unavailable("the server is shutting down"),
            RuntimeError::WorkerLost { .. } => ApiError::unavailable(error.to_string()),
            error => ApiError::internal(error.to_string()),
        };
        self.engine.cancel_all();
        for (_, request) in self.live.drain() {
            let failed = Told::Failed(failure.clone());
            drop(request.to.send((request.index, failed)));
        }
    }
}
