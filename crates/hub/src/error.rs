//! Errors of the Hub and of fetching from it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::locate::get_command;
use super::select::SelectError;
use super::{HubId, bytes};

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Hub knows no such repository, or does not show it to this caller.
    #[error("no such model on {host}, or a private one: {repo}")]
    NoSuchRepo {
        /// `org/name`.
        repo: String,
        /// The Hub's host.
        host: String,
        /// Repositories that are named like it.
        near: Vec<String>,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision `{revision}`")]
    NoSuchRevision {
        /// `org/name`.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The Hub lists a file, but does not have it.
    #[error("{repo}: the Hub lists {file}, but does not have it")]
    NoSuchFile {
        /// `org/name`.
        repo: String,
        /// The file.
        file: String,
    },
    /// The licence must be accepted first.
    #[error("{repo} is gated: its files are only for those who accepted its licence")]
    Gated {
        /// `org/name`.
        repo: String,
        /// The page on which it is accepted.
        url: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// A login is needed, or the token is not valid.
    #[error("the Hub refuses {repo}: {}", if *token { "the token is not valid" } else { "it needs a token" })]
    Unauthorized {
        /// `org/name`.
        repo: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The token is valid, but does not give access.
    #[error("the Hub forbids access to {repo}{}", message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Forbidden {
        /// `org/name`.
        repo: String,
        /// The Hub's own message.
        message: Option<String>,
    },
    /// There was no answer, in several attempts.
    #[error("cannot reach {host}: {why}")]
    Unreachable {
        /// The host.
        host: String,
        /// The reason that the transport gives.
        why: String,
    },
    /// The answer did not end within the time allowed for it.
    #[error("{host} did not finish its answer within {:.0} s", limit.as_secs_f64())]
    TooSlow {
        /// The host.
        host: String,
        /// The time allowed.
        limit: Duration,
    },
    /// The answer was an error, and so were further attempts, or further attempts could not help.
    #[error("{host} answers {status}{}", message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Server {
        /// The host.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The server's own message.
        message: Option<String>,
    },
    /// The answer is not of the form that the Hub's API has.
    #[error("{host} gives an invalid answer: {why}")]
    Malformed {
        /// The host.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The connection broke in several attempts in a row that received nothing.
    #[error("{file}: the connection broke {attempts} times at {}: {why}", bytes(*at))]
    Cut {
        /// The file.
        file: String,
        /// How many times.
        attempts: u32,
        /// The number of bytes received so far.
        at: u64,
        /// The reason that the transport gives.
        why: String,
    },
    /// A file has another length than the Hub states.
    #[error("{file}: {got} bytes were received, but the Hub states {stated}")]
    WrongLength {
        /// The file.
        file: String,
        /// The value that the Hub states.
        stated: u64,
        /// The value of what was received.
        got: u64,
    },
    /// The headers are longer than the limit for files that are not fetched.
    #[error("{file}: more than {} would have to be read to know what is in it", bytes(*limit))]
    HeaderTooLong {
        /// The file.
        file: String,
        /// The number of bytes that may be read of all files together.
        limit: u64,
    },
    /// A file has another content than the Hub states.
    #[error("{file}: the received file has the hash {got}, but the Hub states {stated}")]
    WrongHash {
        /// The file.
        file: String,
        /// The value that the Hub states.
        stated: String,
        /// The value of what was received.
        got: String,
    },
    /// The Hub states no hash for a file.
    #[error("{file}: the Hub states no hash of it, so it cannot be verified")]
    NoChecksum {
        /// The file.
        file: String,
    },
    /// A file name or the shard index in the repository cannot be used.
    #[error("{repo}")]
    Select {
        /// `org/name`.
        repo: String,
        /// What is wrong.
        source: SelectError,
    },
    /// The index names a shard that the repository lacks.
    #[error("{repo}: the index names {shard}, but the repository does not have it")]
    NoShard {
        /// `org/name`.
        repo: String,
        /// The shard.
        shard: String,
    },
    /// The repository has no file that the program could use.
    #[error("{repo} has no {wanted}{}", if found.is_empty() { String::new() } else { format!(", only {}", found.join(", ")) })]
    NothingThere {
        /// `org/name`.
        repo: String,
        /// What was looked for.
        wanted: String,
        /// What is there instead.
        found: Vec<String>,
        /// Whether there is a checkpoint.
        checkpoint: bool,
    },
    /// The repository has no GGUF model that fits the label.
    #[error(
        "{} has no GGUF file {}, only {}",
        id.without_quant(), id.quant.as_deref().unwrap_or("at all"), names.join(", ")
    )]
    NoSuchLabel {
        /// What was asked for.
        id: HubId,
        /// The labels of the models that the repository has.
        names: Vec<String>,
    },
    /// The repository has several GGUF models that fit the label, or there is no label to choose
    /// by.
    #[error(
        "{} holds several GGUF files{}: {}",
        id.without_quant(),
        id.quant.as_deref().map(|label| format!(" that {label} fits")).unwrap_or_default(),
        names.join(", ")
    )]
    WhichGguf {
        /// What was asked for.
        id: HubId,
        /// Their labels.
        names: Vec<String>,
    },
    /// The repository holds GGUF models, but a checkpoint is wanted.
    #[error("{} holds GGUF files, which need no conversion, and no checkpoint: {}", id.without_quant(), names.join(", "))]
    OnlyGguf {
        /// What was asked for.
        id: HubId,
        /// Their labels.
        names: Vec<String>,
    },
    /// The network may not be used, and files are missing from the cache.
    #[error("{id} is not complete on this machine, and the network is off: missing {}", missing.join(", "))]
    Offline {
        /// What was asked for.
        id: HubId,
        /// The files that the cache lacks.
        missing: Vec<String>,
    },
    /// The disk has too little space.
    #[error(
        "{repo} does not fit on the disk: {} in {files} files, {} of it already here, leaves {} to fetch, and {} has {} free",
        bytes(*total), bytes(*here), bytes(total.saturating_sub(*here)), folder.display(), bytes(*free)
    )]
    NoSpace {
        /// `org/name`.
        repo: String,
        /// How many files are wanted.
        files: usize,
        /// Their bytes.
        total: u64,
        /// The bytes of them that are in the cache already.
        here: u64,
        /// The folder of the cache.
        folder: PathBuf,
        /// The bytes that are free there.
        free: u64,
    },
    /// A file on this machine cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file on this machine cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The user pressed Ctrl-C.
    #[error("interrupted{}", if *total == 0 { String::new() } else { format!(" with {} of {} fetched", bytes(*here), bytes(*total)) })]
    Interrupted {
        /// The bytes that are here and need not be fetched again.
        here: u64,
        /// The bytes of all files wanted.
        total: u64,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the Hub client: {why}")]
    Setup {
        /// Why.
        why: String,
    },
}

impl Error {
    /// What to do about it: a sentence, with a command where one helps.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NoSuchRepo { near, .. } if !near.is_empty() => {
                format!("did you mean {}?", near.join(" or "))
            }
            Error::NoSuchRepo { .. } => {
                "if it is private, set HF_TOKEN to a token that may read it".into()
            }
            Error::Gated { url, token, .. } if *token => {
                format!("accept the licence at {url} with the account of your token")
            }
            Error::Gated { url, .. } => {
                format!("accept the licence at {url} and set HF_TOKEN")
            }
            Error::Unauthorized { token: true, .. } => {
                "make a new token at https://huggingface.co/settings/tokens and set HF_TOKEN".into()
            }
            Error::Unauthorized { .. } => "set HF_TOKEN to a token that may read it".into(),
            Error::Forbidden { .. } => {
                "use a token (HF_TOKEN) that may read this repository".into()
            }
            Error::Unreachable { .. } | Error::TooSlow { .. } => {
                "check the network, HTTPS_PROXY and HF_ENDPOINT; --offline uses what is here".into()
            }
            Error::Cut { .. } | Error::Interrupted { .. } => {
                "run the same command again: it continues where it stopped".into()
            }
            Error::Server { status: 429, .. } => {
                "wait a while, or set HF_TOKEN: the Hub allows more requests with a token".into()
            }
            Error::WrongHash { .. } | Error::WrongLength { .. } => {
                "something between here and the Hub changes files: try without the proxy or mirror"
                    .into()
            }
            Error::NoChecksum { .. } => {
                "set HF_ENDPOINT to the Hub itself or another mirror".into()
            }
            Error::OnlyGguf { id, names } => {
                let label = id.quant.as_deref().and_then(|label| closest(label, names));
                let example = id
                    .with_quant(label.or(names.first().map(String::as_str))?)
                    .ok()?;
                format!("fetch one of them: {}", get_command(&example))
            }
            Error::WhichGguf { id, names } => {
                let example = id.with_quant(names.first()?).ok()?;
                format!("name one: {}", get_command(&example))
            }
            Error::NoSuchLabel { id, names } => {
                let label = id.quant.as_deref()?;
                let example = id.with_quant(closest(label, names)?).ok()?;
                format!("choose one of them: {}", get_command(&example))
            }
            Error::Offline { .. } => {
                "run it once without --offline (and without HF_HUB_OFFLINE)".into()
            }
            Error::NoSpace { .. } => {
                "make room, or set HF_HOME to a folder on a larger disk".into()
            }
            _ => return None,
        })
    }

    /// Returns whether asking again later could help.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::TooSlow { .. })
            || matches!(self, Error::Server { status, .. } if *status >= 500 || *status == 429)
    }
}

/// The name that is most like `label`.
fn closest<'a>(label: &str, names: &'a [String]) -> Option<&'a str> {
    let like = |name: &String| strsim::jaro_winkler(&name.to_ascii_uppercase(), label);
    let best = names.iter().max_by(|a, b| like(a).total_cmp(&like(b)))?;
    Some(best.as_str())
}
