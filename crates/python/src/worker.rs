//! The thread of a loaded model, which alone computes with it.
//!
//! Python's threads send it jobs and wait for the answers without holding the interpreter's lock.
//! While they wait they look for signals, so that Ctrl-C stops a job within a decode. A job that
//! was given up before its turn is not begun.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use modelve::commands::engine::EngineArgs;
use modelve::runtime::{Cancel, Model};
use pyo3::prelude::*;

use crate::bench::Bench;
use crate::error::{Result, raised};

/// How often a waiting thread looks for signals.
pub const LOOK: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// A loaded model and its thread. Dropping it stops what is computed and waits for the thread.
pub struct Worker {
    /// The model, whose vocabulary and metadata every thread may read.
    pub model: Model,
    jobs: Mutex<Option<Jobs>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    turn: Arc<Mutex<Turn>>,
    cancel: Cancel,
    /// Whether a trace holds the thread at a node.
    pub traced: AtomicBool,
    /// The process that loaded it.
    process: u32,
}

/// The way to the thread.
struct Jobs {
    to: Sender<Job>,
    /// The number of the next job. The thread takes them in order.
    next: u64,
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turn {
    /// The job that is computed.
    now: Option<u64>,
    /// The first job that was not begun yet.
    next: u64,
    /// Jobs that were given up before their turn.
    gone: HashSet<u64>,
    /// Whether no job may begin any more.
    ended: bool,
}

/// A job that was sent. Dropping it gives the job up.
pub struct Asked<T> {
    answer: Mutex<Receiver<T>>,
    id: u64,
    worker: Arc<Worker>,
}

/// Every model that is loaded, to stop their threads before the interpreter ends.
static LOADED: Mutex<Vec<Weak<Worker>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a message without the interpreter's lock, and returns to it to look for signals.
/// `None` if nobody can send one any more.
fn receive<T: Send>(py: Python<'_>, receiver: &Mutex<Receiver<T>>) -> PyResult<Option<T>> {
    loop {
        match py.detach(|| lock(receiver).recv_timeout(LOOK)) {
            Ok(answer) => return Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

impl Worker {
    /// Loads a model in a thread of its own.
    ///
    /// # Errors
    /// Those of loading; `KeyboardInterrupt`.
    pub fn start(py: Python<'_>, engine: EngineArgs) -> PyResult<Arc<Worker>> {
        let cancel = Cancel::new();
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (loaded, loading) = mpsc::channel::<Result<Model>>();
        let in_thread = cancel.clone();
        let thread = std::thread::Builder::new()
            .name("modelve".to_owned())
            .spawn(move || match Bench::load(engine, &in_thread) {
                Ok(mut bench) => {
                    let model = bench.model.clone();
                    drop(loaded.send(Ok(model)));
                    while let Ok(job) = inbox.recv() {
                        job(&mut bench);
                    }
                }
                Err(error) => drop(loaded.send(Err(error))),
            })?;
        let model = match receive(py, &Mutex::new(loading)) {
            Ok(Some(model)) => model.map_err(|error| raised(py, &error)),
            Ok(None) => Err(raised(py, &gone())),
            Err(interrupted) => {
                cancel.set();
                Err(interrupted)
            }
        };
        let model = match model {
            Ok(model) => model,
            Err(error) => {
                drop(jobs);
                py.detach(|| drop(thread.join()));
                return Err(error);
            }
        };
        let worker = Arc::new(Worker {
            model,
            jobs: Mutex::new(Some(Jobs { to: jobs, next: 0 })),
            thread: Mutex::new(Some(thread)),
            turn: Arc::default(),
            cancel,
            traced: AtomicBool::new(false),
            process: std::process::id(),
        });
        let mut all = lock(&LOADED);
        all.retain(|worker| worker.strong_count() > 0);
        all.push(Arc::downgrade(&worker));
        drop(all);
        Ok(worker)
    }

    /// Sends a job, and waits for its answer.
    ///
    /// # Errors
    /// Those of the job; `KeyboardInterrupt`, which stops it; those of [`Worker::send`].
    pub fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        py: Python<'_>,
        work: impl FnOnce(&mut Bench) -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let (send, answer) = mpsc::channel();
        let asked = self.send(py, answer, move |bench| drop(send.send(work(bench))))?;
        match asked.next(py)? {
            Some(answer) => answer.map_err(|error| raised(py, &error)),
            None => Err(raised(py, &gone())),
        }
    }

    /// Sends a job that answers as often as it likes through the other end of `answer`.
    ///
    /// # Errors
    /// This process is a fork of the one that loaded the model; a trace is open; the thread ended.
    pub fn send<T: Send + 'static>(
        self: &Arc<Self>,
        py: Python<'_>,
        answer: Receiver<T>,
        work: impl FnOnce(&mut Bench) + Send + 'static,
    ) -> PyResult<Asked<T>> {
        self.usable().map_err(|error| raised(py, &error))?;
        let mut jobs = lock(&self.jobs);
        let Some(jobs) = jobs.as_mut() else {
            return Err(raised(py, &gone()));
        };
        let id = jobs.next;
        let turn = Arc::clone(&self.turn);
        let cancel = self.cancel.clone();
        let job: Job = Box::new(move |bench| {
            {
                let mut turn = lock(&turn);
                turn.next = id + 1;
                if turn.gone.remove(&id) || turn.ended {
                    return;
                }
                turn.now = Some(id);
                cancel.clear();
            }
            work(bench);
            lock(&turn).now = None;
        });
        if jobs.to.send(job).is_err() {
            return Err(raised(py, &gone()));
        }
        jobs.next += 1;
        Ok(Asked {
            answer: Mutex::new(answer),
            id,
            worker: Arc::clone(self),
        })
    }

    fn usable(&self) -> Result<()> {
        if std::process::id() != self.process {
            return Err(anyhow!(
                "this model was loaded before the process was forked, and its thread is not in the \
                 fork: load the model in the process that uses it"
            ));
        }
        if self.traced.load(Ordering::Relaxed) {
            return Err(anyhow!(
                "a trace of this model is open: leave its `with` block before asking for more"
            ));
        }
        Ok(())
    }

    /// Stops what is computed and ends the thread.
    fn end(&self) {
        // The thread of another process is not here to wait for.
        let thread = lock(&self.thread).take();
        if std::process::id() != self.process {
            std::mem::forget(thread);
            return;
        }
        drop(lock(&self.jobs).take());
        {
            let mut turn = lock(&self.turn);
            turn.ended = true;
            self.cancel.set();
        }
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends the threads of all models, which must not compute while the process ends.
pub fn end_all(py: Python<'_>) {
    let all: Vec<Arc<Worker>> = lock(&LOADED)
        .drain(..)
        .filter_map(|w| w.upgrade())
        .collect();
    py.detach(|| all.iter().for_each(|worker| worker.end()));
}

fn gone() -> anyhow::Error {
    anyhow!("the model's thread has ended; load the model again")
}

impl<T: Send> Asked<T> {
    /// The next answer; `None` once there are no more.
    ///
    /// # Errors
    /// `KeyboardInterrupt`, which gives the job up.
    pub fn next(&self, py: Python<'_>) -> PyResult<Option<T>> {
        receive(py, &self.answer).inspect_err(|_| self.give_up())
    }
}

impl<T> Asked<T> {
    /// Stops the job, or keeps it from being begun.
    pub fn give_up(&self) {
        let mut turn = lock(&self.worker.turn);
        match turn.now {
            Some(now) if now == self.id => self.worker.cancel.set(),
            _ if self.id >= turn.next => drop(turn.gone.insert(self.id)),
            _ => {}
        }
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.give_up();
    }
}
