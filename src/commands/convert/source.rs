//! Finds or fetches the checkpoint that MODEL names, and decides where its GGUF is written.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use serde_json::json;

use crate::commands::fetching;
use crate::convert::Provenance;
use crate::convert::arch::{self, Description};
use crate::hint::{UsageError, hinted};
use crate::hub::locate::ModelRef;
use crate::hub::store::store_path;
use crate::hub::{self, FetchOptions, HubId, Wanted};
use crate::progress::Progress;

/// The meaning of MODEL.
pub(super) enum Place {
    Folder(PathBuf),
    Hub(HubId),
}

/// A checkpoint on this machine.
pub(super) struct Found {
    pub(super) folder: PathBuf,
    pub(super) provenance: Provenance,
    /// Whether the weights are on this machine, too.
    pub(super) complete: bool,
    /// The GGUF file of a repository without a checkpoint.
    pub(super) gguf: Option<PathBuf>,
}

impl Place {
    /// Parses MODEL. A type in `quant` takes precedence over one in a Hub id.
    pub(super) fn parse(model: Option<&str>, quant: Option<&str>) -> anyhow::Result<Self> {
        match ModelRef::parse_or_default(model) {
            ModelRef::Hub(id) => Ok(Self::Hub(match quant {
                Some(quant) => id.with_quant(quant).map_err(|_| super::no_type(quant))?,
                None => id,
            })),
            ModelRef::Path(path) if !path.is_dir() => {
                let what = match path.exists() {
                    true => "is a file; a checkpoint is a folder with config.json and safetensors",
                    false => "does not exist",
                };
                let error = UsageError(format!("{} {what}", path.display()));
                let hint = "name a checkpoint folder, or a Hub id such as org/name";
                Err(hinted(
                    error,
                    fetching::or_like(&path.to_string_lossy(), hint),
                ))
            }
            ModelRef::Path(path) => Ok(Self::Folder(path)),
            ModelRef::Tiny => {
                Err(UsageError("`tiny` is built in and already converted".into()).into())
            }
        }
    }

    /// The type in a Hub id: `Q4_0` in `org/name:Q4_0`.
    pub(super) fn quant(&self) -> Option<&str> {
        match self {
            Self::Hub(id) => id.quant.as_deref(),
            Self::Folder(_) => None,
        }
    }

    pub(super) fn is_on_hub(&self) -> bool {
        matches!(self, Self::Hub(_))
    }

    /// The path to write: `asked` if given, else a file in the store for a Hub id, or `name` in the
    /// current folder for a checkpoint folder; `None` while that name is not known yet. A file in a
    /// folder that was asked for is named after the repository, unless `own_name` says that it holds
    /// another model. An empty path is the current folder.
    pub(super) fn output(
        &self,
        asked: Option<&Path>,
        label: &str,
        own_name: bool,
        name: Option<&str>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let into_folder = |folder: &Path| match (self, name) {
            (Self::Hub(id), _) if !own_name => {
                Some(folder.join(format!("{}-{}.gguf", id.name(), label)))
            }
            (_, Some(name)) => Some(folder.join(name)),
            (_, None) => None,
        };
        match (asked, self) {
            (Some(asked), _) if asked.is_dir() || asked.as_os_str().is_empty() => {
                Ok(into_folder(asked))
            }
            (Some(asked), _) => Ok(Some(asked.to_owned())),
            (None, Self::Hub(id)) => Ok(Some(store_path(id, label)?)),
            (None, Self::Folder(_)) => Ok(name.map(PathBuf::from)),
        }
    }

    /// Makes the folder of the output if it is in the store. A folder that the user named must
    /// exist.
    pub(super) fn make_folder(&self, output: &Path) -> anyhow::Result<()> {
        let folder = output
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        match (self, folder) {
            (Self::Hub(_), Some(folder)) => std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display())),
            _ => Ok(()),
        }
    }

    /// The argument MODEL for the other commands.
    pub(super) fn reference(&self, output: &Path, label: &str, chosen: bool) -> String {
        match self {
            Self::Hub(id) if !chosen => format!("{}:{label}", id.without_quant()),
            _ => output.display().to_string(),
        }
    }

    /// Finds or fetches the checkpoint or GGUF file. With [`Wanted::Description`], only the small
    /// files of a checkpoint on the Hub are fetched, unless the weights are already here.
    pub(super) fn find(
        &self,
        offline: bool,
        wanted: Wanted,
        progress: &dyn Progress,
        cancel: &AtomicBool,
    ) -> anyhow::Result<Found> {
        let id = match self {
            Self::Folder(folder) => {
                return Ok(Found {
                    folder: folder.clone(),
                    provenance: Provenance::default(),
                    complete: true,
                    gguf: None,
                });
            }
            Self::Hub(id) => id,
        };
        let options = fetching::options(offline);
        let mut complete = true;
        let fetched = match wanted {
            // A checkpoint that is already here has more information than a description.
            Wanted::Description => {
                let here = FetchOptions {
                    offline: true,
                    ..options.clone()
                };
                hub::fetch(id, Wanted::Checkpoint, &here, progress, cancel).or_else(|_| {
                    complete = false;
                    hub::fetch(id, Wanted::Description, &options, progress, cancel)
                })
            }
            wanted => hub::fetch(id, wanted, &options, progress, cancel),
        };
        let fetched = fetched.map_err(|error| match (wanted, &error, &id.quant) {
            (Wanted::Gguf, hub::Error::NothingThere { .. }, Some(label)) => super::no_type(label),
            _ => fetching::refused(id, error),
        })?;
        Ok(Found {
            complete,
            gguf: fetched.gguf,
            folder: fetched.folder,
            provenance: Provenance {
                repository: Some(fetched.repo),
                commit: Some(fetched.commit),
            },
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Hub(id) => write!(f, "{}", id.without_quant()),
        }
    }
}

/// The shape of Phi-3-mini, to compute sizes when no model is available.
pub(super) fn phi3_mini() -> anyhow::Result<Description> {
    let config = json!({
        "architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064,
    });
    Ok(arch::describe(&config)?)
}
