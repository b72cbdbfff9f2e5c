//! Tokens: entries of a model's vocabulary.

use std::fmt;
use std::num::TryFromIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of an entry of a model's vocabulary, from 0. It has a type of its own, so that it cannot
/// be confused with a position, a count or an index. An id from outside may not be in the
/// vocabulary; [`Vocab::check`](super::Vocab::check) checks that.
///
/// Serializes as the number alone.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Token(pub i32);

impl Token {
    /// The token at `index` of a row of logits.
    pub fn at(index: usize) -> Self {
        Token(i32::try_from(index).unwrap_or(i32::MAX))
    }

    /// Its index in a row of logits. For a negative id, which no vocabulary has, this is past the
    /// end of every row.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Token {
    type Err = <i32 as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Token)
    }
}

impl TryFrom<u32> for Token {
    type Error = TryFromIntError;

    fn try_from(id: u32) -> Result<Self, Self::Error> {
        i32::try_from(id).map(Token)
    }
}

impl TryFrom<u64> for Token {
    type Error = TryFromIntError;

    fn try_from(id: u64) -> Result<Self, Self::Error> {
        i32::try_from(id).map(Token)
    }
}
