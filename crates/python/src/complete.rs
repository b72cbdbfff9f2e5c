//! Completions: whole, or piece by piece.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use modelve::commands::engine::explain;
use modelve::hint::{Interrupted, UsageError};
use modelve::probe::{Choice, Piece, piece};
use modelve::runtime::{
    self, Event, Finish, Grammar, Likely, Options, Request, Sampling, Step, Token, Vocab,
};
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use serde::Serialize;

use crate::bench::Bench;
use crate::error::{Result, raised};
use crate::worker::{Asked, Worker};

/// How tokens are chosen, as Python's arguments have it.
#[derive(Debug, Default)]
pub struct Choosing {
    /// 0 takes the likeliest token; by default 0, or 1 with one of the next four.
    pub temperature: Option<f32>,
    /// Draw from so many likeliest tokens.
    pub top_k: Option<u32>,
    /// Draw from the likeliest tokens that make up this probability.
    pub top_p: Option<f32>,
    /// Draw from tokens at least so many times as likely as the likeliest.
    pub min_p: Option<f32>,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Whether the model goes on where it would end.
    pub ignore_eos: bool,
    /// A schema that the text must fit.
    pub json_schema: Option<String>,
    /// A grammar that the text must follow.
    pub grammar: Option<String>,
}

/// One prompt's completion, as `modelve complete --json` tells it.
#[derive(Debug, Serialize)]
pub struct Completed {
    index: usize,
    prompt: String,
    /// What follows the prompt.
    pub text: String,
    finish_reason: &'static str,
    tokens: Vec<Written>,
    usage: Usage,
    timing: Timing,
}

#[derive(Debug, Serialize)]
struct Written {
    id: Token,
    piece: Piece,
    logprob: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Choice>,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

#[derive(Debug, Serialize)]
struct Timing {
    prefill_s: f64,
    generate_s: f64,
    tokens_per_s: Option<f64>,
}

impl Choosing {
    /// The options of requests.
    ///
    /// # Errors
    /// A number out of range, an empty stop text, a grammar that cannot be followed.
    pub fn options(self, max_tokens: usize, details: bool, top: usize) -> Result<Options> {
        let within = |value: Option<f32>, name: &str, most: f32| match value {
            Some(x) if !(0.0..=most).contains(&x) || !x.is_finite() => {
                let range = match most.is_finite() {
                    true => format!("from 0 to {most}"),
                    false => "of 0 or more".to_owned(),
                };
                Err(UsageError(format!("{name}={x}: a number {range}")))
            }
            _ => Ok(()),
        };
        within(self.temperature, "temperature", f32::INFINITY)?;
        within(self.top_p, "top_p", 1.0)?;
        within(self.min_p, "min_p", 1.0)?;
        if let Some(empty) = self.stop.iter().position(String::is_empty) {
            return Err(UsageError(format!("stop text {} is empty", empty + 1)).into());
        }
        let draws = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let grammar = match (&self.grammar, &self.json_schema) {
            (Some(_), Some(_)) => {
                let what = "a grammar or a JSON schema, not both";
                return Err(UsageError(what.to_owned()).into());
            }
            (Some(text), None) => Some(Grammar::gbnf(text).map_err(explain)?),
            (None, Some(text)) => Some(Grammar::json_schema(text).map_err(explain)?),
            (None, None) => None,
        };
        Ok(Options {
            max_tokens,
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(if draws { 1.0 } else { 0.0 }),
                top_k: self.top_k.unwrap_or(0),
                top_p: self.top_p.unwrap_or(1.0),
                min_p: self.min_p.unwrap_or(0.0),
                grammar,
                ..Sampling::default()
            },
            stops: self.stop,
            ignore_end: self.ignore_eos,
            logprobs: details,
            top,
            ..Options::default()
        })
    }
}

/// Prompts to complete.
pub struct Prompts {
    /// What they say of themselves.
    pub texts: Vec<String>,
    /// Their tokens.
    pub tokens: Vec<Vec<Token>>,
    /// The seed of the first; each following one has the next number.
    pub seed: u32,
    /// How tokens are chosen.
    pub options: Options,
}

impl Prompts {
    fn requests(&self) -> Vec<Request> {
        let options = Arc::new(self.options.clone());
        let tokens = self.tokens.iter().zip(0..);
        let requests = tokens.map(|(prompt, i)| Request {
            prompt: prompt.clone(),
            seed: self.seed.wrapping_add(i),
            options: Arc::clone(&options),
        });
        requests.collect()
    }

    /// Completes all of them.
    ///
    /// # Errors
    /// The first prompt that fails; Ctrl-C.
    pub fn complete(self, bench: &mut Bench) -> Result<Vec<Completed>> {
        let model = bench.model.clone();
        let n = self.tokens.len();
        let mut done: Vec<Option<runtime::Completion>> = vec![None; n];
        let mut failed = None;
        bench.complete(|engine| {
            let ended = engine.complete(self.requests(), &mut |event| match event {
                Event::Token { .. } => ControlFlow::Continue(()),
                Event::Done { index, completion } => {
                    done[index] = Some(completion);
                    ControlFlow::Continue(())
                }
                Event::Failed { index, error } => {
                    failed = Some((index, error));
                    ControlFlow::Break(())
                }
            });
            match failed {
                Some((_, error)) if n == 1 => Err(explain(error)),
                Some((index, error)) => {
                    Err(explain(error).context(format!("prompt {}", index + 1)))
                }
                None => ended.map(drop).map_err(explain),
            }
        })?;
        bench.uninterrupted()?;
        let done = done.into_iter().zip(self.texts).enumerate();
        let completed = done.map(|(index, (completion, prompt))| {
            let completion = completion.ok_or(Interrupted)?;
            Ok(completed(model.vocab(), index, prompt, completion))
        });
        completed.collect()
    }

    /// Completes the only prompt, and sends its text as it comes.
    fn stream(self, bench: &mut Bench, to: &Sender<Result<String>>) {
        let streamed = bench.complete(|engine| {
            let mut failed = None;
            let mut left = false;
            let ended = engine.complete(self.requests(), &mut |event| match event {
                Event::Token { text, .. } if !text.is_empty() => match to.send(Ok(text)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => {
                        left = true;
                        ControlFlow::Break(())
                    }
                },
                Event::Failed { error, .. } => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            });
            match failed {
                Some(error) => Err(explain(error)),
                None if left => Err(Interrupted.into()),
                None => ended.map(drop).map_err(explain),
            }
        });
        if let Err(error) = streamed {
            // Nobody listens to a stream that was left.
            drop(to.send(Err(error)));
        }
    }
}

fn completed(
    vocab: &Vocab,
    index: usize,
    prompt: String,
    completion: runtime::Completion,
) -> Completed {
    let likely = |likely: &Likely| Choice {
        id: likely.token,
        piece: piece(vocab, likely.token),
        prob: f64::from(likely.logprob).exp(),
        logprob: f64::from(likely.logprob),
    };
    let written = |step: &Step| Written {
        id: step.token,
        piece: piece(vocab, step.token),
        logprob: step.logprob,
        top: step.top.iter().map(likely).collect(),
    };
    let tokens: Vec<Written> = completion.steps.iter().map(written).collect();
    let generate_s = completion.generate.as_secs_f64();
    let steps = tokens.len();
    Completed {
        index,
        prompt,
        text: completion.text,
        finish_reason: match completion.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        },
        usage: Usage {
            prompt_tokens: completion.prompt_tokens,
            completion_tokens: steps,
        },
        timing: Timing {
            prefill_s: completion.prefill.as_secs_f64(),
            generate_s,
            tokens_per_s: (steps > 1 && generate_s > 0.0).then(|| (steps - 1) as f64 / generate_s),
        },
        tokens,
    }
}

/// The text of a completion as it comes: an iterator of pieces.
#[pyclass(frozen, module = "modelve")]
pub struct Stream {
    asked: Mutex<Option<Asked<Result<String>>>>,
}

impl Stream {
    /// Begins to complete the only prompt.
    ///
    /// # Errors
    /// See [`Worker::send`].
    pub fn begin(py: Python<'_>, worker: &Arc<Worker>, prompts: Prompts) -> PyResult<Stream> {
        let (to, answer) = mpsc::channel();
        let asked = worker.send(py, answer, move |bench| prompts.stream(bench, &to))?;
        Ok(Stream {
            asked: Mutex::new(Some(asked)),
        })
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<String> {
        // It is taken out while waiting, so that another thread does not wait for the lock.
        let lock = || self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = lock().take() else {
            return Err(PyStopIteration::new_err(()));
        };
        match asked.next(py)? {
            Some(Ok(text)) => {
                *lock() = Some(asked);
                Ok(text)
            }
            Some(Err(error)) => Err(raised(py, &error)),
            None => Err(PyStopIteration::new_err(())),
        }
    }

    /// Stops the completion.
    fn close(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        drop(asked.take());
    }
}
