//! The thread that owns the engine: requests come in by a channel, each hears of itself by a
//! channel of its own.
//!
//! Whoever no longer listens has hung up: before each decode such requests are cancelled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use modelve_runtime::Step;
use modelve_runtime::engine::{self, State};
use modelve_runtime::{Completion, Engine, Error as RuntimeError, Request, RequestId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{ApiError, Result};
use crate::metrics::Counters;

/// What a request is told.
#[derive(Debug)]
pub enum Told {
    /// The prompt was read: its tokens from the second on, judged.
    Prompt(Vec<Step>),
    /// A token was chosen, and this text is certain now.
    Token { step: Step, text: String },
    /// It ended.
    Done(Box<Completion>),
    /// It ended with an error.
    Failed(ApiError),
}

/// Where completions that belong together are told of, each by its place among them.
type Listener = UnboundedSender<(usize, Told)>;

/// Completions that belong together, on their way to the engine.
struct Submission {
    requests: Vec<Request>,
    permits: Vec<OwnedSemaphorePermit>,
    to: Listener,
    accepted: oneshot::Sender<Result<()>>,
}

/// A request that is computed or waits, as others may see it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its number.
    pub id: usize,
    /// Tokens of its prompt.
    pub n_prompt: usize,
    /// Tokens chosen.
    pub n_decoded: usize,
}

/// What the engine was doing after its last step.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Requests that are computed.
    pub active: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// All of them.
    pub tasks: Vec<Task>,
}

/// The way to the engine, for those who ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: UnboundedSender<Submission>,
    room: Arc<Semaphore>,
    queue: usize,
    shared: Arc<Shared>,
}

/// What the engine's thread tells of itself.
#[derive(Debug, Default)]
pub struct Shared {
    snapshot: Mutex<Snapshot>,
    /// What was counted.
    pub counters: Counters,
}

impl Shared {
    /// What the engine was doing after its last step.
    pub fn snapshot(&self) -> Snapshot {
        let snapshot = self.snapshot.lock();
        snapshot.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Room for completions, taken before they are submitted.
#[derive(Debug)]
pub struct Room(Vec<OwnedSemaphorePermit>);

/// The thread's end of it.
pub struct Inbox(UnboundedReceiver<Submission>);

/// A way to an engine that takes up to `queue` completions at once.
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
    /// Takes room for `n` completions.
    ///
    /// # Errors
    /// More than there can ever be; 503 while others have the room.
    pub fn room(&self, n: usize, param: &str) -> Result<Room> {
        if n > self.queue {
            let message = format!(
                "{n} completions at once are more than the {} of the queue",
                self.queue
            );
            return Err(ApiError::wrong(param, message));
        }
        let full = |_| ApiError::unavailable("too many requests wait already: try again soon");
        let permits = (0..n).map(|_| Arc::clone(&self.room).try_acquire_owned().map_err(full));
        permits.collect::<Result<_>>().map(Room)
    }

    /// Submits completions, as many as there is room for. Each is told of by its place among
    /// them. Dropping the receiver cancels what is not done.
    ///
    /// # Errors
    /// What the engine refuses.
    pub async fn submit(
        &self,
        requests: Vec<Request>,
        room: Room,
    ) -> Result<UnboundedReceiver<(usize, Told)>> {
        let (to, told) = unbounded_channel();
        let (accepted, answer) = oneshot::channel();
        let submission = Submission {
            requests,
            permits: room.0,
            to,
            accepted,
        };
        let gone = || ApiError::unavailable("the server is shutting down");
        self.inbox.send(submission).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(told)
    }

    /// What the engine's thread tells of itself.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// A request in the engine.
struct Live {
    index: usize,
    to: Listener,
    n_prompt: usize,
    n_decoded: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Computes what comes until nobody can ask any more.
pub fn run(mut engine: Engine, inbox: Inbox, shared: &Shared) {
    let Inbox(mut inbox) = inbox;
    let mut live: HashMap<RequestId, Live> = HashMap::new();
    let mut events = Vec::new();
    let mut busy = false;
    loop {
        if !busy {
            publish(&engine, &live, shared);
            match inbox.blocking_recv() {
                Some(submission) => submit(&mut engine, &mut live, submission, shared),
                None => return,
            }
        }
        while let Ok(submission) = inbox.try_recv() {
            submit(&mut engine, &mut live, submission, shared);
        }
        live.retain(|&id, request| {
            let hung_up = request.to.is_closed();
            if hung_up && engine.cancel(id).is_some() {
                shared.counters.cancelled.add(1);
            }
            !hung_up
        });
        let before = Instant::now();
        let calls = engine.report().calls;
        let result = engine.step(&mut events);
        shared
            .counters
            .busy_micros
            .add(before.elapsed().as_micros() as u64);
        shared
            .counters
            .decodes
            .add((engine.report().calls - calls) as u64);
        let told: Vec<_> = events
            .drain(..)
            .filter_map(|(id, event)| told(&mut live, id, event, shared))
            .collect();
        // Who has an answer finds the server as it is after it.
        publish(&engine, &live, shared);
        for (to, index, told) in told {
            // Who hung up meanwhile is found before the next decode.
            drop(to.send((index, told)));
        }
        busy = match result {
            Ok(state) => state == State::Busy,
            Err(error) => {
                fail_all(&mut engine, &mut live, &error);
                false
            }
        };
    }
}

fn submit(
    engine: &mut Engine,
    live: &mut HashMap<RequestId, Live>,
    submission: Submission,
    shared: &Shared,
) {
    let Submission {
        requests,
        permits,
        to,
        accepted,
    } = submission;
    let mut permits = permits.into_iter();
    let mut ids = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let n_prompt = request.prompt.len();
        match engine.submit(request) {
            Ok(id) => {
                ids.push(id);
                let request = Live {
                    index,
                    to: to.clone(),
                    n_prompt,
                    n_decoded: 0,
                    _permit: permits.next(),
                };
                live.insert(id, request);
            }
            Err(error) => {
                // All or none.
                for id in ids {
                    engine.cancel(id);
                    live.remove(&id);
                }
                drop(accepted.send(Err(error.into())));
                return;
            }
        }
    }
    shared.counters.completions.add(ids.len() as u64);
    // Whoever hung up meanwhile has dropped the receiver, too.
    drop(accepted.send(Ok(())));
}

/// What a request is told of an event, and the way to it.
fn told(
    live: &mut HashMap<RequestId, Live>,
    id: RequestId,
    event: engine::Event,
    shared: &Shared,
) -> Option<(Listener, usize, Told)> {
    let told = match event {
        engine::Event::Prompt(steps) => Told::Prompt(steps),
        engine::Event::Token { step, text } => {
            if let Some(request) = live.get_mut(&id) {
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
        // The engine may learn to tell more.
        _ => return None,
    };
    let (to, index) = match told {
        Told::Done(_) | Told::Failed(_) => live.remove(&id).map(|live| (live.to, live.index))?,
        _ => live.get(&id).map(|live| (live.to.clone(), live.index))?,
    };
    Some((to, index, told))
}

/// What is wrong with all of it ends all of it.
fn fail_all(engine: &mut Engine, live: &mut HashMap<RequestId, Live>, error: &RuntimeError) {
    tracing::error!("a step failed: {error}");
    let failure = match error {
        RuntimeError::Cancelled => ApiError::unavailable("the server is shutting down"),
        error => ApiError::internal(error.to_string()),
    };
    engine.cancel_all();
    for (_, request) in live.drain() {
        drop(
            request
                .to
                .send((request.index, Told::Failed(failure.clone()))),
        );
    }
}

fn publish(engine: &Engine, live: &HashMap<RequestId, Live>, shared: &Shared) {
    let load = engine.load();
    let mut tasks: Vec<Task> = live
        .iter()
        .map(|(id, request)| Task {
            id: id.index(),
            n_prompt: request.n_prompt,
            n_decoded: request.n_decoded,
        })
        .collect();
    tasks.sort_unstable_by_key(|task| task.id);
    let snapshot = Snapshot {
        active: load.active,
        waiting: load.waiting,
        tasks,
    };
    *shared
        .snapshot
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = snapshot;
}
