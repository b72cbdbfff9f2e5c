//! Mathematics on one row of logits: softmax in 64 bits, ranks, entropy, divergence.

use std::f64::consts::LN_2;

/// The distribution that a row of logits stands for: softmax over the whole vocabulary, before
/// any temperature. Logarithms are natural unless the name says bits.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<'a> {
    logits: &'a [f32],
    /// log Σ exp(logit).
    log_sum: f64,
    /// Σ p · logit.
    mean_logit: f64,
}

impl<'a> Distribution<'a> {
    /// Takes one row of logits, one per vocabulary entry, computed in 64 bits.
    pub fn new(logits: &'a [f32]) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let max = f64::from(max);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for &logit in logits {
            let above = f64::from(logit) - max;
            let e = above.exp();
            sum += e;
            // A token ruled out (-inf) weighs nothing, and 0 · inf is no number.
            if e > 0.0 {
                weighted += e * above;
            }
        }
        Distribution {
            logits,
            log_sum: max + sum.ln(),
            mean_logit: max + weighted / sum,
        }
    }

    /// The logits it was made of.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// Natural logarithm of the probability of `id`; -inf for an id outside the vocabulary.
    pub fn logprob(&self, id: i32) -> f64 {
        usize::try_from(id)
            .ok()
            .and_then(|at| self.logits.get(at))
            .map_or(f64::NEG_INFINITY, |&logit| f64::from(logit) - self.log_sum)
    }

    /// The probability of `id`.
    pub fn prob(&self, id: i32) -> f64 {
        self.logprob(id).exp()
    }

    /// The probability of every token, by id.
    pub fn probs(&self) -> impl Iterator<Item = f64> + 'a {
        let log_sum = self.log_sum;
        self.logits
            .iter()
            .map(move |&logit| (f64::from(logit) - log_sum).exp())
    }

    /// Entropy in bits: log2 of the number of equally likely tokens it is as uncertain as.
    pub fn entropy_bits(&self) -> f64 {
        ((self.log_sum - self.mean_logit) / LN_2).max(0.0)
    }

    /// The place of `id` when tokens are ordered by probability, from 1; of equal tokens the
    /// lower id comes first.
    pub fn rank(&self, id: i32) -> usize {
        let at = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(&own) = self.logits.get(at) else {
            return self.logits.len() + 1;
        };
        let above = self.logits.iter().filter(|&&logit| logit > own).count();
        let equal = self.logits[..at].iter().filter(|&&l| l == own).count();
        above + equal + 1
    }

    /// The likeliest token; of equal ones the lowest id.
    pub fn best(&self) -> i32 {
        let mut best = 0;
        for (id, &logit) in self.logits.iter().enumerate() {
            if logit > self.logits[best] {
                best = id;
            }
        }
        best as i32
    }

    /// The `n` likeliest tokens, likeliest first; of equal ones the lower id first.
    pub fn top(&self, n: usize) -> Vec<i32> {
        let mut top: Vec<(f32, i32)> = Vec::with_capacity(n.min(self.logits.len()) + 1);
        if n == 0 {
            return Vec::new();
        }
        for (id, &logit) in self.logits.iter().enumerate() {
            if top.len() == n && top.last().is_some_and(|last| logit <= last.0) {
                continue;
            }
            let at = top.partition_point(|&(other, _)| other >= logit);
            top.insert(at, (logit, id as i32));
            top.truncate(n);
        }
        top.into_iter().map(|(_, id)| id).collect()
    }

    /// Kullback-Leibler divergence D(self ‖ other) in nats: how surprised `other` is by what
    /// `self` says, beyond its own uncertainty. Never negative.
    pub fn kl(&self, other: &Distribution<'_>) -> f64 {
        self.reference().kl(other)
    }

    /// `self` with its probabilities written out, for many divergences from it.
    pub fn reference(&self) -> Reference {
        Reference {
            probs: self.probs().collect(),
            negative_entropy: self.mean_logit - self.log_sum,
        }
    }
}

/// A distribution that others are compared with.
#[derive(Debug, Clone)]
pub struct Reference {
    probs: Vec<f64>,
    /// Σ p · ln p.
    negative_entropy: f64,
}

impl Reference {
    /// D(self ‖ other) in nats.
    pub fn kl(&self, other: &Distribution<'_>) -> f64 {
        let expected: f64 = self
            .probs
            .iter()
            .zip(other.logits)
            .filter(|&(&p, _)| p > 0.0)
            .map(|(&p, &logit)| p * f64::from(logit))
            .sum();
        // Rounding may leave a hair below zero.
        (self.negative_entropy - expected + other.log_sum).max(0.0)
    }
}

/// Nats to bits.
pub fn bits(nats: f64) -> f64 {
    nats / LN_2
}

/// Mean and its standard error, one value at a time (Welford's method).
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    n: usize,
    mean: f64,
    squares: f64,
}

impl Mean {
    /// Counts a value in.
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        let before = value - self.mean;
        self.mean += before / self.n as f64;
        self.squares += before * (value - self.mean);
    }

    /// How many values there were.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The mean; 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard error of the mean; 0 of fewer than two values.
    pub fn error(&self) -> f64 {
        if self.n < 2 {
            return 0.0;
        }
        let n = self.n as f64;
        (self.squares / (n - 1.0) / n).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_however_large_the_logits() {
        let mut logits: Vec<f32> = (0..32_064)
            .map(|i| ((i * 7919) % 1000) as f32 / 50.0)
            .collect();
        for shift in [0.0, 3e4, -3e4] {
            logits.iter_mut().for_each(|l| *l += shift);
            let d = Distribution::new(&logits);
            let sum: f64 = d.probs().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        }
    }

    #[test]
    fn entropy_of_equal_tokens_is_the_logarithm_of_their_number() {
        let d = [0.5; 1024];
        let d = Distribution::new(&d);
        assert!((d.entropy_bits() - 10.0).abs() < 1e-12);
        let sure = Distribution::new(&[0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        assert_eq!(sure.entropy_bits(), 0.0);
        assert_eq!(sure.prob(1), 0.0);
        assert_eq!(sure.prob(0), 1.0);
    }

    #[test]
    fn ranks_and_top_agree_also_among_equals() {
        let logits = [1.0, 3.0, 3.0, -1.0, 2.0];
        let d = Distribution::new(&logits);
        assert_eq!(d.top(10), [1, 2, 4, 0, 3]);
        assert_eq!(d.top(2), [1, 2]);
        assert_eq!(d.top(0), Vec::<i32>::new());
        assert_eq!(d.best(), 1);
        for (place, id) in d.top(5).into_iter().enumerate() {
            assert_eq!(d.rank(id), place + 1);
        }
        assert_eq!(d.rank(99), 6);
        assert_eq!(d.logprob(-1), f64::NEG_INFINITY);
    }

    #[test]
    fn divergence_is_the_sum_it_is_defined_as() {
        let (a, b) = (
            [0.1f32, 1.5, -2.0, 0.7],
            [1.1f32, 0.5, -1.0, f32::NEG_INFINITY],
        );
        let finite = [1.1f32, 0.5, -1.0, 0.2];
        let (da, df) = (Distribution::new(&a), Distribution::new(&finite));
        let direct: f64 = (0..4)
            .map(|i| da.prob(i) * (da.logprob(i) - df.logprob(i)))
            .sum();
        assert!((da.kl(&df) - direct).abs() < 1e-12);
        assert_eq!(da.kl(&da), 0.0);
        assert!(da.kl(&df) > 0.0 && df.kl(&da) != da.kl(&df));
        // What the other rules out costs infinitely much; what self rules out costs nothing.
        let db = Distribution::new(&b);
        assert_eq!(da.kl(&db), f64::INFINITY);
        assert!(db.kl(&da).is_finite());
    }

    #[test]
    fn a_mean_has_an_error_when_there_are_two_values() {
        let mut mean = Mean::default();
        assert_eq!((mean.mean(), mean.error()), (0.0, 0.0));
        for value in [1.0, 2.0, 3.0, 4.0] {
            mean.add(value);
        }
        assert_eq!((mean.len(), mean.mean()), (4, 2.5));
        assert!((mean.error() - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
