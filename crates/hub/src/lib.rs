//! Where models are: on the Hugging Face Hub, in its cache on this machine, and in modelve's own
//! folder of converted models. This crate has the only code that connects to other machines.
//!
//! | module | contents |
//! |---|---|
//! | [`locate`] | the files that a MODEL argument means; never uses the network |
//! | [`fetch()`] | transfer of a revision's files from the Hub into the cache, resumed and verified |
//! | [`preview`] | the contents of a repository, from the headers of its files |
//! | [`ggufs`] | GGUF files in a listing or folder, and the choice among them by a label |
//! | [`select`] | the files of a checkpoint, and which names are safe |
//! | [`cache`] | the layout that every Hugging Face library shares |
//! | [`store`] | the folder of converted models and of the built-in one |
//!
//! A fetch resolves the revision to a commit, lists the repository, chooses the files, and receives
//! each into a part file. The part file becomes a blob of the cache once its length and hash are
//! those that the Hub states. The layout of the cache is taken from the `hf-hub` crate. Requests
//! are made here, through one `reqwest` client, because each decides about limits, redirects and
//! the token, and transfers are resumed and verified.
//!
//! The label in a model's name chooses one of the files that a publisher offers:
//!
//! ```
//! use modelve_hub::HubId;
//! use modelve_hub::ggufs::{Choice, choose, gguf_models};
//!
//! let id: HubId = "microsoft/Phi-3-mini-4k-instruct-gguf:f16".parse()?;
//! let files = ["Phi-3-mini-4k-instruct-fp16.gguf", "Phi-3-mini-4k-instruct-q4.gguf"];
//! let models = gguf_models(files);
//! assert!(matches!(
//!     choose(&models, id.quant.as_deref()),
//!     Choice::One(model) if model.files == files[..1]
//! ));
//! # Ok::<(), modelve_hub::IdError>(())
//! ```
//!
//! Fetching needs the network unless the cache has the files:
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//!
//! use modelve_base::progress::Silent;
//! use modelve_hub::{FetchOptions, Wanted, fetch};
//!
//! let id = "microsoft/Phi-3-mini-4k-instruct-gguf:q4".parse()?;
//! let (options, cancel) = (FetchOptions::from_env(), AtomicBool::new(false));
//! let fetched = fetch(&id, Wanted::Gguf, &options, &Silent, &cancel)?;
//! println!("{}", fetched.gguf.unwrap_or(fetched.folder).display());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod api;
pub mod cache;
mod error;
mod failure;
mod fetch;
pub mod ggufs;
mod id;
pub mod locate;
mod near;
mod offline;
mod own;
pub mod preview;
mod refusal;
mod remote;
pub mod select;
mod space;
pub mod store;
mod tiny;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use cache::Cache;
pub use error::Error;
pub use id::{DEFAULT_QUANT, HubId, IdError};
use offline::missing_of_checkpoint;
pub use space::free_space;

use modelve_base::infile;
use modelve_base::progress::Progress;

/// Limit in bytes of a file that holds a token; tokens have about 40.
const LONGEST_TOKEN: u64 = 4096;

/// Which files of a repository to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Configuration, tokenizer, shard index and licence: everything but the weights.
    Description,
    /// The same, and the weights as safetensors.
    Checkpoint,
    /// The GGUF model that the id's label means, or the only one there is.
    Gguf,
    /// A checkpoint where the repository has one, a GGUF file otherwise.
    Any,
}

/// Options of a fetch.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Use only files that are in the cache.
    pub offline: bool,
    /// Read files that are in the cache and compare their hashes, instead of trusting their length.
    pub verify: bool,
    /// The Hub's address.
    pub endpoint: String,
    /// The access token, which is sent to the Hub and to no other server.
    pub token: Option<String>,
    /// The cache that files are fetched into.
    pub cache: Cache,
    /// Number of files that are fetched at the same time.
    pub parallel: usize,
    /// Number of attempts in a row at one request.
    pub attempts: u32,
    /// The wait between the first two attempts; each further one is twice as long.
    pub backoff: Duration,
    /// The time after which a connection that receives nothing is given up.
    pub silence: Duration,
    /// The time that the answer to one request for information (a commit, a listing with all of its
    /// pages) may take altogether. Transfers of files have no such limit, but within each span of
    /// this length they must receive at least a kibibyte a second.
    pub answer_time: Duration,
    /// Returns the free bytes of a folder's disk, or `None` where the system does not say.
    pub free_space: fn(&Path) -> Option<u64>,
}

impl FetchOptions {
    /// Options from the environment: HF_ENDPOINT, HF_TOKEN or the token file, HF_HOME and
    /// HF_HUB_CACHE, HF_HUB_OFFLINE.
    pub fn from_env() -> FetchOptions {
        let text = |name| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.trim().is_empty())
        };
        let on = |name| {
            text(name).is_some_and(|value| {
                matches!(
                    value.to_ascii_uppercase().as_str(),
                    "1" | "ON" | "YES" | "TRUE"
                )
            })
        };
        let token_file = || {
            let path =
                text("HF_TOKEN_PATH").map_or_else(|| cache::hf_home().join("token"), PathBuf::from);
            let token = String::from_utf8(infile::regular(&path, LONGEST_TOKEN).ok()?).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let token = if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            text("HF_TOKEN")
                .map(|token| token.trim().to_owned())
                .or_else(token_file)
        };
        FetchOptions {
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            verify: false,
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token,
            cache: Cache::from_env(),
            parallel: 4,
            attempts: 6,
            backoff: Duration::from_millis(500),
            silence: Duration::from_secs(30),
            answer_time: Duration::from_secs(120),
            free_space,
        }
    }
}

/// The result of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The folder with the files, under the names they have in the repository.
    pub folder: PathBuf,
    /// The commit they are from.
    pub commit: String,
    /// The repository, in the Hub's own spelling.
    pub repo: String,
    /// The GGUF file, or the first part of a split one, where that was fetched.
    pub gguf: Option<PathBuf>,
    /// Number of bytes that were received over the network.
    pub received: u64,
}

/// Fetches the wanted files of a model that the cache lacks.
///
/// Where the Hub cannot be reached but the cache has all files, those are used, and `progress` gets
/// a note. Setting `cancel` stops the fetch within a moment; what was received is kept and not
/// fetched again.
///
/// # Errors
/// Each variant of [`Error`]; [`Error::hint`] says what to do about it.
pub fn fetch(
    id: &HubId,
    wanted: Wanted,
    options: &FetchOptions,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Fetched, Error> {
    if options.offline {
        return offline::find(id, wanted, &options.cache);
    }
    match runtime()?.block_on(fetch::fetch(id, wanted, options, progress, cancel)) {
        Err(error) if error.is_unreachable() => match offline::find(id, wanted, &options.cache) {
            Ok(found) => {
                progress.note(&format!(
                    "{error}: using commit {} of {id}, which is here",
                    &found.commit[..12]
                ));
                Ok(found)
            }
            Err(_) => Err(error),
        },
        result => result,
    }
}

/// Makes the runtime of requests, which uses this thread only.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Setup { why: e.to_string() })
}

/// Formats a number of bytes for a message.
fn bytes(n: u64) -> String {
    modelve_base::human::bytes(n)
}
