//! Files and streams that are read whole, up to a limit, so that `/dev/zero` and endless pipes are
//! an error and do not fill the memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Limit in bytes of a text that a user gives in a file or on standard input.
pub const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Reads a file that belongs to a model: a regular file of at most `limit` bytes.
///
/// # Errors
/// The path is a folder, a pipe or a device (a downloaded checkpoint must not make the program
/// wait for a pipe); the file is longer than `limit`; the system cannot read it.
pub fn regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let kind = std::fs::metadata(path)?;
    if kind.is_dir() {
        return Err(refused("is a folder, not a file"));
    }
    if !kind.is_file() {
        return Err(refused("is a pipe or a device, not a file"));
    }
    if kind.len() > limit {
        return Err(too_long(limit));
    }
    bounded(File::open(path)?, limit)
}

/// Does the same as [`regular`], but returns `None` where there is no file of that name.
///
/// # Errors
/// Those of [`regular`] for what is there. A symbolic link whose target is missing is an error, too.
pub fn optional(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(_) => regular(path, limit).map(Some),
    }
}

/// Reads a text of up to [`MAX_TEXT_BYTES`] bytes that a user names: a file, or a pipe such as a
/// shell's `<(…)`.
///
/// # Errors
/// The path is a folder, or the text is longer or not UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Err(refused("is a folder, not a file"));
    }
    text_from(File::open(path)?)
}

/// Reads a text of up to [`MAX_TEXT_BYTES`] bytes to its end.
///
/// # Errors
/// The text is longer or not UTF-8, or cannot be read.
pub fn text_from(reader: impl Read) -> io::Result<String> {
    let bytes = bounded(reader, MAX_TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        refused(&format!("is not UTF-8 text (at byte {at})"))
    })
}

/// Reads `reader` to its end.
///
/// # Errors
/// There are more than `limit` bytes, or they cannot be read.
pub fn bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(too_long(limit)),
        false => Ok(bytes),
    }
}

fn too_long(limit: u64) -> io::Error {
    let limit = crate::human::bytes(limit);
    refused(&format!("is longer than the {limit} that are read"))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read_to_it() {
        assert!(bounded(io::repeat(0), 1000).is_err());
        assert_eq!(bounded(io::repeat(1).take(1000), 1000).unwrap().len(), 1000);
        #[cfg(unix)]
        {
            let error = regular(Path::new("/dev/zero"), 10).unwrap_err();
            assert!(error.to_string().contains("a device"), "{error}");
            let error = text(Path::new("/dev/zero")).unwrap_err();
            assert!(error.to_string().contains("256 MiB"), "{error}");
        }
    }

    #[test]
    fn files_of_a_model_are_regular_and_short_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(optional(&path, 10).unwrap(), None);
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(optional(&path, 5).unwrap().unwrap(), b"12345");
        assert!(optional(&path, 4).is_err());
        assert!(regular(dir.path(), 10).is_err());
        std::fs::write(&path, b"a\xff").unwrap();
        assert!(text(&path).unwrap_err().to_string().contains("byte 1"));
    }
}
