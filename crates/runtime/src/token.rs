//! Tokens: entries of a model's vocabulary.

use std::fmt;
use std::num::TryFromIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An entry of a model's vocabulary, by its number from 0. A type of its own, so that it is not
/// taken for a position, a count or the index of a prompt. A number that came from outside may be
/// none of the vocabulary's: [`Vocab::check`](super::Vocab::check) tells.
///
/// Serializes as the number alone.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct Token(pub i32);

impl Token {
    /// The token that a row of logits has at `index`.
    pub fn at(index: usize) -> Self {
        Token(i32::try_from(index).unwrap_or(i32::MAX))
    }

    /// Its place in a row of logits. A negative number, which no vocabulary has, is past the end
    /// of every row.
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
