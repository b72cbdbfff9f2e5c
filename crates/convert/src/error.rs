//! Errors of a conversion.

use std::io;
use std::path::PathBuf;

use crate::{arch, checkpoint};
use modelve_base::human;
use modelve_gguf::GgmlType;

/// The reason why a conversion failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Architecture(#[from] arch::Error),
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    #[error(transparent)]
    Misfit(#[from] modelve_quant::mix::Misfit),
    #[error(transparent)]
    Quantized(#[from] checkpoint::Refused),
    #[error("the checkpoint lacks the tensor `{tensor}`")]
    Missing { tensor: String },
    #[error("the checkpoint holds {count} tensor(s) that the architecture does not know: {names}")]
    Surplus { count: usize, names: String },
    #[error("the tensor `{tensor}` has shape {found:?}; config.json asks for {wanted:?}")]
    Shape {
        tensor: String,
        found: Vec<u64>,
        wanted: Vec<u64>,
    },
    #[error("the tensor `{tensor}` is of type {dtype}; BF16, F16 and F32 can be converted")]
    Dtype { tensor: String, dtype: String },
    #[error("no expression of --tensor-type matches a tensor: {pattern}")]
    UnusedPattern { pattern: String },
    #[error(transparent)]
    Imatrix(#[from] modelve_quant::imatrix::Error),
    #[error("the type {ty} of tensor `{tensor}` cannot be written without --imatrix")]
    NeedsImatrix { tensor: String, ty: GgmlType },
    #[error("{}: {what}", path.display())]
    Io {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Output(#[from] modelve_base::outfile::Error),
    #[error("{} has {} free; {} are needed", path.display(), human::bytes(*available), human::bytes(*needed))]
    Space {
        path: PathBuf,
        available: u64,
        needed: u64,
    },
    #[error(
        "a file of {} is asked for; with these types it has {} to {}",
        human::bytes(*allowed), human::bytes(*least), human::bytes(*most)
    )]
    TooSmall { allowed: u64, least: u64, most: u64 },
    #[error("the tensor `{tensor}` holds {value} at row {row}, column {column}")]
    NotFinite {
        tensor: String,
        value: f32,
        row: u64,
        column: u64,
    },
    #[error("the tensor `{tensor}`: {problem}")]
    Encode { tensor: String, problem: String },
    #[error("{}: what was written differs from the plan: {problem}", path.display())]
    Verify { path: PathBuf, problem: String },
    #[error("interrupted")]
    Interrupted,
}
