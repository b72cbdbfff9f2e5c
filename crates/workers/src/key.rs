//! The key that workers and their clients share.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use modelve_base::infile;

use crate::error::{Error, Result};

/// The word that a key file begins with.
const KIND: &str = "modelve-key-1";
/// Maximum length of a key file in bytes.
const MOST_BYTES: u64 = 4096;

/// A secret of 32 bytes. Whoever has it may use every worker that has it, too, and can pretend to be
/// such a worker.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Makes a new key and writes it to a new file, which only its owner may read.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn create(path: &Path) -> Result<Key> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::Key {
            path: path.to_owned(),
            what: format!("the system gives no random numbers: {error}"),
        })?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = options.open(path);
        let written = file.and_then(|mut file| {
            writeln!(file, "{KIND} {digits}")?;
            file.sync_all()
        });
        written.map_err(|source| Error::KeyFile {
            path: path.to_owned(),
            source,
        })?;
        Ok(Key(bytes))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// It cannot be read, is no key file, or can be read or written by others than its owner.
    pub fn read(path: &Path) -> Result<Key> {
        let wrong = |what: &str| Error::Key {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let read = infile::regular(path, MOST_BYTES);
        let bytes = read.map_err(|source| Error::KeyFile {
            path: path.to_owned(),
            source,
        })?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = std::fs::metadata(path).map_err(|source| Error::KeyFile {
                path: path.to_owned(),
                source,
            })?;
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(wrong(&format!(
                    "others than its owner may use this key file (mode {mode:03o})"
                )));
            }
        }
        let text = String::from_utf8(bytes).unwrap_or_default();
        let key = text
            .trim()
            .strip_prefix(KIND)
            .and_then(|rest| parse(rest.trim()));
        key.map(Key).ok_or_else(|| wrong("this is not a key file"))
    }

    /// The bytes of the key; those of no key are zeros, which authenticate nobody.
    pub(crate) fn bytes(key: Option<&Key>) -> [u8; 32] {
        key.map_or([0; 32], |key| key.0)
    }
}

fn parse(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_written_is_read_again_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = Key::create(&path).unwrap();
        assert_eq!(Key::read(&path).unwrap().0, key.0);
        assert_ne!(key.0, [0; 32]);
        let text = std::fs::read(&path).unwrap();
        assert!(Key::create(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), text);
        assert!(!format!("{key:?}").contains(&format!("{:02x}", key.0[0])));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let long = format!("{KIND} {}", "a".repeat(65));
        let signs = format!("{KIND} {}", "+1".repeat(32));
        for text in ["", "secret", KIND, &long, &signs] {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options
                .open(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            let error = Key::read(&path).unwrap_err().to_string();
            assert!(error.contains("not a key file"), "{text}: {error}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Key::create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = Key::read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:03o}")), "{error}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
        Key::read(&path).unwrap();
    }
}
