//! Tensors on a worker's disk, by the hash of their values, so that they are sent only once.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The start of the names of files that are not complete.
const PART: &str = ".modelve-part-";
/// Bytes of disk space that are left for others.
const SPARED: u64 = 1 << 30;

/// A folder of tensors. The name of a file is the SHA-256 of what is in it, which is checked whenever
/// it is read.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// The SHA-256 of a tensor's values.
pub(crate) type Hash = [u8; 32];

impl Cache {
    /// Opens a folder, or makes it, and removes what an earlier worker left unfinished.
    pub fn open(folder: &Path) -> Result<Cache> {
        let made = fs::create_dir_all(folder).and_then(|()| {
            for entry in fs::read_dir(folder)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(PART) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        });
        made.map_err(|source| Error::Cache {
            folder: folder.to_owned(),
            source,
        })?;
        Ok(Cache {
            folder: folder.to_owned(),
        })
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name)
    }

    /// The file with the values of this hash, `length` bytes. One whose contents are others is
    /// removed.
    pub fn find(&self, hash: &Hash, length: u64) -> Option<File> {
        let path = self.path(hash);
        let mut file = File::open(&path).ok()?;
        let is_sound = file
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() == length)
            && digest(&mut file).is_ok_and(|found| found == *hash);
        if !is_sound {
            tracing::warn!("{} is damaged and removed", path.display());
            let _ = fs::remove_file(&path);
            return None;
        }
        file.rewind().ok()?;
        Some(file)
    }

    /// Begins to keep the values of this hash, `length` bytes. `None` if there is no room for them on
    /// the disk, or they cannot be written; the tensor is then used without being kept.
    pub fn record(&self, hash: &Hash, length: u64) -> Option<Recording> {
        if free_space(&self.folder).is_some_and(|free| free < length.saturating_add(SPARED)) {
            return None;
        }
        let temporary = tempfile::Builder::new()
            .prefix(PART)
            .tempfile_in(&self.folder);
        Some(Recording {
            temporary: temporary.ok()?,
            hasher: Sha256::new(),
            hash: *hash,
            path: self.path(hash),
        })
    }
}

/// A tensor's values on their way to their file.
pub(crate) struct Recording {
    temporary: NamedTempFile,
    hasher: Sha256,
    hash: Hash,
    path: PathBuf,
}

impl Recording {
    /// Adds values that arrived.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.temporary.write_all(bytes)
    }

    /// Gives the file its name, if the values have the hash that was announced.
    pub fn finish(self) {
        let found: Hash = self.hasher.finalize().into();
        if found != self.hash {
            tracing::warn!("a tensor has another hash than was announced, and is not kept");
        } else if let Err(error) = self.temporary.persist(&self.path) {
            tracing::warn!("cannot keep a tensor: {error}");
        }
    }
}

fn digest(file: &mut File) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(&chunk[..n]),
        }
    }
}

/// Bytes that this user may still write; `None` if the system does not say.
fn free_space(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let space = rustix::fs::statvfs(folder).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_until_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let values = vec![7u8; 3 << 20];
        let hash: Hash = Sha256::digest(&values).into();
        let length = values.len() as u64;
        assert!(cache.find(&hash, length).is_none());
        let mut recording = cache.record(&hash, length).unwrap();
        for part in values.chunks(1 << 16) {
            recording.write(part).unwrap();
        }
        recording.finish();
        let mut found = Vec::new();
        let mut file = cache.find(&hash, length).unwrap();
        file.read_to_end(&mut found).unwrap();
        assert_eq!(found, values);
        assert!(cache.find(&[1; 32], length).is_none());

        // One that was cut, and one with another byte.
        let path = cache.path(&hash);
        for damaged in [&values[..100], &[&values[1..], &[8]].concat()] {
            fs::write(&path, damaged).unwrap();
            assert!(cache.find(&hash, length).is_none());
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_is_not_what_was_announced_or_not_complete_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let mut recording = cache.record(&[3; 32], 4).unwrap();
        recording.write(b"bats").unwrap();
        recording.finish();
        let unfinished = cache.record(&[4; 32], 4).unwrap();
        std::mem::forget(unfinished);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        Cache::open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
