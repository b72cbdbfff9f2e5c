//! The thread of the probes, which are computed one after another in contexts of their own, so that
//! completions do not wait for them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use modelve_probe::live;
use modelve_runtime::{Cancel, FlashAttention, Model, Session, Sessions, Settings};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{ApiError, Result};

/// Maximum number of waiting probes.
const QUEUE: usize = 32;
/// Minimum number of tokens of room in the session of `live`.
const LIVE: usize = 512;
/// Limit in bytes of the rows of logits that a probe computes at once.
const ROWS: usize = 64 << 20;

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// A handle to the thread. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    inbox: mpsc::Sender<Job>,
    turn: Arc<Mutex<Turn>>,
    cancel: Cancel,
}

/// The number of the probe being computed, and the numbers of those whose client disconnected
/// before their turn.
#[derive(Debug, Default)]
struct Turn {
    next: u64,
    now: Option<u64>,
    gone: VecDeque<u64>,
}

/// What a probe computes with.
pub struct Bench {
    /// The model.
    pub model: Model,
    /// The settings of sessions, except for sizes.
    pub base: Settings,
    /// Context size in tokens: the maximum length of a text.
    pub limit: usize,
    plain: Sessions,
    lens: Sessions,
    live: Sessions,
    texts: live::Texts,
}

/// The receiving end of the channel.
pub struct ProbeThread {
    inbox: mpsc::Receiver<Job>,
    bench: Bench,
}

/// A submitted probe. Dropping it stops the probe.
pub struct Asked<T> {
    /// The number of units done and their total.
    pub progress: watch::Receiver<(usize, usize)>,
    answer: oneshot::Receiver<Result<T>>,
    _leave: Leave,
}

struct Leave {
    id: u64,
    turn: Arc<Mutex<Turn>>,
    cancel: Cancel,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match turn.now {
            Some(now) if now > self.id => {}
            Some(now) if now == self.id => self.cancel.set(),
            _ => turn.gone.push_back(self.id),
        }
    }
}

/// Makes a handle to probes of texts of up to `limit` tokens, and the thread that computes them.
pub fn pair(model: &Model, settings: &Settings, limit: usize) -> (Probes, ProbeThread) {
    let (sender, inbox) = mpsc::channel(QUEUE);
    let cancel = Cancel::new();
    let base = Settings {
        cancel: cancel.clone(),
        ..settings.clone()
    };
    let rows = (ROWS / (4 * model.vocab().len() as usize).max(1)).clamp(8, 256) as u32;
    let plain = Settings {
        n_seq: 1,
        n_batch: 256,
        n_outputs: rows,
        ..base.clone()
    };
    let lens = modelve_probe::lens::settings(model, base.clone());
    let live = live::settings(base.clone(), rows);
    let bench = Bench {
        model: model.clone(),
        limit,
        plain: Sessions::new(model, plain),
        lens: Sessions::new(model, lens),
        live: Sessions::new(model, live),
        texts: live::Texts::default(),
        base,
    };
    let probes = Probes {
        inbox: sender,
        turn: Arc::default(),
        cancel,
    };
    (probes, ProbeThread { inbox, bench })
}

impl Probes {
    /// Submits a probe. `work` gets a function to report the units done and their total.
    ///
    /// # Errors
    /// 503 while too many probes are waiting.
    pub fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Bench, &mut dyn FnMut(usize, usize)) -> Result<T> + Send + 'static,
    ) -> Result<Asked<T>> {
        let (tell, progress) = watch::channel((0, 0));
        let (send, answer) = oneshot::channel();
        let lock = || self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turn = lock();
        let id = turn.next;
        turn.next += 1;
        let (whose, cancel) = (Arc::clone(&self.turn), self.cancel.clone());
        let job: Job = Box::new(move |bench| {
            {
                let mut turn = whose.lock().unwrap_or_else(PoisonError::into_inner);
                turn.now = Some(id);
                // Probes come in order, so earlier numbers have had their turn.
                turn.gone.retain(|&gone| gone >= id);
                if turn.gone.contains(&id) {
                    return;
                }
                cancel.clear();
            }
            let result = work(bench, &mut |done, total| {
                tell.send_replace((done, total));
            });
            drop(send.send(result));
        });
        match self.inbox.try_send(job) {
            Ok(()) => Ok(Asked {
                progress,
                answer,
                _leave: Leave {
                    id,
                    turn: Arc::clone(&self.turn),
                    cancel: self.cancel.clone(),
                },
            }),
            Err(_) => Err(ApiError::unavailable(
                "too many probes are waiting: try again soon",
            )),
        }
    }
}

impl<T> Asked<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// The errors of the probe.
    pub async fn answer(&mut self) -> Result<T> {
        let answer = (&mut self.answer).await;
        answer.unwrap_or_else(|_| Err(ApiError::internal("the probe ended without an answer")))
    }
}

impl Bench {
    /// Returns a session for plain passes over a text of `room` tokens.
    ///
    /// # Errors
    /// A text that is too long, and the errors of [`Session::new`].
    pub fn plain(&mut self, room: usize) -> Result<&mut Session> {
        self.check(room)?;
        Ok(self.plain.of(room)?)
    }

    /// Returns a session for the lens over a text of `room` tokens.
    ///
    /// # Errors
    /// See [`Bench::plain`].
    pub fn lens(&mut self, room: usize) -> Result<&mut Session> {
        self.check(room)?;
        Ok(self.lens.of(room)?)
    }

    /// Returns the session in which the texts of `live` stay, and those texts, with room for one of
    /// `n` tokens.
    ///
    /// # Errors
    /// See [`Bench::plain`].
    pub fn live(&mut self, n: usize) -> Result<(&mut Session, &mut live::Texts)> {
        self.check(n)?;
        // Some room to grow, because a new session would lose all texts.
        let ample = (2 * n).next_power_of_two().max(LIVE).min(self.limit);
        let alike = self.model.rope_factors(ample) == self.model.rope_factors(n);
        let session = self.live.of(if alike { ample } else { n })?;
        Ok((session, &mut self.texts))
    }

    /// Makes a new session for a text of `room` tokens.
    ///
    /// # Errors
    /// See [`Bench::plain`].
    pub fn own(&self, room: usize, settings: Settings) -> Result<Session> {
        self.check(room)?;
        let n_ctx = self.model.context_for(self.model.rope_factors(room), room);
        Ok(Session::new(&self.model, &Settings { n_ctx, ..settings })?)
    }

    /// Returns the settings of sessions whose attention weights are read.
    ///
    /// # Errors
    /// The KV cache is quantized, which needs flash attention.
    pub fn unfused(&self) -> Result<Settings> {
        if self.base.kv_type.is_quantized() {
            let message = "with a quantized KV cache there are no attention weights to show";
            return Err(ApiError::bad(message));
        }
        Ok(Settings {
            flash_attention: FlashAttention::Off,
            ..self.base.clone()
        })
    }

    /// Makes a new session for a text of `tokens` tokens, with `beside` further cells for variants
    /// where there is memory for them.
    ///
    /// # Errors
    /// See [`Bench::plain`].
    pub fn beside(&self, tokens: usize, beside: usize, settings: Settings) -> Result<Session> {
        self.check(tokens)?;
        let n_ctx = (self.model).context_for(self.model.rope_factors(tokens), tokens + beside);
        let roomy = Settings {
            n_ctx,
            ..settings.clone()
        };
        match Session::new(&self.model, &roomy) {
            // Without further cells, the variants and the text itself take turns.
            Err(_) if !self.base.cancel.is_set() => self.own(tokens, settings),
            session => Ok(session?),
        }
    }

    fn check(&self, room: usize) -> Result<()> {
        match room > self.limit {
            true => Err(ApiError::too_long("prompt", room, self.limit)),
            false => Ok(()),
        }
    }
}

impl ProbeThread {
    /// Computes probes until all handles are dropped.
    pub fn run(mut self) {
        while let Some(job) = self.inbox.blocking_recv() {
            job(&mut self.bench);
        }
    }
}
