//! Sequences of a session: handed out, given back when closed or dropped.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A sequence of tokens in a session's KV cache: handed out by
/// [`Session::open`](super::Session::open) and [`Session::fork`](super::Session::fork), valid for
/// that session only. Dropping it closes it: the session takes its cells back before it does
/// anything else.
pub struct Seq {
    slot: u32,
    home: Arc<Home>,
}

/// The name of a sequence, for who is told of its rows while a session computes. Two sequences
/// that are open at the same time have different names; names are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub(super) u32);

/// The place of a token in its sequence, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u32);

impl Position {
    /// The place number `index`.
    pub fn new(index: usize) -> Self {
        Position(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Its number, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a session and its sequences share: the list of those that were given back.
#[derive(Default)]
pub(super) struct Home {
    returned: Mutex<Vec<u32>>,
}

impl Home {
    /// The slots given back since the last call.
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

    /// Its name.
    pub fn id(&self) -> SeqId {
        SeqId(self.slot)
    }

    /// Its slot, if it is of the session with this home.
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
