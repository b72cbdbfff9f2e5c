//! The source rows of a call to the encoder, and their conversion to f32 in pieces.

use super::lanes::Dispatch;
use super::narrow::Widen;
use super::{Error, Isa, SourceType};

/// The source rows of a call.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) source: SourceType,
    /// The bytes of whole rows.
    pub(super) src: &'a [u8],
    /// The number of weights in a row.
    pub(super) n_per_row: usize,
}

impl Input<'_> {
    pub(super) fn rows(&self) -> usize {
        self.src.len() / self.source.bytes() / self.n_per_row
    }

    /// Converts the weights from `at` on, counted across rows, to f32.
    ///
    /// # Errors
    /// [`Error::NonFinite`].
    pub(super) fn widen(&self, isa: Isa, at: usize, to: &mut [f32]) -> Result<(), Error> {
        let bytes = self.source.bytes();
        let src = &self.src[at * bytes..(at + to.len()) * bytes];
        if isa.dispatch(Widen {
            source: self.source,
            src,
            to,
        }) {
            return Ok(());
        }
        let bad = to.iter().position(|x| !x.is_finite()).unwrap_or(0);
        Err(Error::NonFinite {
            row: (at + bad) / self.n_per_row,
            column: (at + bad) % self.n_per_row,
            value: to[bad],
        })
    }
}

/// Fills `to` with repetitions of `row`, starting at its entry `at`.
pub(super) fn repeat_from(row: &[f32], mut at: usize, mut to: &mut [f32]) {
    while !to.is_empty() {
        let n = to.len().min(row.len() - at);
        let (now, later) = to.split_at_mut(n);
        now.copy_from_slice(&row[at..at + n]);
        (at, to) = (0, later);
    }
}
