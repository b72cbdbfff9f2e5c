//! Errors in a checkpoint; each names the file and what is wrong in it.

use std::io;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;

/// A problem with one file of a checkpoint.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct Error {
    /// The file, or the folder when a file is missing.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

impl Error {
    pub(crate) fn new(path: &Path, problem: impl Into<Problem>) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("cannot read: {0}")]
    Unreadable(io::Error),
    #[error(
        "holds an adapter ({kind}), not a model{}",
        base.as_ref().map(|base| format!("; it changes the weights of {base}")).unwrap_or_default()
    )]
    Adapter { kind: String, base: Option<String> },
    #[error("{0}")]
    Lora(String),
    #[error("is not a checkpoint folder: it has no config.json")]
    NoConfig,
    #[error("is not the JSON expected: {0}")]
    Json(serde_json::Error),
    #[error(
        "has no weights: neither model.safetensors nor model.safetensors.index.json{}",
        if *.pickled { "; its pytorch_model files must first be saved as safetensors" } else { "" }
    )]
    NoWeights { pickled: bool },
    #[error("the header of {len} bytes is cut off: the file has {file} bytes")]
    HeaderLength { len: u64, file: u64 },
    #[error("is not an intact safetensors file: {}", explain(.0))]
    Header(SafeTensorError),
    #[error("the tensor `{tensor}` is in two files")]
    DuplicateTensor { tensor: String },
    #[error(
        "`{shard}`, the file of tensor `{tensor}`, is not a plain file name; it would lead out of the folder"
    )]
    ShardName { tensor: String, shard: String },
    #[error("names the file `{shard}`, which is missing")]
    ShardAbsent { shard: String },
    #[error("holds the tensor `{tensor}`, which the index does not name")]
    NotInIndex { tensor: String },
    #[error("holds the tensor `{tensor}`, which the index expects in {stated}")]
    OtherShard { tensor: String, stated: String },
    #[error("does not hold the tensor `{tensor}` that the index expects in it")]
    OnlyInIndex { tensor: String },
    #[error("the tensor `{tensor}` {problem}")]
    Tensor { tensor: String, problem: String },
    #[error("has no {what}")]
    Absent { what: &'static str },
    #[error("{0}")]
    Tokenizer(String),
}

/// Rephrases the library's errors so that they name the likely cause.
fn explain(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => "it is shorter than the 8 bytes of a length".into(),
        SafeTensorError::HeaderTooLarge => "its header claims more than 100 MB".into(),
        SafeTensorError::InvalidHeaderLength => "its header is cut off".into(),
        SafeTensorError::InvalidHeader(e) => format!("its header is not UTF-8: {e}"),
        SafeTensorError::InvalidHeaderStart => "its header does not start with {".into(),
        SafeTensorError::InvalidHeaderDeserialization(e) => format!("its header: {e}"),
        SafeTensorError::InvalidOffset(name) => {
            format!("the data of `{name}` overlaps another tensor's or leaves a hole before it")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's length is not its shape times the size of its type".into()
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "its data is not as long as its header says; it may be truncated".into()
        }
        SafeTensorError::ValidationOverflow => "a shape overflows 64 bits".into(),
        other => other.to_string(),
    }
}
