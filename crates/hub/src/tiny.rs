//! The small Phi-3 that is built into the program.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::own;
use crate::store::{Error, Store};

/// The file name of the built-in model.
const NAME: &str = "tiny-phi3-Q4_K_M.gguf";
const TINY: &[u8] = include_bytes!("../tiny/tiny-phi3-Q4_K_M.gguf");

/// Returns the path of the built-in model. It is unpacked on first use, and again where the program
/// contains another version of it.
///
/// # Errors
/// Neither the store nor the folder for temporary files can be written to.
pub fn tiny_path() -> Result<PathBuf, Error> {
    let store = Store::from_env()
        .ok()
        .map(|store| store.root().join("tiny"));
    let elsewhere = std::env::temp_dir().join(format!("modelve-tiny-{}", user()));
    unpack_into(NAME, TINY, store.as_deref(), &elsewhere)
}

/// Writes a file with exactly these bytes to the store or, where that cannot be written to, to a
/// private folder of this user's below the folder for temporary files.
fn unpack_into(
    name: &str,
    bytes: &[u8],
    store: Option<&Path>,
    elsewhere: &Path,
) -> Result<PathBuf, Error> {
    if let Some(path) = store.map(|store| store.join(name))
        && unpack(&path, bytes).is_ok()
    {
        return Ok(path);
    }
    let path = elsewhere.join(name);
    match own::private_folder(elsewhere).and_then(|()| unpack(&path, bytes)) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Unpack { path, source }),
    }
}

/// Makes `path` a file with exactly these bytes. The file is replaced by renaming, so that other
/// processes can do the same at the same time, and one that has mapped an older file keeps it.
fn unpack(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if has_content(path, bytes) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".tiny-")
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    make_readable(file.path());
    match file.persist(path) {
        Ok(_) => Ok(()),
        // Where the system does not let a file in use be replaced, another process may have written
        // it first.
        Err(_) if has_content(path, bytes) => Ok(()),
        Err(error) => Err(error.error),
    }
}

fn has_content(path: &Path, bytes: &[u8]) -> bool {
    let same_length =
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64);
    same_length && fs::read(path).is_ok_and(|there| there == bytes)
}

/// Lets everybody who shares the store read the file; temporary files are created private.
fn make_readable(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// Returns a name of this user, which keeps the temporary folders of different users apart.
fn user() -> String {
    #[cfg(unix)]
    let user = rustix::process::geteuid().as_raw().to_string();
    #[cfg(not(unix))]
    let user = std::env::var("USERNAME")
        .unwrap_or_default()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "");
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_replaces_a_stale_file_and_leaves_a_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/tiny.gguf");
        unpack(&path, b"version 1").unwrap();
        let first = fs::metadata(&path).unwrap().modified().unwrap();
        unpack(&path, b"version 1").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), first);
        unpack(&path, b"version 2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"version 2", "same length");
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn many_at_once_unpack_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        let bytes = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| unpack(&path, &bytes).unwrap());
            }
        });
        assert!(has_content(&path, &bytes));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_store_that_cannot_be_written_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "not a folder").unwrap();
        let (store, open) = (blocked.join("tiny"), dir.path().join("open"));
        for store in [Some(store.as_path()), None] {
            let path = unpack_into("t.gguf", b"x", store, &open).unwrap();
            assert_eq!(path, open.join("t.gguf"));
            let error = unpack_into("t.gguf", b"x", store, &blocked).unwrap_err();
            assert!(matches!(error, Error::Unpack { .. }), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let planted = dir.path().join("modelve-tiny-0");
        fs::create_dir(&planted).unwrap();
        fs::write(planted.join("t.gguf"), "x").unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o777)).unwrap();
        let error = unpack_into("t.gguf", b"x", None, &planted).unwrap_err();
        assert!(error.hint().unwrap().contains("MODELVE_HOME"), "{error}");
    }
}
