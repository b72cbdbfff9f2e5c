//! The errors of workers and of the way to them.

use std::io;
use std::path::PathBuf;

/// An error about a worker, a key or a cache. Names the worker or file it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key file that cannot be used.
    #[error("{}: {what}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A key file that cannot be read or written.
    #[error("{}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Other machines could reach the worker, and there is no key.
    #[error("{address} can be reached by other machines, and there is no key")]
    Open {
        /// The address.
        address: String,
    },
    /// The folder for tensors cannot be used.
    #[error("cannot keep tensors in {}", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// ggml's server did not start.
    #[error("ggml's server did not start: {0}")]
    Child(String),
    /// There is nobody at the address.
    #[error("the worker {worker} cannot be reached")]
    Unreachable {
        /// The worker, as the user named it.
        worker: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The worker ended the connection before it was authenticated.
    #[error("the worker {worker} did not accept the key")]
    Refused {
        /// The worker, as the user named it.
        worker: String,
    },
    /// Whoever answers is not a worker with this key.
    #[error("{worker} does not prove that it is a worker with this key")]
    Impostor {
        /// The worker, as the user named it.
        worker: String,
    },
    /// The worker serves somebody else.
    #[error("the worker {worker} is in use by {by}")]
    Busy {
        /// The worker, as the user named it.
        worker: String,
        /// Its client.
        by: String,
    },
    /// The worker has another version of ggml.
    #[error("the worker {worker} has {theirs}, this program {ours}")]
    Version {
        /// The worker, as the user named it.
        worker: String,
        /// Its version.
        theirs: String,
        /// This program's version.
        ours: String,
    },
    /// The worker went away, or broke the protocol.
    #[error("the worker {worker} is lost: {reason}")]
    Lost {
        /// The worker, as the user named it.
        worker: String,
        /// What happened.
        reason: String,
    },
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
