//! The folder of a store: which states it holds, how one is written, and which are removed.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::state;
use crate::token::Token;

/// The end of the names of states.
const SUFFIX: &str = ".seq";
/// The start of the names of files that are being written.
const PARTIAL: &str = ".writing-";
/// A file that has been written for this long was left behind by a process that was ended.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Maximum number of states that wait to be written. Each is in memory as a whole.
const MAX_PENDING: usize = 2;

/// A folder of states.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Maximum size of all states together, in bytes.
    pub limit: u64,
    /// The states whose tokens are known, by name. The tokens of a name never change.
    known: Mutex<HashMap<OsString, Known>>,
}

#[derive(Debug)]
struct Known {
    tokens: Arc<[Token]>,
    /// Whether it is not in the folder yet.
    pending: bool,
}

impl Folder {
    /// Opens a folder, which is created for the user alone if it does not exist, and checks that a
    /// file can be written to it.
    pub fn open(path: &Path, limit: u64) -> io::Result<Folder> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)?;
        // An error now is better than one after a long computation.
        drop(partial(path)?);
        Ok(Folder {
            path: path.to_owned(),
            limit,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<OsString, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The states whose names start with `prefix`, with their tokens. Those that are still to be
    /// written are among them.
    pub fn states(&self, prefix: &str) -> Vec<(OsString, Arc<[Token]>)> {
        let starts = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(prefix));
        let listed: HashSet<OsString> = self.list().into_iter().map(|state| state.name).collect();
        let mut known = self.known();
        known.retain(|name, state| state.pending || listed.contains(name));
        for name in listed {
            if starts(&name)
                && !known.contains_key(&name)
                && let Some(tokens) = self.read_tokens(&name)
            {
                let pending = false;
                known.insert(name, Known { tokens, pending });
            }
        }
        let own = known.iter().filter(|(name, _)| starts(name));
        own.map(|(name, state)| (name.clone(), Arc::clone(&state.tokens)))
            .collect()
    }

    /// The tokens of a state, from the start of its file. A file that has none, or others than its
    /// name says, is removed, because it would take the place of a state.
    fn read_tokens(&self, name: &OsStr) -> Option<Arc<[Token]>> {
        let tokens = state::tokens_at_start(&mut self.file(name)?);
        let tokens = tokens.filter(|tokens| {
            let name = name.to_str();
            name.is_some_and(|name| name.ends_with(&suffix(tokens)))
        });
        if tokens.is_none() {
            self.remove(name);
        }
        tokens.map(Arc::from)
    }

    /// Opens a state's file, unless another user wrote it: states are trusted.
    fn file(&self, name: &OsStr) -> Option<File> {
        let file = File::open(self.path.join(name)).ok()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let owner = file.metadata().ok()?.uid();
            if owner != rustix::process::geteuid().as_raw() {
                return None;
            }
        }
        Some(file)
    }

    /// The bytes of a state, which is now the most recently used. `None` for one that is no longer
    /// there, or that does not fit into `room` bytes.
    pub fn read(&self, name: &OsStr, room: u64) -> Option<Vec<u8>> {
        let mut file = self.file(name)?;
        let size = file.metadata().ok().filter(|facts| facts.is_file())?.len();
        if size > room {
            return None;
        }
        // A folder that can only be read serves as well.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
        Read::by_ref(&mut file)
            .take(size)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }

    /// Removes a state. It is no error if another process has removed it.
    pub fn remove(&self, name: &OsStr) {
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Notes that a state is about to be written; false if it is known, or too many wait.
    pub fn announce(&self, name: &OsStr, tokens: &[Token]) -> bool {
        let mut known = self.known();
        let pending = known.values().filter(|state| state.pending).count();
        if known.contains_key(name) || pending >= MAX_PENDING {
            return false;
        }
        let (tokens, pending) = (tokens.into(), true);
        known.insert(name.to_owned(), Known { tokens, pending });
        true
    }

    /// Takes back an announcement.
    pub fn forget(&self, name: &OsStr) {
        self.known().remove(name);
    }

    /// Writes an announced state: into a file beside its own, which then takes its name. Other
    /// states are removed to make room.
    pub fn write(&self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        let written = self.make_room(bytes.len() as u64).and_then(|()| {
            let mut file = partial(&self.path)?;
            file.write_all(bytes)?;
            file.persist(self.path.join(name))?;
            Ok(())
        });
        match (&written, self.known().get_mut(name)) {
            (Ok(()), Some(state)) => state.pending = false,
            _ => self.forget(name),
        }
        written?;
        // Another process may have written at the same time.
        self.make_room(0)
    }

    /// Removes the least recently used states until `more` bytes fit.
    fn make_room(&self, more: u64) -> io::Result<()> {
        let mut states = self.list();
        states.sort_by_key(|state| state.used);
        let mut total: u64 = states.iter().map(|state| state.size).sum();
        for state in states {
            if total.saturating_add(more) <= self.limit {
                break;
            }
            match fs::remove_file(self.path.join(&state.name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= state.size,
            }
        }
        Ok(())
    }

    /// The states in the folder. Files that were left half written are removed.
    fn list(&self) -> Vec<Listed> {
        let mut states = Vec::new();
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let (Some(text), Ok(facts)) = (name.to_str(), entry.metadata()) else {
                continue;
            };
            let used = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if text.starts_with(PARTIAL) {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    self.remove(&name);
                }
            } else if text.ends_with(SUFFIX) && facts.is_file() {
                let size = facts.len();
                states.push(Listed { name, size, used });
            }
        }
        states
    }
}

/// A state in the folder.
struct Listed {
    name: OsString,
    /// Its size in bytes.
    size: u64,
    /// When it was last used.
    used: SystemTime,
}

/// The name of a state: a digest of what it belongs to, and one of its tokens.
pub(super) fn name(prefix: &str, tokens: &[Token]) -> OsString {
    format!("{prefix}{}", suffix(tokens)).into()
}

fn suffix(tokens: &[Token]) -> String {
    let mut hash = Sha256::new();
    for token in tokens {
        hash.update(token.0.to_le_bytes());
    }
    format!("{}{SUFFIX}", short_hex(&hash.finalize()))
}

/// The first 16 bytes of a digest as digits.
pub(super) fn short_hex(digest: &[u8]) -> String {
    let bytes = digest.iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// A new file that only the user can read.
fn partial(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)
}
