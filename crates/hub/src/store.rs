//! The store: where `convert` writes what has no other place, and where the built-in model is
//! unpacked.
//!
//! ```text
//! $MODELVE_HOME, or modelve/ in the platform's cache folder
//!   models/ORG/NAME[@REVISION]/NAME-QUANT.gguf
//!   tiny/tiny-phi3-Q4_K_M.gguf
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::HubId;
use crate::select;

/// Why the store or the built-in model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither MODELVE_HOME nor a home folder is known.
    #[error("no folder for models: neither MODELVE_HOME nor a home folder is set")]
    NoHome,
    /// The built-in model can be unpacked nowhere.
    #[error("cannot unpack the built-in model to {}", path.display())]
    Unpack {
        /// Where it was to go last.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoHome | Error::Unpack { .. } => {
                Some("set MODELVE_HOME to a folder that can be written".to_owned())
            }
        }
    }
}

/// The folder of the store; it need not exist.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store that the environment names.
    pub fn from_env() -> Result<Store, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = match set("MODELVE_HOME") {
            Some(root) => PathBuf::from(root),
            None => cache_folder().ok_or(Error::NoHome)?.join("modelve"),
        };
        Ok(Store { root })
    }

    /// A store in a folder of one's own.
    pub fn at(root: impl Into<PathBuf>) -> Store {
        Store { root: root.into() }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the GGUF of a Hub model in a quantization belongs.
    pub fn gguf_path(&self, id: &HubId, quant: &str) -> PathBuf {
        let file = format!("{}-{}.gguf", id.name(), quant.to_ascii_uppercase());
        self.folder(id).join(file)
    }

    /// The quantizations of a Hub model that are in the store, each with its first file.
    pub fn ggufs(&self, id: &HubId) -> Vec<(String, PathBuf)> {
        select::gguf_files_in(&self.folder(id))
    }

    /// The Hub repositories of which the store has anything, as `org/name`.
    pub fn repos(&self) -> Vec<String> {
        let folders = |path: &Path| -> Vec<String> {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()
        };
        let models = self.root.join("models");
        let mut repos: Vec<String> = folders(&models)
            .into_iter()
            .flat_map(|org| {
                let names = folders(&models.join(&org));
                names.into_iter().map(move |name| {
                    let name = name.split_once('@').map_or(name.as_str(), |(name, _)| name);
                    format!("{org}/{name}")
                })
            })
            .collect();
        repos.sort();
        repos.dedup();
        repos
    }

    fn folder(&self, id: &HubId) -> PathBuf {
        let mut name = id.name().to_owned();
        if let Some(revision) = &id.revision {
            // A revision may be a path (refs/pr/1): one folder is enough for it.
            name += &format!("@{}", revision.replace('%', "%25").replace('/', "%2F"));
        }
        self.root.join("models").join(id.org()).join(name)
    }
}

/// Where `convert` writes the GGUF of a Hub model when it is told no other place.
pub fn store_path(id: &HubId, quant: &str) -> Result<PathBuf, Error> {
    Ok(Store::from_env()?.gguf_path(id, quant))
}

/// The platform's folder for what can be made again.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if cfg!(windows) {
        return absolute("LOCALAPPDATA");
    }
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    if cfg!(target_os = "macos") {
        return Some(home?.join("Library/Caches"));
    }
    absolute("XDG_CACHE_HOME").or_else(|| Some(home?.join(".cache")))
}

/// The small Phi-3 that ships inside the program.
const TINY: &[u8] = include_bytes!("../../../models/tiny-phi3/tiny-phi3-Q4_K_M.gguf");

/// The built-in model as a file: unpacked on first use, and again when the program brings
/// another version of it.
///
/// # Errors
/// When neither the store nor the folder for temporary files can be written.
pub fn tiny_path() -> Result<PathBuf, Error> {
    let in_store = Store::from_env().map(|store| store.root.join("tiny"));
    let elsewhere = std::env::temp_dir().join(format!("modelve-tiny-{}", user()));
    let folders = in_store.into_iter().chain([elsewhere]);
    unpack_into_first("tiny-phi3-Q4_K_M.gguf", TINY, folders)
}

/// Puts a file with exactly these bytes into the first of the folders that takes it.
fn unpack_into_first(
    name: &str,
    bytes: &[u8],
    folders: impl Iterator<Item = PathBuf>,
) -> Result<PathBuf, Error> {
    let mut last = Error::NoHome;
    for folder in folders {
        let path = folder.join(name);
        match unpack(&path, bytes) {
            Ok(()) => return Ok(path),
            Err(source) => last = Error::Unpack { path, source },
        }
    }
    Err(last)
}

/// Makes `path` a file with exactly these bytes. Another process may do the same at the same
/// time, and one that has mapped an older file keeps it: the name changes over at once.
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
        // Where a file in use cannot be replaced, another process may have been first.
        Err(_) if has_content(path, bytes) => Ok(()),
        Err(error) => Err(error.error),
    }
}

fn has_content(path: &Path, bytes: &[u8]) -> bool {
    let same_length =
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64);
    same_length && fs::read(path).is_ok_and(|there| there == bytes)
}

/// Temporary files are born private; this one is to be read by whoever shares the store.
fn make_readable(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// Tells the temporary folders of different people on one machine apart.
fn user() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("USERNAME"));
    let name = name.unwrap_or_default();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_store_stay_in_the_store() {
        let store = Store::at("/s");
        let path = |text: &str| store.gguf_path(&text.parse().unwrap(), "q4_0");
        assert_eq!(path("o/n"), Path::new("/s/models/o/n/n-Q4_0.gguf"));
        assert_eq!(
            path("o/n@refs/pr/1"),
            Path::new("/s/models/o/n@refs%2Fpr%2F1/n-Q4_0.gguf")
        );
    }

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
        let open = dir.path().join("open");
        let folders = [blocked.join("tiny"), open.clone()];
        let path = unpack_into_first("t.gguf", b"x", folders.into_iter()).unwrap();
        assert_eq!(path, open.join("t.gguf"));
        let error = unpack_into_first("t.gguf", b"x", [blocked].into_iter()).unwrap_err();
        assert!(matches!(error, Error::Unpack { .. }), "{error}");
    }
}
