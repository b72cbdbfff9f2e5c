//! Finds the files on disk that a MODEL argument means. Never uses the network.
//!
//! MODEL is a path, a Hub id (`org/name[@revision][:LABEL]`) or `tiny`. Without one it is
//! `$MODELVE_MODEL`, else [`DEFAULT`]. A Hub id is looked up in the store (which `convert` writes),
//! then in the Hub's cache (which this program and others fetch into).

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Snapshot};
use crate::ggufs::{self, Choice, LocalGguf};
use crate::missing_of_checkpoint;
pub use crate::near::paths_like;
use crate::near::{file_name, like, near_paths};
use crate::select;
pub use crate::store::{Store, store_path};
pub use crate::tiny::tiny_path;
pub use crate::{DEFAULT_QUANT, HubId};

/// The model that is meant where none is named.
pub const DEFAULT: &str = "microsoft/Phi-3-mini-128k-instruct:Q4_K_M";

/// What a MODEL argument can be, for hints of errors about one.
pub const KINDS: &str =
    "a model is a .gguf file, a checkpoint folder, a Hub id such as org/name:Q4_K_M, or `tiny`";

/// A parsed MODEL argument, before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A file or folder.
    Path(PathBuf),
    /// A repository on the Hub.
    Hub(HubId),
    /// The small model inside the program.
    Tiny,
}

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// A GGUF file; of a split model the first part.
    Gguf(PathBuf),
    /// A folder with `config.json` and safetensors.
    Checkpoint(PathBuf),
}

impl Located {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Located::Gguf(path) | Located::Checkpoint(path) => path,
        }
    }
}

/// The reason why a MODEL argument leads to no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The argument is neither an existing file or folder nor a Hub id.
    #[error("no such file or folder: {}", path.display())]
    NoSuchPath {
        /// The argument.
        path: PathBuf,
        /// Existing paths and models with similar names.
        near: Vec<String>,
    },
    /// The folder contains no model.
    #[error(
        "{} is not a model: it has neither a .gguf file nor config.json with .safetensors ({found})",
        folder.display()
    )]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// What is in it instead.
        found: String,
    },
    /// The folder contains more than one GGUF model.
    #[error("{} holds several models: {}", folder.display(), names.join(", "))]
    SeveralInFolder {
        /// The folder.
        folder: PathBuf,
        /// The first file of each.
        names: Vec<String>,
    },
    /// A split model lacks parts.
    #[error("{}: the first part of this split model is missing", path.display())]
    NoFirstPart {
        /// Where it should be.
        path: PathBuf,
    },
    /// Nothing of the Hub model is on this machine.
    #[error("{id} is not on this machine")]
    NotHere {
        /// What was asked for.
        id: HubId,
        /// Models on this machine with similar names.
        near: Vec<String>,
    },
    /// The Hub model is on this machine, but in other quantizations.
    #[error("{} is not on this machine as {quant}, only as {}", id.without_quant(), have.join(", "))]
    NoSuchQuant {
        /// What was asked for.
        id: HubId,
        /// The quantization that was asked for.
        quant: String,
        /// The quantizations that are on this machine.
        have: Vec<String>,
    },
    /// The Hub model is on this machine in several quantizations, and none was named, or the name
    /// fits several.
    #[error("{id} is on this machine as {}: name one", have.join(", "))]
    WhichQuant {
        /// What was asked for.
        id: HubId,
        /// The quantizations that are on this machine.
        have: Vec<String>,
    },
    /// A file or folder that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store or the built-in model cannot be used.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Error {
    /// What to do about it: a sentence, with a command where one helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoSuchPath { near, .. } if !near.is_empty() => {
                Some(format!("did you mean {}?", near.join(" or ")))
            }
            Error::NoSuchPath { .. } => Some(KINDS.to_owned()),
            Error::NoModel { .. } => {
                Some("name a .gguf file, or a folder as it is on the Hub".to_owned())
            }
            Error::SeveralInFolder { folder, names } => {
                let first = names.first()?;
                Some(format!(
                    "name one of them: {}",
                    folder.join(first).display()
                ))
            }
            Error::NoFirstPart { .. } => None,
            Error::NotHere { id, near } if !near.is_empty() => Some(format!(
                "did you mean {}? otherwise get it: {}",
                near.join(" or "),
                command_for(id)
            )),
            Error::NotHere { id, .. } => Some(format!("get it: {}", command_for(id))),
            Error::NoSuchQuant { id, have, .. } => Some(format!(
                "take {}:{}, or get it: {}",
                id.without_quant(),
                have.first()?,
                command_for(id)
            )),
            Error::WhichQuant { id, have } => {
                let repo = id.without_quant();
                Some(format!("for example {repo}:{}", have.first()?))
            }
            Error::Read { .. } => None,
            Error::Store(error) => error.hint(),
        }
    }
}

/// The command that puts `id` on this machine: `get` where the repository's name says that it holds
/// GGUF files, else `convert`, which makes one of a checkpoint and fetches one that is there.
pub fn command_for(id: &HubId) -> String {
    match id.quant.as_deref() {
        _ if holds_gguf(id) => get_command(id),
        Some(DEFAULT_QUANT) => format!("modelve convert {}", id.without_quant()),
        _ => format!("modelve convert {id}"),
    }
}

/// The command that fetches a GGUF file, or a checkpoint, as it is.
pub fn get_command(id: &HubId) -> String {
    format!("modelve get {id}")
}

/// Returns whether a repository holds GGUF files, which need no conversion, judging by its name.
fn holds_gguf(id: &HubId) -> bool {
    id.name().to_ascii_lowercase().contains("gguf")
}

impl ModelRef {
    /// Reads a MODEL argument. A file or folder that exists wins over a Hub id of that form.
    pub fn parse(text: &str) -> ModelRef {
        if text == "tiny" {
            return ModelRef::Tiny;
        }
        let path = PathBuf::from(text);
        // A Hub id can have a file's name after its colon.
        let named = |text: &str| {
            let text = text.to_ascii_lowercase();
            text.ends_with(".gguf") || text.ends_with(".safetensors")
        };
        let like_a_path = text.starts_with(['.', '/', '~'])
            || (named(text) && !text.contains(':'))
            || text.contains('\\')
            || path.exists();
        match text.parse() {
            Ok(id) if !like_a_path => ModelRef::Hub(id),
            _ => ModelRef::Path(path),
        }
    }

    /// The argument, else `$MODELVE_MODEL`, else [`DEFAULT`].
    pub fn parse_or_default(model: Option<&str>) -> ModelRef {
        let from_env = std::env::var("MODELVE_MODEL").ok();
        let named = model.or(from_env.as_deref().filter(|text| !text.is_empty()));
        ModelRef::parse(named.unwrap_or(DEFAULT))
    }
}

/// Finds the files of a MODEL argument; `None` as in [`ModelRef::parse_or_default`].
///
/// # Errors
/// When there is no such model here; [`Error::hint`] then says how to get one.
pub fn locate(model: Option<&str>) -> Result<Located, Error> {
    match ModelRef::parse_or_default(model) {
        ModelRef::Path(path) => {
            let store = Store::from_env().ok();
            let mut known = store.map_or_else(Vec::new, |store| known(&store, &Cache::from_env()));
            known.push("tiny".to_owned());
            locate_path(&path, &known)
        }
        ModelRef::Hub(id) => locate_hub(&id, &Store::from_env()?, &Cache::from_env()),
        ModelRef::Tiny => Ok(Located::Gguf(tiny_path()?)),
    }
}

/// Finds the model in a file or folder. `known` are Hub ids to suggest for a mistyped name.
pub fn locate_path(path: &Path, known: &[String]) -> Result<Located, Error> {
    let meta = fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NoSuchPath {
            path: path.to_owned(),
            near: near_paths(path, known),
        },
        _ => Error::Read {
            path: path.to_owned(),
            source,
        },
    })?;
    if meta.is_dir() {
        return locate_folder(path);
    }
    let name = file_name(path);
    if name == "config.json" || name.ends_with(".safetensors") || name == select::INDEX {
        return locate_folder(path.parent().unwrap_or(Path::new(".")));
    }
    first_part(path).map(Located::Gguf)
}

/// The path of the first part of a split model; `path` itself for any other file.
fn first_part(path: &Path) -> Result<PathBuf, Error> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match ggufs::split_part(&stem) {
        Some((name, part, of)) if part != 1 => {
            let first = path.with_file_name(format!("{name}-00001-of-{of:05}.gguf"));
            if first.is_file() {
                Ok(first)
            } else {
                Err(Error::NoFirstPart { path: first })
            }
        }
        _ => Ok(path.to_owned()),
    }
}

fn locate_folder(folder: &Path) -> Result<Located, Error> {
    let names = file_names(folder)?;
    let has_weights = names.iter().any(|name| name.ends_with(".safetensors"));
    if has_weights && names.iter().any(|name| name == "config.json") {
        return Ok(Located::Checkpoint(folder.to_owned()));
    }
    let models = ggufs::gguf_models(names.iter().map(String::as_str));
    match models.as_slice() {
        [one] => first_part(&folder.join(&one.files[0])).map(Located::Gguf),
        [] => Err(Error::NoModel {
            folder: folder.to_owned(),
            found: describe(&names),
        }),
        several => Err(Error::SeveralInFolder {
            folder: folder.to_owned(),
            names: several.iter().map(|m| m.files[0].clone()).collect(),
        }),
    }
}

/// Finds a Hub model in the store, then in the Hub's cache.
pub fn locate_hub(id: &HubId, store: &Store, cache: &Cache) -> Result<Located, Error> {
    let snapshot = cache.snapshot(id);
    let here = ggufs_of(id, store, snapshot.as_ref());
    match (ggufs::choose(&here, id.quant.as_deref()), &id.quant) {
        (Choice::One(found), _) => return Ok(Located::Gguf(found.path.clone())),
        (Choice::Several(several), _) => {
            return Err(Error::WhichQuant {
                id: id.clone(),
                have: ggufs::unique_labels(&here, several),
            });
        }
        (Choice::None, Some(quant)) if !here.is_empty() => {
            return Err(Error::NoSuchQuant {
                id: id.clone(),
                quant: quant.clone(),
                have: ggufs::unique_labels(&here, &here),
            });
        }
        (Choice::None, Some(_)) => return Err(not_here(id, store, cache)),
        (Choice::None, None) => {}
    }
    match snapshot {
        // An incomplete checkpoint does not count: `convert` fetches the rest of it.
        Some(Snapshot { folder, .. })
            if missing_of_checkpoint(&folder, true).is_ok_and(|missing| missing.is_empty()) =>
        {
            Ok(Located::Checkpoint(folder))
        }
        _ => Err(not_here(id, store, cache)),
    }
}

/// The GGUF models of a repository that are on this machine. Of two with the same label, the
/// converted one counts and the fetched one does not.
fn ggufs_of(id: &HubId, store: &Store, snapshot: Option<&Snapshot>) -> Vec<LocalGguf> {
    let mut here = store.ggufs(id);
    let made: Vec<String> = here
        .iter()
        .map(|gguf| gguf.model.label().to_owned())
        .collect();
    let fetched = snapshot.map(|snapshot| ggufs::local_ggufs(&snapshot.folder));
    here.extend(fetched.into_iter().flatten().filter(|gguf| {
        let label = gguf.model.label();
        !made.iter().any(|made| made.eq_ignore_ascii_case(label))
    }));
    here
}

/// The Hub ids of which the store or the cache holds anything.
fn known(store: &Store, cache: &Cache) -> Vec<String> {
    let mut known = store.repos();
    known.extend(cache.repos());
    known.sort();
    known.dedup();
    known
}

fn not_here(id: &HubId, store: &Store, cache: &Cache) -> Error {
    let mut near: Vec<String> = like(&id.repo, &known(store, cache), |known| known);
    near.retain(|repo| *repo != id.repo);
    near.extend(paths_like(&id.repo));
    Error::NotHere {
        id: id.clone(),
        near,
    }
}

/// The names of the files directly in `folder`, sorted.
fn file_names(folder: &Path) -> Result<Vec<String>, Error> {
    let read = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A few of the names, for an error message.
fn describe(names: &[String]) -> String {
    match names {
        [] => "no files".to_owned(),
        _ => {
            let mut text = format!("only {}", names[..names.len().min(5)].join(", "));
            if names.len() > 5 {
                text += &format!(" and {} more", names.len() - 5);
            }
            text
        }
    }
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
