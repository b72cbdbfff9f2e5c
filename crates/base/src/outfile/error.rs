//! Why an output was not written.

use std::io;
use std::path::PathBuf;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The output is a file that the command reads, under this name or another.
    #[error("{} is read by this command, so it cannot be written by it", path.display())]
    IsInput {
        /// The output.
        path: PathBuf,
    },
    /// The output is the file that the shell sends standard output or standard error to.
    #[error("{} is where {stream} goes already", path.display())]
    IsStream {
        /// The output.
        path: PathBuf,
        /// `standard output` or `standard error`.
        stream: &'static str,
    },
    /// Something has the name that may not be replaced.
    #[error("{} exists", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A pipe or a device where only a regular file will do, or a block device.
    #[error("{} is not a regular file, as this output must be", path.display())]
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// What has the name is not what had it when the command began.
    #[error("{} was changed by another program, so it is left as it is", path.display())]
    Changed {
        /// The output.
        path: PathBuf,
    },
    /// The system's own reason.
    #[error("cannot write {}", path.display())]
    Io {
        /// The output.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}
