//! Opens, forks, truncates and closes the sequences of a session, and counts their cells.

use super::Session;
use crate::error::{Error, Result};
use crate::seq::Seq;
use crate::token::Token;

impl Session {
    /// The number of cells of the cache that no sequence holds.
    pub fn free_cells(&mut self) -> usize {
        self.collect();
        self.n_ctx().saturating_sub(self.cells.taken())
    }

    /// The number of sequences that can still be opened.
    pub fn free_sequences(&mut self) -> usize {
        self.collect();
        self.vacant.len()
    }

    /// Opens an empty sequence.
    ///
    /// # Errors
    /// [`Error::NoSequence`] if all [`crate::Settings::n_seq`] sequences are open.
    pub fn open(&mut self) -> Result<Seq> {
        self.collect();
        match self.vacant.pop() {
            Some(slot) => Ok(Seq::new(slot, &self.home)),
            None => Err(Error::NoSequence {
                n_seq: self.settings.n_seq,
            }),
        }
    }

    /// Closes a sequence and frees its cells at once; dropping it does so before the next
    /// operation.
    pub fn close(&mut self, seq: Seq) {
        drop(seq);
        self.collect();
    }

    /// Frees the cells of sequences that were closed.
    pub(super) fn collect(&mut self) {
        let returned = self.home.take_returned();
        if returned.is_empty() {
            return;
        }
        for slot in returned {
            self.forget(slot);
            self.vacant.push(slot);
        }
        // The lowest slot is assigned first, so that the same calls give the same ids.
        self.vacant.sort_unstable_by(|a, b| b.cmp(a));
    }

    pub(super) fn forget(&mut self, slot: u32) {
        self.context.truncate(slot, 0);
        self.tokens[slot as usize].clear();
        self.cells.truncate(slot as usize, 0);
    }

    pub(super) fn slot(&self, seq: &Seq) -> Result<u32> {
        seq.slot_in(&self.home).ok_or(Error::ForeignSequence)
    }

    /// The tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn tokens(&self, seq: &Seq) -> Result<&[Token]> {
        Ok(&self.tokens[self.slot(seq)? as usize])
    }

    /// The number of tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn len(&self, seq: &Seq) -> Result<usize> {
        Ok(self.tokens(seq)?.len())
    }

    /// Returns whether a sequence has no tokens.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn is_empty(&self, seq: &Seq) -> Result<bool> {
        Ok(self.len(seq)? == 0)
    }

    /// What llama.cpp's memory holds of a sequence.
    pub(crate) fn state_of(&mut self, seq: &Seq) -> Result<Vec<u8>> {
        let slot = self.slot(seq)?;
        self.context.state(slot)
    }

    /// Restores an empty sequence from the result of [`Session::state_of`].
    pub(crate) fn put_state(&mut self, seq: &Seq, tokens: Vec<Token>, state: &[u8]) -> Result<()> {
        let slot = self.slot(seq)?;
        if let Err(error) = self.context.put_state(slot, state, tokens.len()) {
            self.forget(slot);
            return Err(error);
        }
        tokens.iter().for_each(|_| self.cells.push(slot as usize));
        self.tokens[slot as usize] = tokens;
        Ok(())
    }

    /// Removes everything of a slot after its first `length` tokens, or all of it if the memory
    /// cannot be rolled back in part.
    pub(super) fn roll_back(&mut self, slot: u32, length: usize) {
        if self.context.truncate(slot, length) {
            self.tokens[slot as usize].truncate(length);
            self.cells.truncate(slot as usize, length);
        } else {
            self.forget(slot);
        }
    }

    /// Returns whether a sequence can be truncated to its first `length` tokens. Truncating to none
    /// or to all tokens is always possible. Otherwise it is not with a recurrent memory, and with a
    /// sliding window only if the memory still holds the window before that point.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`].
    pub fn can_truncate(&self, seq: &Seq, length: usize) -> Result<bool> {
        let slot = self.slot(seq)?;
        let have = self.tokens[slot as usize].len();
        Ok(length == 0 || length >= have || self.context.holds_window_before(slot, length))
    }

    fn check_truncate(&self, seq: &Seq, length: usize) -> Result<()> {
        match self.can_truncate(seq, length)? {
            true => Ok(()),
            false => Err(Error::CannotTruncate {
                arch: self.model.facts().arch.clone(),
                have: self.len(seq)?,
                want: length,
            }),
        }
    }

    /// Truncates a sequence to its first `length` tokens.
    ///
    /// # Errors
    /// [`Error::CannotTruncate`] if [`Session::can_truncate`] is false; nothing is changed then.
    pub fn truncate(&mut self, seq: &Seq, length: usize) -> Result<()> {
        let slot = self.slot(seq)?;
        if length >= self.tokens[slot as usize].len() {
            return Ok(());
        }
        self.check_truncate(seq, length)?;
        if !self.context.truncate(slot, length) {
            return Err(Error::CannotTruncate {
                arch: self.model.facts().arch.clone(),
                have: self.tokens[slot as usize].len(),
                want: length,
            });
        }
        self.tokens[slot as usize].truncate(length);
        self.cells.truncate(slot as usize, length);
        Ok(())
    }

    /// Opens a sequence as a copy of the first `length` tokens of `from`. The two share the cells
    /// of these tokens.
    ///
    /// # Errors
    /// [`Error::NoSequence`]; [`Error::CannotTruncate`] if `length` is less than all of `from` and
    /// [`Session::can_truncate`] is false for it.
    pub fn fork(&mut self, from: &Seq, length: usize) -> Result<Seq> {
        let source = self.slot(from)? as usize;
        self.check_truncate(from, length)?;
        let fork = self.open()?;
        let (slot, length) = (self.slot(&fork)?, length.min(self.tokens[source].len()));
        let all = length == self.tokens[source].len();
        self.context
            .copy(source as u32, slot, (!all).then_some(length));
        self.tokens[slot as usize] = self.tokens[source][..length].to_vec();
        self.cells.share(source, slot as usize, length);
        Ok(fork)
    }
}
