//! The store: the folder into which `convert` writes models unless it is told another place, and
//! into which the built-in model is unpacked.
//!
//! ```text
//! $MODELVE_HOME, or modelve/ in the platform's cache folder
//!   models/ORG/NAME[@REVISION]/NAME-QUANT.gguf
//!   tiny/tiny-phi3-Q4_K_M.gguf
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::HubId;
use crate::ggufs::{self, LocalGguf};

/// The reason why the store or the built-in model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither MODELVE_HOME nor a home folder is known.
    #[error("no folder for models: neither MODELVE_HOME nor a home folder is set")]
    NoHome,
    /// There is no folder that the built-in model can be unpacked to.
    #[error("cannot unpack the built-in model to {}", path.display())]
    Unpack {
        /// The last path that was tried.
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

/// The store's folder, which need not exist.
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

    /// A store in a folder of the caller's choice.
    pub fn in_folder(root: impl Into<PathBuf>) -> Store {
        Store { root: root.into() }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a Hub model's GGUF in a quantization.
    pub fn gguf_path(&self, id: &HubId, quant: &str) -> PathBuf {
        let file = format!("{}-{}.gguf", id.name(), quant.to_ascii_uppercase());
        self.folder(id).join(file)
    }

    /// The GGUF models that were converted from a Hub model.
    pub fn ggufs(&self, id: &HubId) -> Vec<LocalGguf> {
        ggufs::local_ggufs(&self.folder(id))
    }

    /// The Hub repositories of which the store holds a model, as `org/name`.
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
            // A revision can have slashes (refs/pr/1), which are escaped so that it takes a single
            // folder.
            name += &format!("@{}", revision.replace('%', "%25").replace('/', "%2F"));
        }
        self.root.join("models").join(id.org()).join(name)
    }
}

/// The path to which `convert` writes the GGUF of a Hub model unless it is told another.
pub fn store_path(id: &HubId, quant: &str) -> Result<PathBuf, Error> {
    Ok(Store::from_env()?.gguf_path(id, quant))
}

/// The platform's cache folder.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_store_stay_in_the_store() {
        let store = Store::in_folder("/s");
        let path = |text: &str| store.gguf_path(&text.parse().unwrap(), "q4_0");
        assert_eq!(path("o/n"), Path::new("/s/models/o/n/n-Q4_0.gguf"));
        assert_eq!(
            path("o/n@refs/pr/1"),
            Path::new("/s/models/o/n@refs%2Fpr%2F1/n-Q4_0.gguf")
        );
    }
}
