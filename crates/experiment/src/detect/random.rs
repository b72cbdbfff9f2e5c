//! Random tokens that repeat: what a head does with them cannot come from what they mean.

use modelve_gguf::vocab::{Kind, Vocabulary};
use modelve_runtime::{Model, Token};

use crate::error::{Error, Result};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the
/// same numbers on every machine and in every version, as a seed in a paper should give.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, each as likely as the next up to 2⁻⁶⁴·n.
    fn below(&mut self, n: usize) -> usize {
        let wide = u128::from(self.next()) * n as u128;
        (wide >> 64) as usize
    }
}

/// Tokens that stand for text, lowest id first: no control tokens, bytes or unused places.
pub(super) fn ordinary(model: &Model) -> Result<Vec<Token>> {
    let unsupported = |what: String| Error::Unsupported {
        arch: model.facts().arch.clone(),
        what,
    };
    let vocabulary =
        Vocabulary::new(model.gguf()).map_err(|error| unsupported(error.to_string()))?;
    let n = model.vocab().len().min(vocabulary.len() as u32);
    let is_text = |&id: &u32| {
        let named = model.vocab().is_end(Token::at(id as usize));
        vocabulary.kind(id) == Kind::Normal && !named
    };
    Ok((0..n)
        .filter(is_text)
        .map(|id| Token::at(id as usize))
        .collect())
}

/// `length` different tokens of `from`, twice, behind the model's BOS token if it wants one. Each
/// `draw` of a seed gives others.
pub(super) fn repeated(
    model: &Model,
    from: &[Token],
    length: usize,
    seed: u64,
    draw: usize,
) -> Vec<Token> {
    let mut random = SplitMix(seed);
    // A draw of its own for each: the seed's numbers, one after the other, begin the draws.
    let mut begin = 0;
    (0..=draw).for_each(|_| begin = random.next());
    let mut random = SplitMix(begin);
    // Floyd's choice of `length` among all without a copy of all, then in random order.
    let n = from.len();
    let mut chosen: Vec<usize> = Vec::with_capacity(length);
    for last in n - length.min(n)..n {
        let at = random.below(last + 1);
        let at = if chosen.contains(&at) { last } else { at };
        chosen.push(at);
    }
    for i in (1..chosen.len()).rev() {
        chosen.swap(i, random.below(i + 1));
    }
    let once: Vec<Token> = chosen.into_iter().map(|at| from[at]).collect();
    let bos = model.vocab().bos().filter(|_| model.vocab().adds_bos());
    bos.into_iter()
        .chain(once.iter().copied())
        .chain(once.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        // The first numbers of the reference implementation (splitmix64.c, Vigna) for seed 0.
        let mut random = SplitMix(0);
        assert_eq!(random.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next(), 0x6e78_9e6a_a1b9_65f4);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[random.below(5)] += 1);
        assert!(seen.iter().all(|&n| n > 150), "{seen:?}");
    }
}
