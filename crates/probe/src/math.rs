//! Mathematics on one row of logits: softmax in 64 bits, ranks, entropy and divergence.

use std::f64::consts::LN_2;

use modelve_runtime::Token;

/// The distribution given by a row of logits: softmax over the whole vocabulary, without
/// temperature. Logarithms are natural unless the name says bits.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<'a> {
    logits: &'a [f32],
    /// log Σ exp(logit).
    log_sum: f64,
    /// Σ p · logit.
    mean_logit: f64,
}

impl<'a> Distribution<'a> {
    /// Computes the distribution of one row of logits, one per vocabulary entry, in 64 bits.
    pub fn new(logits: &'a [f32]) -> Self {
        let max = f64::from(largest(logits));
        let (mut sum, mut weighted) = ([0.0; LANES], [0.0; LANES]);
        in_lanes(logits, |lane, &logit| {
            let above = f64::from(logit) - max;
            let e = exp_below(above);
            sum[lane] += e;
            // A token that is ruled out (−inf) has weight 0, and 0 · inf is NaN.
            weighted[lane] += if e > 0.0 { e * above } else { 0.0 };
        });
        let sum: f64 = sum.iter().sum();
        Distribution {
            logits,
            log_sum: max + sum.ln(),
            mean_logit: max + weighted.iter().sum::<f64>() / sum,
        }
    }

    /// Returns the logits.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// Natural logarithm of the probability of `id`; −inf for an id outside the vocabulary.
    pub fn logprob(&self, id: Token) -> f64 {
        self.logits
            .get(id.index())
            .map_or(f64::NEG_INFINITY, |&logit| f64::from(logit) - self.log_sum)
    }

    /// The probability of `id`.
    pub fn prob(&self, id: Token) -> f64 {
        self.logprob(id).exp()
    }

    /// The probability of every token, by id.
    pub fn probs(&self) -> impl Iterator<Item = f64> + 'a {
        let log_sum = self.log_sum;
        self.logits
            .iter()
            .map(move |&logit| exp_below(f64::from(logit) - log_sum))
    }

    /// Entropy in bits: log2 of the number of equally likely tokens with the same uncertainty.
    pub fn entropy_bits(&self) -> f64 {
        ((self.log_sum - self.mean_logit) / LN_2).max(0.0)
    }

    /// Rank of `id` by probability, from 1; of equal tokens the lower id comes first.
    pub fn rank(&self, id: Token) -> usize {
        let at = id.index();
        let Some(&own) = self.logits.get(at) else {
            return self.logits.len() + 1;
        };
        let above = self.logits.iter().filter(|&&logit| logit > own).count();
        let equal = self.logits[..at].iter().filter(|&&l| l == own).count();
        above + equal + 1
    }

    /// The likeliest token; of equal ones the lowest id.
    pub fn best(&self) -> Token {
        self.top(1).first().copied().unwrap_or_default()
    }

    /// The `n` likeliest tokens, likeliest first; of equal ones the lower id first.
    pub fn top(&self, n: usize) -> Vec<Token> {
        let mut top: Vec<(f32, Token)> = Vec::with_capacity(n.min(self.logits.len()) + 1);
        if n == 0 {
            return Vec::new();
        }
        // Once `n` tokens are found, most blocks hold nothing that beats the last of them.
        const STRETCH: usize = 64;
        for (number, stretch) in self.logits.chunks(STRETCH).enumerate() {
            let mut beats = f32::NEG_INFINITY;
            if let Some(&(last, _)) = top.last().filter(|_| top.len() == n) {
                if largest(stretch) <= last {
                    continue;
                }
                beats = last;
            }
            for (i, &logit) in stretch.iter().enumerate() {
                if top.len() == n && logit <= beats {
                    continue;
                }
                let at = top.partition_point(|&(other, _)| other >= logit);
                top.insert(at, (logit, Token::at(number * STRETCH + i)));
                top.truncate(n);
                beats = top[top.len() - 1].0;
            }
        }
        top.into_iter().map(|(_, id)| id).collect()
    }

    /// Kullback-Leibler divergence D(self ‖ other) in nats: how surprised `other` is by what
    /// `self` says, beyond its own uncertainty. Never negative.
    pub fn kl(&self, other: &Distribution<'_>) -> f64 {
        self.reference().kl(other)
    }

    /// Computes the probabilities once, for many divergences from this distribution.
    pub fn reference(&self) -> Reference {
        Reference {
            probs: self.probs().collect(),
            negative_entropy: self.mean_logit - self.log_sum,
        }
    }
}

/// A distribution with its probabilities computed, for many divergences from it.
#[derive(Debug, Clone)]
pub struct Reference {
    probs: Vec<f64>,
    /// Σ p · ln p.
    negative_entropy: f64,
}

impl Reference {
    /// D(self ‖ other) in nats.
    pub fn kl(&self, other: &Distribution<'_>) -> f64 {
        let mut expected = [0.0; LANES];
        let mut others = other.logits.iter();
        in_lanes(&self.probs, |lane, &p| {
            let logit = others.next().map_or(0.0, |&logit| f64::from(logit));
            expected[lane] += if p > 0.0 { p * logit } else { 0.0 };
        });
        let expected: f64 = expected.iter().sum();
        // Rounding may give a tiny negative number.
        (self.negative_entropy - expected + other.log_sum).max(0.0)
    }
}

/// Number of lanes in which sums are accumulated, so that the compiler can vectorize them:
/// floating-point addition may not be reordered.
const LANES: usize = 8;

/// Calls `each` with every value and its lane.
#[inline(always)]
fn in_lanes<T>(values: &[T], mut each: impl FnMut(usize, &T)) {
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in chunk.iter().enumerate() {
            each(lane, value);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        each(lane, value);
    }
}

/// The largest value; −inf for an empty slice.
fn largest(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; 2 * LANES];
    let chunks = values.chunks_exact(2 * LANES);
    let rest = chunks.remainder();
    for values in chunks.chain(std::iter::once(rest)) {
        for (most, &value) in most.iter_mut().zip(values) {
            *most = if value > *most { value } else { *most };
        }
    }
    most.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// exp(x) for x ≤ 0 with an error below 4e-16, and 0 below 1e-307. It has no branches, because a
/// vocabulary has tens of thousands of entries, and a lens as many rows as layers times positions.
#[inline(always)]
fn exp_below(x: f64) -> f64 {
    /// 1.5 · 2^52: adding it rounds to an integer, which is left in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts; the first ends in zeros, so that its multiples are exact.
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1/n! for n from 13 down to 0. As |r| ≤ ln 2 / 2, the remainder of the series is below 1e-17.
    const TAYLOR: [f64; 14] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let clamped = if x < -707.0 { -707.0 } else { x };
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = (clamped - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut sum = TAYLOR[0];
    for term in &TAYLOR[1..] {
        sum = sum * r + term;
    }
    // Multiplication by 2^whole is an addition to the exponent.
    let e = f64::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 52));
    if x < -707.0 { 0.0 } else { e }
}

/// Converts nats to bits.
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
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        let before = value - self.mean;
        self.mean += before / self.n as f64;
        self.squares += before * (value - self.mean);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The mean; 0 if there are no values.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard error of the mean; 0 if there are fewer than two values.
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
    fn exponentials_are_those_of_the_library() {
        let mut worst: f64 = 0.0;
        for i in 0..200_000 {
            let x = -707.0 * (f64::from(i) / 2e5).powi(3);
            worst = worst.max((exp_below(x) / x.exp() - 1.0).abs());
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(exp_below(0.0), 1.0);
        assert_eq!(exp_below(-800.0), 0.0);
        assert_eq!(exp_below(f64::NEG_INFINITY), 0.0);
        assert!(exp_below(f64::NAN).is_nan());
    }

    #[test]
    fn entropy_of_equal_tokens_is_the_logarithm_of_their_number() {
        let d = [0.5; 1024];
        let d = Distribution::new(&d);
        assert!((d.entropy_bits() - 10.0).abs() < 1e-12);
        let sure = Distribution::new(&[0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        assert_eq!(sure.entropy_bits(), 0.0);
        assert_eq!(sure.prob(Token(1)), 0.0);
        assert_eq!(sure.prob(Token(0)), 1.0);
    }

    #[test]
    fn ranks_and_top_agree_also_among_equals() {
        let logits = [1.0, 3.0, 3.0, -1.0, 2.0];
        let d = Distribution::new(&logits);
        assert_eq!(d.top(10), [1, 2, 4, 0, 3].map(Token));
        assert_eq!(d.top(2), [1, 2].map(Token));
        assert_eq!(d.top(0), Vec::new());
        assert_eq!(d.best(), Token(1));
        for (place, id) in d.top(5).into_iter().enumerate() {
            assert_eq!(d.rank(id), place + 1);
        }
        assert_eq!(d.rank(Token(99)), 6);
        // Longer than a block, ties across blocks, nothing but −inf.
        let long: Vec<f32> = (0..1000).map(|i| ((i * 37) % 50) as f32).collect();
        let mut order: Vec<Token> = (0..1000).map(Token).collect();
        order.sort_by(|a, b| long[b.index()].total_cmp(&long[a.index()]));
        for n in [1, 7, 64, 500, 1000, 2000] {
            assert_eq!(Distribution::new(&long).top(n), order[..n.min(1000)]);
        }
        assert_eq!(
            Distribution::new(&[f32::NEG_INFINITY; 3]).top(2),
            [0, 1].map(Token)
        );
        assert_eq!(d.logprob(Token(-1)), f64::NEG_INFINITY);
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
            .map(Token)
            .map(|i| da.prob(i) * (da.logprob(i) - df.logprob(i)))
            .sum();
        assert!((da.kl(&df) - direct).abs() < 1e-12);
        assert_eq!(da.kl(&da), 0.0);
        assert!(da.kl(&df) > 0.0 && df.kl(&da) != da.kl(&df));
        // A token that only the other distribution rules out makes the divergence infinite; one
        // that self rules out contributes nothing.
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
