//! Aligns the positions of two prompts.

use std::ops::Range;

use super::error::{Error, Result};
use modelve_runtime::Token;

/// The positions of two prompts that correspond to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alignment {
    /// Pairs of corresponding positions in the first and the second prompt.
    pub pairs: Vec<(usize, usize)>,
    /// The first position at which the second prompt differs from the first; all states before it
    /// are equal. It is the length of the second prompt where both are equal.
    pub from: usize,
    /// The positions of each prompt that have no counterpart in the other; `None` where all have
    /// one.
    pub unmatched: Option<(Range<usize>, Range<usize>)>,
}

/// Aligns two prompts. Prompts of equal length correspond token by token. Otherwise only their
/// common beginning and their common end correspond.
pub fn align(clean: &[Token], corrupt: &[Token]) -> Alignment {
    let same = |(a, b): &(&Token, &Token)| a == b;
    let from = clean.iter().zip(corrupt).take_while(same).count();
    if clean.len() == corrupt.len() {
        return Alignment {
            pairs: (0..clean.len()).map(|i| (i, i)).collect(),
            from,
            unmatched: None,
        };
    }
    let backwards = clean.iter().rev().zip(corrupt.iter().rev());
    let shorter = clean.len().min(corrupt.len());
    let after = backwards.take_while(same).count().min(shorter - from);
    let ends = (clean.len() - after, corrupt.len() - after);
    let begin = (0..from).map(|i| (i, i));
    let end = (0..after).map(|i| (ends.0 + i, ends.1 + i));
    Alignment {
        pairs: begin.chain(end).collect(),
        from,
        unmatched: Some((from..ends.0, from..ends.1)),
    }
}

impl Alignment {
    /// Returns the pair of a position of the second prompt.
    ///
    /// # Errors
    /// [`Error::Unaligned`], with `sentence` as explanation, for a position without a counterpart.
    pub fn at(&self, position: usize, sentence: &str) -> Result<(usize, usize)> {
        let pair = self.pairs.iter().find(|(_, of)| *of == position);
        pair.copied().ok_or_else(|| Error::Unaligned {
            what: format!("position {position} has no counterpart in the clean prompt: {sentence}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn align(clean: &[i32], corrupt: &[i32]) -> Alignment {
        let tokens = |ids: &[i32]| ids.iter().copied().map(Token).collect::<Vec<_>>();
        super::align(&tokens(clean), &tokens(corrupt))
    }

    #[test]
    fn prompts_of_equal_length_stand_side_by_side() {
        let found = align(&[1, 2, 3, 4], &[1, 2, 9, 4]);
        assert_eq!(found.pairs, [(0, 0), (1, 1), (2, 2), (3, 3)]);
        assert_eq!((found.from, found.unmatched), (2, None));
        assert_eq!(align(&[1, 2], &[1, 2]).from, 2);
    }

    #[test]
    fn others_are_aligned_from_both_ends() {
        let found = align(&[1, 2, 3, 4, 5], &[1, 9, 4, 5]);
        assert_eq!(found.pairs, [(0, 0), (3, 2), (4, 3)]);
        assert_eq!(found.unmatched, Some((1..3, 1..2)));
        assert!(found.at(1, "").is_err());
        assert_eq!(found.at(2, "").unwrap(), (3, 2));
        // Tokens in both the common beginning and the common end are counted once.
        let found = align(&[1, 7, 7], &[1, 7]);
        assert_eq!(found.pairs, [(0, 0), (1, 1)]);
        assert_eq!(found.unmatched, Some((2..3, 2..2)));
        let found = align(&[7], &[7, 7]);
        assert_eq!(found.pairs, [(0, 0)]);
        assert_eq!(found.unmatched, Some((1..1, 1..2)));
        assert_eq!(align(&[1], &[2, 3]).pairs, []);
    }
}
