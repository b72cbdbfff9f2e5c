//! The contribution of a part of the residual stream to the logits.
//!
//! The last state is normed before the output matrix. With the scale of that norm fixed to its
//! value in one pass ("frozen"), the rest is linear, and the logits are the sum of the
//! contributions of all parts of the state (Elhage et al., "A mathematical framework for
//! transformer circuits", 2021).

use super::unembed_ffi::{Norm, Unembed};
use super::{Error, Result};
use modelve_gguf::Gguf;
use modelve_runtime::{Model, host};

/// The final norm and the output matrix of a model.
pub struct Readout {
    model: Model,
    unembed: Unembed,
    /// The cap in logit = cap · tanh(row / cap), where the model has one.
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

/// The final norm with the scale it had in one pass, to be applied to parts of that pass's state.
#[derive(Debug, Clone)]
pub struct FrozenNorm {
    /// The factor for each value: scale, norm weight and the model's own constant.
    factors: Vec<f32>,
    /// Whether the mean of a vector is subtracted first, as in LayerNorm.
    centred: bool,
}

impl FrozenNorm {
    /// Applies the norm to a part of the state, in place.
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

/// Opens the final norm and the output matrix of a model, computed with `threads` threads, and
/// returns the soft cap of its logits where it has one.
///
/// # Errors
/// [`Error::Unsupported`] for a file that lacks them, or where their shapes do not fit the model's
/// states.
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
    /// Finds the final norm and the output matrix of a model. `threads` is the number of threads to
    /// compute with; `None` means the default.
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

    /// Number of values in a state.
    pub fn width(&self) -> usize {
        self.unembed.n_embd()
    }

    /// Number of tokens in the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.unembed.n_vocab()
    }

    /// Freezes the norm at the last state `state`, for which the model computed `logits`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the logits are not a norm and a matrix applied to the state.
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

    /// Computes the contribution of `parts` (rows of [`width`](Self::width) values) of the state
    /// whose norm was frozen to each logit, before a cap: as many rows of
    /// [`n_vocab`](Self::n_vocab) values. The parts are normed in place.
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

/// Finds the constant by which some architectures multiply `rows` before they are capped; 1 where
/// it is close to 1.
pub(super) fn factor(rows: &[f32], logits: &[f32], cap: Option<f32>) -> f32 {
    let (mut along, mut square) = (0.0, 0.0);
    for (&x, &logit) in rows.iter().zip(logits) {
        // A logit near its cap does not determine its value before the cap.
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
