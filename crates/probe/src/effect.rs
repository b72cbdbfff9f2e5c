//! What the exchange of tensors does to the predictions of a model: the divergence from the model
//! with its own weights, over a text.
//!
//! Of each prediction of the model the likeliest tokens are kept, and the probability of all others
//! together. The divergence of distributions that are coarsened in this way is a lower bound of the
//! full one; the difference is what happens among tokens that are all unlikely.

use super::math::{Distribution, Mean};
use super::{Error, Result};
use modelve_runtime::{Exchange, Token, WantLogits};

/// Number of likeliest tokens of which the probability is kept.
const KEPT: usize = 256;

/// The predictions of a model with its own weights over a text.
#[derive(Debug)]
pub struct Predictions {
    windows: Vec<Window>,
}

/// A part of the text that is read on its own.
#[derive(Debug)]
struct Window {
    ids: Vec<Token>,
    /// The indices of the tokens after which there are predictions.
    at: Vec<usize>,
    rows: Vec<Row>,
}

impl Predictions {
    /// Reads a text in windows of `window` tokens that do not see one another, and keeps the
    /// prediction after every `every`-th token. Where the model uses a BOS token, it replaces the
    /// first token of each window.
    ///
    /// # Errors
    /// [`Error::TextTooShort`]; the errors of [`Exchange::read`].
    pub fn read(
        exchange: &mut Exchange,
        ids: &[Token],
        window: usize,
        every: usize,
        on_window: &mut dyn FnMut(),
    ) -> Result<Self> {
        let vocab = exchange.vocab();
        let bos = vocab.bos().filter(|_| vocab.adds_bos());
        let every = every.max(1);
        let mut windows = Vec::new();
        for ids in ids.chunks(window.max(1)).filter(|ids| ids.len() > 1) {
            let mut ids = ids.to_vec();
            if let Some(bos) = bos {
                ids[0] = bos;
            }
            let at: Vec<usize> = (every - 1..ids.len()).step_by(every).collect();
            let mut rows = Vec::with_capacity(at.len());
            exchange.read(&ids, WantLogits::At(&at), &mut |_, logits| {
                rows.push(Row::new(&Distribution::new(logits)));
            })?;
            windows.push(Window { ids, at, rows });
            on_window();
        }
        match windows.iter().all(|window| window.rows.is_empty()) {
            true => Err(Error::TextTooShort),
            false => Ok(Predictions { windows }),
        }
    }

    /// The number of predictions.
    pub fn len(&self) -> usize {
        self.windows.iter().map(|window| window.rows.len()).sum()
    }

    /// Returns whether there are no predictions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mean divergence in nats of the model with its weights as they are now.
    ///
    /// # Errors
    /// The errors of [`Exchange::read`].
    pub fn divergence(&self, exchange: &mut Exchange) -> Result<Mean> {
        let mut mean = Mean::default();
        for window in &self.windows {
            let mut rows = window.rows.iter();
            exchange.read(&window.ids, WantLogits::At(&window.at), &mut |_, logits| {
                if let Some(row) = rows.next() {
                    mean.add(row.divergence(&Distribution::new(logits)));
                }
            })?;
        }
        Ok(mean)
    }
}

/// The beginning of a distribution, likeliest tokens first.
#[derive(Debug)]
struct Row {
    top: Vec<(Token, f32)>,
    /// The probability of all other tokens together.
    rest: f64,
}

impl Row {
    fn new(distribution: &Distribution<'_>) -> Self {
        let top = distribution.top(KEPT).into_iter();
        let top: Vec<(Token, f32)> = top
            .map(|id| (id, distribution.logprob(id) as f32))
            .collect();
        let probs: f64 = top
            .iter()
            .map(|(_, logprob)| f64::from(*logprob).exp())
            .sum();
        Row {
            top,
            rest: (1.0 - probs).max(0.0),
        }
    }

    /// D(self ‖ other) in nats, with all tokens outside the beginning taken as one.
    fn divergence(&self, other: &Distribution<'_>) -> f64 {
        /// Less than what the rounding of the sum of probabilities leaves.
        const TINY: f64 = 1e-7;
        let (mut sum, mut rest) = (0.0, 1.0);
        for &(id, logprob) in &self.top {
            let (logprob, others) = (f64::from(logprob), other.logprob(id));
            let prob = logprob.exp();
            rest -= others.exp();
            sum += if prob > 0.0 {
                prob * (logprob - others)
            } else {
                0.0
            };
        }
        if self.rest > TINY {
            sum += self.rest * (self.rest / rest.max(TINY)).ln();
        }
        sum.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(seed: u32, spread: f32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..5000)
            .map(|_| spread * (next() + next() + next() - 1.5))
            .collect()
    }

    #[test]
    fn the_divergence_of_the_beginning_is_nearly_that_of_all() {
        let a = logits(1, 12.0);
        let noise = logits(2, 0.3);
        let b: Vec<f32> = a.iter().zip(&noise).map(|(a, b)| a + b).collect();
        let (a, b) = (Distribution::new(&a), Distribution::new(&b));
        let full = a.kl(&b);
        let coarse = Row::new(&a).divergence(&b);
        assert!(
            coarse <= full + 1e-7 && coarse > 0.8 * full,
            "{coarse} {full}"
        );
        assert!(Row::new(&a).divergence(&a) < 1e-7);
    }
}
