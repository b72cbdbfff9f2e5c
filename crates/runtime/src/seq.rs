//! Handles to the sequences of a session, which close them when dropped.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A handle to a sequence of tokens in a session's KV cache, returned by
/// [`Session::open`](super::Session::open) and [`Session::fork`](super::Session::fork) and valid
/// for that session only. Dropping it closes the sequence: the session frees its cells before its
/// next operation.
pub struct Seq {
    slot: u32,
    home: Arc<Home>,
}

/// The id of a sequence, which tells a hook whose rows it sees. Sequences that are open at the same
/// time have different ids; ids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub(super) u32);

/// The position of a token in its sequence, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u32);

impl Position {
    /// The position `index`.
    pub fn new(index: usize) -> Self {
        Position(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The position as an index, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a session and its handles share: the list of closed sequences.
#[derive(Default)]
pub(super) struct Home {
    returned: Mutex<Vec<u32>>,
}

impl Home {
    /// The slots of the sequences that were closed since the last call.
    pub fn take_returned(&self) -> Vec<u32> {
        std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seq {
    pub(super) fn new(slot: u32, home: &Arc<Home>) -> Self {
        Seq {
            slot,
            home: Arc::clone(home),
        }
    }

    /// The id of the sequence.
    pub fn id(&self) -> SeqId {
        SeqId(self.slot)
    }

    /// Its slot, if it belongs to the session with this `home`.
    pub(super) fn slot_in(&self, home: &Arc<Home>) -> Option<u32> {
        Arc::ptr_eq(&self.home, home).then_some(self.slot)
    }
}

impl Drop for Seq {
    fn drop(&mut self) {
        let mut returned = (self.home.returned.lock()).unwrap_or_else(PoisonError::into_inner);
        returned.push(self.slot);
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Seq").field(&self.slot).finish()
    }
}
