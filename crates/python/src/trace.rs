//! `with m.trace(prompt) as t:`: a pass that stops at the activations that are asked for.
//!
//! The pass runs in the model's thread. Its hook waits for what Python asks next, lets the pass run
//! until that is computed, and hands its values over; they go back into the pass when Python asks
//! for the next ones, or leaves the block.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use modelve::commands::engine::explain;
use modelve::experiment::exact;
use modelve::hint::{Interrupted, UsageError};
use modelve::probe::{Piece, Prompt};
use modelve::runtime::graph::{Hook, Node, NodeInfo, Pass, Role, Roles};
use modelve::runtime::{self, Cancel, FlashAttention, Settings, WantLogits};
use pyo3::prelude::*;

use crate::array::Array;
use crate::bench::Bench;
use crate::error::{Result, raised};
use crate::model::Model;
use crate::read::{Given, Reading};
use crate::value;
use crate::worker::{Asked, LOOK, Worker};

/// What Python asks of the pass.
enum Order {
    /// The activations of this role, after these new values, if any, went into the last ones.
    Want(Role, Option<Vec<f32>>),
    /// No more: the pass ends with the new values of the last ones.
    Finish(Option<Vec<f32>>),
}

/// What the pass says to Python.
enum Answer {
    /// Activations, and their shape, the slowest dimension first.
    Values(Vec<f32>, Vec<usize>),
    /// What was asked for cannot be had; the pass waits where it is.
    Refused(anyhow::Error),
    /// The pass has ended: logits of every token.
    Ended(Result<Vec<f32>>),
}

/// The pass's end of the conversation.
struct Stops {
    orders: Receiver<Order>,
    answers: Sender<Answer>,
    cancel: Cancel,
    /// What is asked for; nothing once no more is.
    want: Option<Role>,
    seen: HashSet<Role>,
    /// What the model's graph has.
    roles: Roles,
    tokens: usize,
}

impl Stops {
    /// Why the pass cannot run on to a role.
    fn refusal(&self, role: Role) -> Option<anyhow::Error> {
        if let Err(lacking) = self.roles.require(role) {
            return Some(explain(lacking));
        }
        let passed = || {
            anyhow!(
                "the pass is beyond the {role}, which comes before what was asked for last: ask in \
                 the order of the model"
            )
        };
        self.seen.contains(&role).then(passed)
    }

    /// Waits for the next order that the pass must run on for. `None` if Python has left. New
    /// values for the node that the pass stands at go to `write`.
    fn listen(
        &mut self,
        mut write: impl FnMut(&[f32]) -> runtime::Result<()>,
    ) -> Option<runtime::Result<()>> {
        loop {
            let order = loop {
                match self.orders.recv_timeout(LOOK) {
                    Ok(order) => break order,
                    Err(RecvTimeoutError::Timeout) if self.cancel.is_set() => return None,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            };
            let (want, changed) = match order {
                Order::Want(role, changed) => (Some(role), changed),
                Order::Finish(changed) => (None, changed),
            };
            if let Some(Err(error)) = changed.as_deref().map(&mut write) {
                return Some(Err(error));
            }
            let refused = want.and_then(|role| self.refusal(role));
            match refused {
                Some(refused) => self.answers.send(Answer::Refused(refused)).ok()?,
                None => {
                    self.want = want;
                    return Some(Ok(()));
                }
            }
        }
    }
}

impl Hook for Stops {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        let Some(role) = node.role else {
            return false;
        };
        self.seen.insert(role);
        self.want == Some(role)
    }

    fn node(&mut self, node: &mut Node<'_>) -> runtime::Result<ControlFlow<()>> {
        let shape = node.info().shape;
        let mut all = node.read()?.to_vec();
        let tokens = self.tokens;
        // Attention weights have a column for each cell of the cache; the others are empty.
        let cells = shape[0];
        let pattern = matches!(node.info().role, Some(Role::Pattern(_)));
        let (values, dimensions) = match pattern {
            true => {
                let rows = all.chunks_exact(cells.max(1));
                let kept = rows.flat_map(|row| row[..tokens.min(cells)].to_vec());
                (kept.collect(), vec![shape[2], shape[1], tokens.min(cells)])
            }
            false => (all.clone(), vec![shape[1], shape[0]]),
        };
        if self
            .answers
            .send(Answer::Values(values, dimensions))
            .is_err()
        {
            return Ok(ControlFlow::Break(()));
        }
        let heard = self.listen(|new| {
            match pattern {
                true => {
                    let kept = tokens.min(cells).max(1);
                    for (row, new) in all
                        .chunks_exact_mut(cells.max(1))
                        .zip(new.chunks_exact(kept))
                    {
                        row[..kept].copy_from_slice(new);
                    }
                }
                false => all.copy_from_slice(new),
            }
            node.write(&all)
        });
        match heard {
            Some(Ok(())) => Ok(ControlFlow::Continue(())),
            Some(Err(error)) => Err(error),
            None => Ok(ControlFlow::Break(())),
        }
    }
}

/// Runs the pass; returns the logits of every token, one after the other.
fn pass(bench: &mut Bench, prompt: &Prompt, stops: &mut Stops) -> Result<Vec<f32>> {
    let n = prompt.ids.len();
    let many = u32::try_from(n)?;
    let mut base = exact(bench.settings());
    if !base.kv_type.is_quantized() && base.flash_attention == FlashAttention::Auto {
        base.flash_attention = FlashAttention::Off;
    }
    let settings = Settings {
        n_seq: 1,
        // A pass is one batch: what is asked for then has all tokens.
        n_batch: many,
        n_outputs: many,
        hooks: true,
        ..base
    };
    let mut session = bench.own(n, settings)?;
    stops.roles = session.roles().map_err(explain)?.clone();
    let seq = session.open().map_err(explain)?;
    match stops.listen(|_| Ok(())) {
        Some(heard) => heard.map_err(explain)?,
        None => return Err(Interrupted.into()),
    }
    let mut logits = Vec::with_capacity(n * bench.model.vocab().len() as usize);
    let passed = session.feed_hooked(&seq, &prompt.ids, WantLogits::All, stops, &mut |_, row| {
        logits.extend_from_slice(row);
    });
    match passed.map_err(explain)? {
        Pass::Complete => Ok(logits),
        Pass::Stopped => Err(Interrupted.into()),
    }
}

/// A pass that is under way.
struct Open {
    orders: Sender<Order>,
    asked: Asked<Answer>,
    /// The activations that the pass stands at: their role, the array, and its values as they were.
    at: Option<(Role, Py<Array>, Vec<f32>)>,
}

/// A pass over a prompt that stops at the activations that are asked for; used in a `with` block.
/// Arrays may be written to: when the next one is asked for, or the block is left, the pass goes on
/// with what is in them.
#[pyclass(frozen, module = "modelve")]
pub struct Trace {
    worker: Arc<Worker>,
    prompt: Prompt,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    begun: bool,
    logits: Option<Py<Array>>,
}

#[pymethods]
impl Model {
    /// A pass over a prompt that stops at the activations that are asked for: `with m.trace(prompt)
    /// as t: t.residual(5)[...] = other`.
    #[pyo3(signature = (prompt, *, chat=false, system=None, special=true))]
    fn trace(
        &self,
        py: Python<'_>,
        prompt: Given,
        chat: bool,
        system: Option<String>,
        special: bool,
    ) -> PyResult<Trace> {
        let prompt = Reading::new(chat, system, special).prompt(self.model(), &prompt);
        Ok(Trace {
            worker: Arc::clone(&self.worker),
            prompt: prompt.map_err(|error| raised(py, &error))?,
            state: Mutex::default(),
        })
    }
}

impl Trace {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pass that is under way, taken out while this thread speaks with it.
    fn take(&self, py: Python<'_>) -> PyResult<Open> {
        let open = self.lock().open.take();
        open.ok_or_else(|| {
            let what = "activations are there inside the `with` block of a trace only";
            raised(py, &anyhow!(UsageError(what.to_owned())))
        })
    }

    /// The activations of a role.
    fn at(&self, py: Python<'_>, role: Role) -> PyResult<Py<Array>> {
        let mut open = self.take(py)?;
        if let Some((at, array, _)) = &open.at
            && *at == role
        {
            let array = array.clone_ref(py);
            self.lock().open = Some(open);
            return Ok(array);
        }
        let changed = changed(py, open.at.take());
        // An error here leaves the trace closed, and the pass with it.
        let sent = open.orders.send(Order::Want(role, changed)).is_ok();
        let answer = match sent {
            true => open.asked.next(py).inspect_err(|_| self.close())?,
            false => None,
        };
        match answer {
            Some(Answer::Values(values, shape)) => {
                let array = Py::new(py, Array::new(values.clone(), &shape))?;
                open.at = Some((role, array.clone_ref(py), values));
                self.lock().open = Some(open);
                Ok(array)
            }
            Some(Answer::Refused(error)) => {
                self.lock().open = Some(open);
                Err(raised(py, &error))
            }
            Some(Answer::Ended(ended)) => {
                self.close();
                let error = match ended {
                    Err(error) => error,
                    Ok(_) => anyhow!("the pass had no {role}"),
                };
                Err(raised(py, &error))
            }
            None => {
                self.close();
                Err(raised(py, &anyhow!("the pass has ended")))
            }
        }
    }

    fn close(&self) {
        self.worker.traced.store(false, Ordering::Relaxed);
    }

    /// A layer, from the end where negative.
    fn layer(&self, py: Python<'_>, layer: i64) -> PyResult<usize> {
        let n = self.worker.model.facts().n_layer as usize;
        let found = crate::read::numbers(Some(&[layer]), n, "layer");
        match found.map_err(|error| raised(py, &error))?.as_deref() {
            Some([layer]) => Ok(*layer),
            _ => Ok(0),
        }
    }
}

/// The values of an array, if they are no longer what they were.
fn changed(py: Python<'_>, at: Option<(Role, Py<Array>, Vec<f32>)>) -> Option<Vec<f32>> {
    let (_, array, before) = at?;
    let now = array.get().values(py);
    let same = now
        .iter()
        .zip(&before)
        .all(|(a, b)| a.to_bits() == b.to_bits());
    (!same).then_some(now)
}

#[pymethods]
impl Trace {
    fn __enter__(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<Self>> {
        let this = slf.get();
        if std::mem::replace(&mut this.lock().begun, true) {
            let what = "a trace is used once: make another one";
            return Err(raised(py, &UsageError(what.to_owned()).into()));
        }
        let (orders, orders_in) = mpsc::channel();
        let (answers, answers_in) = mpsc::channel();
        let prompt = this.prompt.clone();
        let asked = this.worker.send(py, answers_in, move |bench| {
            let mut stops = Stops {
                orders: orders_in,
                answers: answers.clone(),
                cancel: bench.cancel.clone(),
                want: None,
                seen: HashSet::new(),
                roles: Roles::default(),
                tokens: prompt.ids.len(),
            };
            let ended = pass(bench, &prompt, &mut stops);
            // Nobody listens to a trace that was left early.
            drop(answers.send(Answer::Ended(ended)));
        })?;
        this.worker.traced.store(true, Ordering::Relaxed);
        this.lock().open = Some(Open {
            orders,
            asked,
            at: None,
        });
        Ok(slf)
    }

    /// Lets the pass run to its end; after an exception in the block it is given up.
    #[pyo3(signature = (kind, _value, _traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.close();
        let Some(mut open) = self.lock().open.take() else {
            return Ok(false);
        };
        if !kind.is_none() {
            return Ok(false);
        }
        let changed = changed(py, open.at.take());
        let sent = open.orders.send(Order::Finish(changed)).is_ok();
        let ended = match sent {
            true => open.asked.next(py)?,
            false => None,
        };
        match ended {
            Some(Answer::Ended(Ok(logits))) => {
                let tokens = self.prompt.ids.len();
                let width = logits.len() / tokens.max(1);
                let logits = Py::new(py, Array::new(logits, &[tokens, width]))?;
                self.lock().logits = Some(logits);
                Ok(false)
            }
            Some(Answer::Ended(Err(error))) => Err(raised(py, &error)),
            _ => Err(raised(py, &anyhow!("the pass has ended"))),
        }
    }

    /// The tokens of the prompt.
    #[getter]
    fn ids(&self) -> Vec<i32> {
        self.prompt.ids.iter().map(|id| id.0).collect()
    }

    /// What the tokens stand for.
    #[getter]
    fn pieces(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let pieces: Vec<Piece> = self.prompt.pieces(self.worker.model.vocab());
        let pieces = serde_json::to_value(pieces).map_err(|error| raised(py, &error.into()))?;
        value::value(py, &pieces)
    }

    /// After the block: the logits of every token, `[tokens, vocabulary]`.
    #[getter]
    fn logits(&self, py: Python<'_>) -> PyResult<Py<Array>> {
        let logits = self
            .lock()
            .logits
            .as_ref()
            .map(|logits| logits.clone_ref(py));
        logits.ok_or_else(|| {
            let what = "logits are there after the `with` block of a trace";
            raised(py, &UsageError(what.to_owned()).into())
        })
    }

    /// The input of the first block, `[tokens, width]`.
    fn embedding(&self, py: Python<'_>) -> PyResult<Py<Array>> {
        self.at(py, Role::Embedding)
    }

    /// The residual stream after a layer, `[tokens, width]`.
    fn residual(&self, py: Python<'_>, layer: i64) -> PyResult<Py<Array>> {
        let layer = self.layer(py, layer)?;
        self.at(py, Role::Residual(layer))
    }

    /// What a layer's attention adds to the residual stream, `[tokens, width]`.
    fn attention(&self, py: Python<'_>, layer: i64) -> PyResult<Py<Array>> {
        let layer = self.layer(py, layer)?;
        self.at(py, Role::Attention(layer))
    }

    /// What a layer's MLP adds to the residual stream, `[tokens, width]`.
    fn mlp(&self, py: Python<'_>, layer: i64) -> PyResult<Py<Array>> {
        let layer = self.layer(py, layer)?;
        self.at(py, Role::Mlp(layer))
    }

    /// The outputs of a layer's heads side by side, `[tokens, heads · values]`.
    fn heads(&self, py: Python<'_>, layer: i64) -> PyResult<Py<Array>> {
        let layer = self.layer(py, layer)?;
        self.at(py, Role::HeadOutput(layer))
    }

    /// A layer's attention weights, `[heads, tokens, tokens]`.
    fn pattern(&self, py: Python<'_>, layer: i64) -> PyResult<Py<Array>> {
        let layer = self.layer(py, layer)?;
        self.at(py, Role::Pattern(layer))
    }

    /// The normalized last state, which the output matrix maps to logits, `[tokens, width]`.
    fn final_norm(&self, py: Python<'_>) -> PyResult<Py<Array>> {
        self.at(py, Role::FinalNorm)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // A trace that was begun and never left.
        if self.lock().open.is_some() {
            self.close();
        }
    }
}
