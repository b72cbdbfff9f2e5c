//! Sequences of random tokens that are repeated. They have no meaning, so a head can only react to
//! the repetition.

use modelve_gguf::vocab::{Kind, Vocabulary};
use modelve_runtime::{Model, Token};

use crate::error::{Error, Result};

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): a
/// seed gives the same numbers on every machine and in every version, so results can be reproduced.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`. The distribution is uniform up to a deviation of n · 2⁻⁶⁴.
    fn below(&mut self, n: usize) -> usize {
        let wide = u128::from(self.next()) * n as u128;
        (wide >> 64) as usize
    }
}

/// Returns the ids of tokens that stand for text, in ascending order: no control, byte or unused
/// tokens.
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

/// Returns `length` different tokens of `from`, twice, after the model's BOS token if it uses one.
/// Each `draw` of a seed gives a different sequence.
pub(super) fn repeated(
    model: &Model,
    from: &[Token],
    length: usize,
    seed: u64,
    draw: usize,
) -> Vec<Token> {
    let mut random = SplitMix(seed);
    // Each draw has its own generator, whose seed is the next number of the seed's generator.
    let mut begin = 0;
    (0..=draw).for_each(|_| begin = random.next());
    let mut random = SplitMix(begin);
    // Floyd's algorithm chooses `length` of all tokens without copying them; the choice is then
    // shuffled.
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
