//! A folder for what a command needs on its way to an output.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

/// The start of the folder's name.
const PREFIX: &str = ".modelve-";
/// A file in the folder that is locked as long as the process lives that made it.
const LOCK: &str = "lock";

/// A folder beside an output, where there is room for files as large as it. Dropped, it is removed
/// with all that is in it; what a process that was killed left is removed by the next that makes one
/// in the same place.
#[derive(Debug)]
pub struct TemporaryFolder {
    // Closed first: Windows does not remove an open file.
    _lock: File,
    folder: TempDir,
}

impl TemporaryFolder {
    /// Makes a folder in `beside`.
    ///
    /// # Errors
    /// The system's, if `beside` cannot be written to.
    pub fn create(beside: &Path) -> io::Result<Self> {
        remove_abandoned(beside);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(beside)?;
        // Until the file is locked it is taken for abandoned, so it gets its name afterwards.
        let path = folder.path().join(LOCK);
        let made = folder.path().join("made");
        let lock = File::create(&made)?;
        // A file system without locks loses only the protection from another run.
        let _ = lock.try_lock();
        fs::rename(made, path)?;
        Ok(TemporaryFolder {
            _lock: lock,
            folder,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes folders whose process has ended without it. One without the file is not known to be ours.
fn remove_abandoned(beside: &Path) {
    let entries = fs::read_dir(beside).into_iter().flatten().flatten();
    for entry in entries {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let lock = File::open(entry.path().join(LOCK));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_abandoned_is_removed() {
        let beside = tempfile::tempdir().unwrap();
        let path = |name: &str| beside.path().join(name);
        let used = TemporaryFolder::create(beside.path()).unwrap();
        fs::create_dir(path(".modelve-users")).unwrap();
        for name in [".modelve-killed", "killed"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join(LOCK), "").unwrap();
            fs::write(path(name).join("source.gguf"), "weights").unwrap();
        }
        let other = TemporaryFolder::create(beside.path()).unwrap();
        assert!(!path(".modelve-killed").exists());
        for kept in [&path(".modelve-users"), &path("killed"), used.path()] {
            assert!(kept.exists(), "{}", kept.display());
        }
        let gone = other.path().to_owned();
        drop(other);
        assert!(!gone.exists());
    }
}
