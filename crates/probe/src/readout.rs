//! What a part of the residual stream adds to the logits.
//!
//! The last state is normed before the output matrix. With the scale of that norm taken as it is in
//! one pass ("frozen"), what follows is linear, and the logits are the sum of what all the parts of
//! the state add (Elhage et al., "A mathematical framework for transformer circuits", 2021).

use super::unembed_ffi::{Norm, Unembed};
use super::{Error, Result};
use modelve_gguf::Gguf;
use modelve_runtime::{Model, host};

/// The way of a model from its last state to its logits.
pub struct Readout {
    model: Model,
    unembed: Unembed,
    /// logit = cap · tanh(row / cap), where there is a cap.
    cap: Option<f32>,
    rows: Vec<f32>,
}

impl std::fmt::Debug for Readout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readout")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// The last norm as one pass computed it, for vectors that are parts of its state.
#[derive(Debug, Clone)]
pub struct FrozenNorm {
    /// What the norm and the model's own factor multiply each value with.
    factors: Vec<f32>,
    /// Whether the mean of a vector is taken off first.
    centred: bool,
}

impl FrozenNorm {
    /// What the norm makes of a part of its state.
    pub fn apply(&self, part: &mut [f32]) {
        let mean = match self.centred {
            true => part.iter().map(|&x| f64::from(x)).sum::<f64>() / part.len().max(1) as f64,
            false => 0.0,
        };
        for (x, factor) in part.iter_mut().zip(&self.factors) {
            *x = (f64::from(*x) - mean) as f32 * factor;
        }
    }
}

/// The last norm and the output matrix of a model, computed with `threads`, and the cap of its
/// logits where it has one.
///
/// # Errors
/// [`Error::Unsupported`] for a file that lacks them, or where they do not fit its states.
pub(super) fn open(model: &Model, threads: u32) -> Result<(Unembed, Option<f32>)> {
    let gguf = Gguf::open(model.path())?;
    let cap = gguf.arch("final_logit_softcapping");
    let cap = cap.and_then(|cap| cap.as_f64()).filter(|&cap| cap > 0.0);
    let unembed = Unembed::new(gguf, threads).map_err(|what| unsupported(model, &what))?;
    let facts = model.facts();
    if unembed.n_embd() != facts.n_embd as usize
        || unembed.n_vocab() != model.vocab().len() as usize
    {
        let what = "its output matrix is not as wide as its states";
        return Err(unsupported(model, what));
    }
    Ok((unembed, cap.map(|cap| cap as f32)))
}

impl Readout {
    /// Finds the last norm and the output matrix of a model. `threads` are those to compute with.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a file that lacks them.
    pub fn new(model: &Model, threads: Option<u32>) -> Result<Self> {
        let threads = threads.unwrap_or_else(host::threads);
        let (unembed, cap) = open(model, threads)?;
        Ok(Readout {
            model: model.clone(),
            unembed,
            cap,
            rows: Vec::new(),
        })
    }

    /// Values of a state.
    pub fn width(&self) -> usize {
        self.unembed.n_embd()
    }

    /// Entries of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.unembed.n_vocab()
    }

    /// Freezes the norm of the last state `state`, whose `logits` the model gave.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the logits do not follow from the state by a norm and a matrix.
    pub fn freeze(&mut self, state: &[f32], logits: &[f32]) -> Result<FrozenNorm> {
        if !(self.unembed).rows(&mut state.to_vec(), &mut self.rows) {
            return Err(unsupported(
                &self.model,
                "ggml cannot compute its output matrix",
            ));
        }
        let scale = factor(&self.rows, logits, self.cap);
        let (mut difference, mut square) = (0.0, 0.0);
        for (&x, &logit) in self.rows.iter().zip(logits) {
            let x = x * scale;
            let x = self.cap.map_or(x, |cap| cap * (x / cap).tanh());
            difference += f64::from(x - logit).powi(2);
            square += f64::from(logit).powi(2);
        }
        if difference > 4e-4 * square || logits.len() != self.rows.len() {
            let what = "its logits do not follow from its last state by a norm and a matrix";
            return Err(unsupported(&self.model, what));
        }
        let (norm, weight) = self.unembed.norm();
        let n = state.len().max(1) as f64;
        let values = || state.iter().map(|&x| f64::from(x));
        let (centred, spread) = match norm {
            Norm::Rms(eps) => (
                false,
                values().map(|x| x * x).sum::<f64>() / n + f64::from(eps),
            ),
            Norm::Layer(eps) => {
                let mean = values().sum::<f64>() / n;
                let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                (true, variance + f64::from(eps))
            }
        };
        let each = f64::from(scale) / spread.sqrt();
        Ok(FrozenNorm {
            factors: weight
                .iter()
                .map(|&w| (f64::from(w) * each) as f32)
                .collect(),
            centred,
        })
    }

    /// What `parts` of the state whose norm was frozen (rows of [`width`](Self::width) values) add
    /// to each logit before a cap: as many rows of [`n_vocab`](Self::n_vocab). The parts are normed
    /// in place.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if ggml fails.
    pub fn logits(&mut self, norm: &FrozenNorm, parts: &mut [f32]) -> Result<&[f32]> {
        parts
            .chunks_exact_mut(self.unembed.n_embd())
            .for_each(|part| norm.apply(part));
        match self.unembed.project(parts, &mut self.rows) {
            true => Ok(&self.rows),
            false => Err(unsupported(
                &self.model,
                "ggml cannot compute its output matrix",
            )),
        }
    }
}

/// The constant that some architectures multiply `rows` with before they are capped logits; 1 where
/// it is next to that.
pub(super) fn factor(rows: &[f32], logits: &[f32], cap: Option<f32>) -> f32 {
    let (mut along, mut square) = (0.0, 0.0);
    for (&x, &logit) in rows.iter().zip(logits) {
        // Near its cap a logit no longer tells what it was.
        let y = match cap {
            Some(cap) if (logit / cap).abs() > 0.99 => continue,
            Some(cap) => cap * (logit / cap).atanh(),
            None => logit,
        };
        along += f64::from(x) * f64::from(y);
        square += f64::from(x) * f64::from(x);
    }
    let factor = along / square;
    let plain = (factor - 1.0).abs() < 1e-2 || !factor.is_finite();
    if plain { 1.0 } else { factor as f32 }
}

pub(super) fn unsupported(model: &Model, what: &str) -> Error {
    Error::Unsupported {
        arch: model.facts().arch.clone(),
        what: what.to_owned(),
    }
}
