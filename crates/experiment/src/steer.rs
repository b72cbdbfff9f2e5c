//! Control vectors learned from texts: the difference between the mean residual streams at the last
//! token of two sets of texts, as in contrastive activation addition (Rimsky et al., "Steering
//! Llama 2 via contrastive activation addition", 2024).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;

use super::error::{Error, Result};
use super::variants::exact;
use modelve_probe::math::Distribution;
use modelve_probe::next::{Next, moved};
use modelve_probe::{Prompt, Subject};
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{
    ControlVector, Event, Finish, Model, Request, Session, Settings, Setup, Token, Vocab,
    WantLogits,
};

/// The set that a text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Texts that the vector steers towards.
    Plus,
    /// Texts that the vector steers away from.
    Minus,
}

/// The length of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Direction {
    /// The layer after which it is added.
    pub layer: usize,
    /// Its Euclidean length.
    pub length: f64,
    /// The mean length of the states it was learned from. A direction much longer than a state
    /// drowns the text in the residual stream.
    pub state: f64,
}

/// The predictions of a model without and with a control vector.
#[derive(Debug, Clone, Serialize)]
pub struct Steered {
    /// The model.
    pub model: Subject,
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// The vectors that were added up.
    pub files: Vec<Source>,
    /// The layers that have a direction.
    pub layers: Vec<usize>,
    /// One entry without a vector, then one for each scale.
    pub runs: Vec<Run>,
    /// Whether there is an entry for each scale that was asked for.
    pub complete: bool,
}

/// A control vector's file.
#[derive(Debug, Clone, Serialize)]
pub struct Source {
    /// Name of the file.
    pub file: String,
    /// The factor by which its directions were multiplied before they were added up.
    pub scale: f32,
}

/// The predictions of a model with a control vector at one scale.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The factor of the vector; 0 without one.
    pub scale: f32,
    /// The next-token distribution.
    pub next: Next,
    /// D(without ‖ with) of that distribution, in nats.
    pub kl: f64,
    /// The greedy continuation.
    pub text: String,
}

impl Run {
    /// Makes the entry of one scale. `moved` and `kl` compare it with the entry without a vector,
    /// unless it is that one.
    pub fn new(
        vocab: &Vocab,
        plain: Option<&Next>,
        scale: f32,
        mut next: Next,
        text: String,
    ) -> Self {
        let mut kl = 0.0;
        if let Some(plain) = plain {
            let steered = Distribution::new(&next.logits);
            kl = Distribution::new(&plain.logits).kl(&steered);
            next.moved = moved(vocab, &plain.logits, &next.logits, next.top.len());
        }
        Run {
            scale,
            next,
            kl,
            text,
        }
    }
}

/// Options of [`answer`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of likeliest tokens to return.
    pub top: usize,
    /// Maximum number of tokens to generate.
    pub max_tokens: usize,
    /// Context size in tokens; `None` means the context that the model was trained on.
    pub ctx_size: Option<u32>,
}

/// Computes the next-token distribution and the greedy continuation in a new session with [`exact`]
/// settings, the control vector, and room for the prompt. Returns `None` if it was cancelled during
/// the continuation.
///
/// # Errors
/// See [`next`](modelve_probe::next::next) and [`complete`](modelve_runtime::complete).
pub fn answer(
    mut session: Session,
    prompt: &Prompt,
    options: Options,
) -> Result<Option<(Next, String)>> {
    let told = modelve_probe::next::Options {
        top: options.top,
        ..modelve_probe::next::Options::default()
    };
    let next = modelve_probe::next::next(&mut session, prompt, &told, &mut |_| {})?;
    let (model, settings) = (session.model().clone(), session.settings().clone());
    // Frees its memory for the context of the continuation.
    drop(session);
    if options.max_tokens == 0 {
        return Ok(Some((next, String::new())));
    }
    let request = Request {
        prompt: prompt.ids.clone(),
        seed: 0,
        options: modelve_runtime::Options {
            max_tokens: options.max_tokens,
            ..modelve_runtime::Options::default()
        }
        .into(),
    };
    let setup = Setup {
        settings,
        ctx_size: options.ctx_size,
        ..Setup::default()
    };
    let mut text = None;
    modelve_runtime::complete(&model, vec![request], setup, &mut |event| {
        if let Event::Done { completion, .. } = event
            && completion.finish != Finish::Cancelled
        {
            text = Some(completion.text);
        }
        ControlFlow::Continue(())
    })?;
    Ok(text.map(|text| (next, text)))
}

/// Sums of the states after one layer.
#[derive(Debug, Clone, Default)]
struct Sums {
    plus: Vec<f64>,
    minus: Vec<f64>,
    /// Sums of the states' Euclidean lengths.
    lengths: f64,
}

/// Accumulates the means: texts are [added](Learning::add) one by one, and only sums are kept.
#[derive(Debug)]
pub struct Learning {
    layers: Vec<Sums>,
    n_plus: usize,
    n_minus: usize,
}

/// Returns the settings of a session for [`Learning::add`].
pub fn settings(base: Settings) -> Settings {
    Settings {
        hooks: true,
        ..exact(base)
    }
}

/// The hook that reads the states of a batch's last token after every layer.
struct States(Vec<Vec<f32>>);

impl Hook for States {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        matches!(node.role, Some(Role::Residual(_)))
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        if let Some(Role::Residual(layer)) = info.role {
            // The last row belongs to the last token, even in the last layer, which drops the other
            // rows.
            let row = info.row(info.shape[1].saturating_sub(1));
            self.0[layer] = node.read()?[row].to_vec();
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Learning {
    /// Makes an accumulator for a model.
    pub fn new(model: &Model) -> Self {
        Learning {
            layers: vec![Sums::default(); model.facts().n_layer as usize],
            n_plus: 0,
            n_minus: 0,
        }
    }

    /// Adds the states of a text's last token. The session must have been made with [`settings`].
    ///
    /// # Errors
    /// The errors of the session; after [`Error::Runtime`] with `Cancelled`, nothing of the text
    /// was added.
    pub fn add(&mut self, session: &mut Session, text: &Prompt, side: Side) -> Result<()> {
        if text.ids.is_empty() {
            return Err(modelve_probe::Error::EmptyPrompt.into());
        }
        let roles = session.roles()?;
        (0..self.layers.len()).try_for_each(|layer| roles.require(Role::Residual(layer)))?;
        let seq = session.open()?;
        // Only the pass with the last token is hooked.
        let n_batch = session.settings().n_batch as usize;
        let last = (text.ids.len() - 1) / n_batch * n_batch;
        let (before, last) = text.ids.split_at(last);
        session.feed(&seq, before, WantLogits::None, &mut |_, _| {})?;
        let mut states = States(vec![Vec::new(); self.layers.len()]);
        let mut ignore = |_: usize, _: &[f32]| {};
        // The hook never stops a pass.
        let _: Pass =
            session.feed_hooked(&seq, last, WantLogits::Last, &mut states, &mut ignore)?;
        session.close(seq);
        for (sums, state) in self.layers.iter_mut().zip(&states.0) {
            let sum = match side {
                Side::Plus => &mut sums.plus,
                Side::Minus => &mut sums.minus,
            };
            sum.resize(state.len(), 0.0);
            sum.iter_mut()
                .zip(state)
                .for_each(|(sum, &x)| *sum += f64::from(x));
            sums.lengths += length(state.iter().map(|&x| f64::from(x)));
        }
        match side {
            Side::Plus => self.n_plus += 1,
            Side::Minus => self.n_minus += 1,
        }
        Ok(())
    }

    /// Returns the difference of the means after `layers`, and its length after every layer that
    /// can have a direction.
    ///
    /// # Errors
    /// [`Error::OneSided`] if one set has no text; [`Error::Runtime`] for layer 0 and layers that
    /// the model does not have.
    pub fn finish(&self, layers: &[usize]) -> Result<(ControlVector, Vec<Direction>)> {
        if self.n_plus == 0 || self.n_minus == 0 {
            return Err(Error::OneSided {
                plus: self.n_plus,
                minus: self.n_minus,
            });
        }
        let n_texts = (self.n_plus + self.n_minus) as f64;
        let difference = |sums: &Sums| -> Vec<f32> {
            let pairs = sums.plus.iter().zip(&sums.minus);
            let (n_plus, n_minus) = (self.n_plus as f64, self.n_minus as f64);
            pairs
                .map(|(plus, minus)| (plus / n_plus - minus / n_minus) as f32)
                .collect()
        };
        let all = self.layers.iter().enumerate().skip(1);
        let directions = all.map(|(layer, sums)| Direction {
            layer,
            length: length(difference(sums).iter().map(|&x| f64::from(x))),
            state: sums.lengths / n_texts,
        });
        let of = |layer: usize| {
            (
                layer,
                self.layers.get(layer).map(difference).unwrap_or_default(),
            )
        };
        let chosen: BTreeMap<usize, Vec<f32>> = layers.iter().map(|&layer| of(layer)).collect();
        let width = self.layers.first().map_or(0, |sums| sums.plus.len());
        let vector = ControlVector::new(width, chosen)?;
        Ok((vector, directions.collect()))
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}
