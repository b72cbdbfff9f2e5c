//! Which file a path leads to: symbolic links followed, devices told apart, and whether it is still
//! the same file later.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Identifies the file that was judged, so that a later change of it is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) file: FileId,
    len: u64,
    modified: Option<SystemTime>,
}

/// Device and inode; where there are none, the path without links.
#[cfg(unix)]
pub(super) type FileId = (u64, u64);
#[cfg(not(unix))]
pub(super) type FileId = PathBuf;

#[cfg(unix)]
pub(super) fn file_id(_: &Path, metadata: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
pub(super) fn file_id(path: &Path, _: &Metadata) -> FileId {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Identity {
    pub(super) fn of(path: &Path, metadata: &Metadata) -> Self {
        Identity {
            file: file_id(path, metadata),
            len: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// The path that a chain of symbolic links ends at; nothing needs to be there.
pub(super) fn follow(path: &Path) -> io::Result<PathBuf> {
    // As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&at) {
            Ok(to) => at = folder_of(&at).join(to),
            Err(_) => return Ok(at),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

#[cfg(unix)]
pub(super) fn is_block_device(metadata: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
}

#[cfg(not(unix))]
pub(super) fn is_block_device(_: &Metadata) -> bool {
    false
}

/// Which of the standard streams leads to this file.
#[cfg(unix)]
pub(super) fn standard_stream(file: &FileId) -> Option<&'static str> {
    let is = |stat: rustix::io::Result<rustix::fs::Stat>| {
        // The types of these fields differ from system to system.
        #[allow(clippy::unnecessary_cast)]
        stat.is_ok_and(|stat| (stat.st_dev as u64, stat.st_ino as u64) == *file)
    };
    if is(rustix::fs::fstat(io::stdin())) {
        Some("standard input")
    } else if is(rustix::fs::fstat(io::stdout())) {
        Some("standard output")
    } else if is(rustix::fs::fstat(io::stderr())) {
        Some("standard error")
    } else {
        None
    }
}

#[cfg(not(unix))]
pub(super) fn standard_stream(_: &FileId) -> Option<&'static str> {
    None
}

/// The folder a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
