//! Saved sequences in a folder: what one process has computed, another continues.
//!
//! A file holds the result of [`Session::save`]. Its name starts with a digest of what the state
//! belongs to (llama.cpp's format, model, cache type, RoPE factors, control vector), so that other
//! files are not even opened, and ends with a digest of its tokens. A file is written under another
//! name and then renamed, so several processes can use a folder at once; a damaged one is removed.
//! The size of the folder is limited: the least recently used states are removed first. States hold
//! what was said, and llama.cpp trusts them: files are for the user alone, and those of other users
//! are not read.

mod folder;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::context::kv_bytes;
use super::error::{Error, Result};
use super::host;
use super::seq::Seq;
use super::session::Session;
use super::state::{Origin, seal};
use super::token::Token;
use folder::Folder;

/// Minimum number of tokens that a state must save. Fewer are computed as soon as read.
pub(crate) const MIN_SAVED: usize = 64;

/// A folder of saved sequences. Dropping it waits until all states are written.
#[derive(Debug)]
pub struct StateStore {
    folder: Arc<Folder>,
    /// Where states go to be written; the folder limits how many wait.
    to_write: Option<Sender<(OsString, Vec<u8>)>>,
    writer: Option<JoinHandle<()>>,
}

/// A state that starts like a text.
#[derive(Debug)]
pub(crate) struct Found {
    name: OsString,
    /// The number of its tokens.
    pub len: usize,
    /// The number of tokens at its start that are those of the text.
    pub common: usize,
}

impl StateStore {
    /// Opens a store of at most `limit` bytes in `folder`, which is created if it does not exist.
    ///
    /// # Errors
    /// [`Error::Store`] for a folder that cannot be created or written to.
    pub fn open(folder: &Path, limit: u64) -> Result<StateStore> {
        let fault = |source| Error::Store {
            folder: folder.to_owned(),
            source,
        };
        let folder = Arc::new(Folder::open(folder, limit).map_err(fault)?);
        let (to_write, states) = channel::<(OsString, Vec<u8>)>();
        let own = Arc::clone(&folder);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                for (name, mut bytes) in states {
                    seal(&mut bytes);
                    if let Err(error) = own.write(&name, &bytes) {
                        tracing::warn!("a state is not kept: {error}");
                    }
                }
            })
            .map_err(fault)?;
        Ok(StateStore {
            folder,
            to_write: Some(to_write),
            writer: Some(writer),
        })
    }

    /// The state that shares the longest prefix with `tokens`, if it saves [`MIN_SAVED`] tokens more
    /// than `have`. With `whole`, all of the state must be a prefix.
    pub(crate) fn find(
        &self,
        origin: &Origin,
        tokens: &[Token],
        have: usize,
        whole: bool,
    ) -> Option<Found> {
        let mut best: Option<Found> = None;
        for (name, own) in self.folder.states(&prefix(origin)) {
            let pairs = own.iter().zip(tokens);
            let common = pairs.take_while(|(a, b)| a == b).count();
            let least = best
                .as_ref()
                .map_or(have + MIN_SAVED, |best| best.common + 1);
            if common >= least && (common == own.len() || !whole) {
                let len = own.len();
                best = Some(Found { name, len, common });
            }
        }
        best
    }

    /// The bytes of a state; `None` if it is gone, or there is no memory for it.
    pub(crate) fn read(&self, found: &Found) -> Option<Vec<u8>> {
        self.folder.read(&found.name, room())
    }

    /// Removes a state that is damaged.
    pub(crate) fn remove(&self, found: &Found) {
        self.folder.forget(&found.name);
        self.folder.remove(&found.name);
    }

    /// Saves a sequence, unless its state is too large or others are still being written.
    pub(crate) fn keep(&self, session: &mut Session, seq: &Seq) -> Result<()> {
        let tokens = session.tokens(seq)?;
        let prefix = prefix(&Origin::of(session));
        let name = folder::name(&prefix, tokens);
        let (facts, kv_type) = (session.model().facts(), session.settings().kv_type);
        let size = kv_bytes(facts, kv_type, tokens.len() as u64);
        if size > self.folder.limit.min(room()) || !self.folder.announce(&name, tokens) {
            return Ok(());
        }
        let bytes = session.save_unsealed(seq);
        match (bytes, &self.to_write) {
            (Ok(bytes), Some(to_write)) if bytes.len() as u64 <= self.folder.limit => {
                if to_write.send((name.clone(), bytes)).is_err() {
                    self.folder.forget(&name);
                }
                Ok(())
            }
            (bytes, _) => {
                self.folder.forget(&name);
                bytes.map(drop)
            }
        }
    }
}

impl Drop for StateStore {
    fn drop(&mut self) {
        self.to_write = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has reported it.
            let _ = writer.join();
        }
    }
}

/// The memory that a state may take, in bytes.
fn room() -> u64 {
    host::free_memory().map_or(u64::MAX, |free| free / 4)
}

/// The start of the names of the states of an origin.
fn prefix(origin: &Origin) -> String {
    format!("{}-", folder::short_hex(&origin.digest()))
}
