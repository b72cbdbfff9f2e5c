//! Errors of reading and writing GGUF files. Each names the offset, key or tensor at fault.

use std::io;
use std::path::PathBuf;

/// A problem with one file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a file, or with what was to be written. Offsets are bytes from the start
/// of the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is empty")]
    Empty,
    #[error("is not a GGUF file: {0}")]
    Magic(String),
    #[error(
        "is a big-endian GGUF file (version bytes {0:02x?}); only little-endian files can be read"
    )]
    BigEndian([u8; 4]),
    #[error("has GGUF version {0}; versions 2 and 3 can be read")]
    Version(u32),
    #[error("ends at byte {len} in the middle of {what}, which starts at byte {offset}")]
    Truncated { what: String, offset: u64, len: u64 },
    #[error("{what} at byte {offset} claims {claimed}, but only {remaining} bytes remain")]
    Count {
        what: String,
        offset: u64,
        claimed: String,
        remaining: u64,
    },
    #[error("the {what} at byte {offset} is not valid UTF-8")]
    Utf8 { what: &'static str, offset: u64 },
    #[error("the value of `{key}` has unknown type {ty} at byte {offset}")]
    ValueType { key: String, ty: u32, offset: u64 },
    #[error("the value of `{key}` nests arrays more than {max} deep at byte {offset}", max = super::MAX_ARRAY_DEPTH)]
    TooDeep { key: String, offset: u64 },
    #[error("the truth value of `{key}` at byte {offset} is {value}, neither 0 nor 1")]
    Bool { key: String, offset: u64, value: u8 },
    #[error("the key `{key}` stands twice")]
    DuplicateKey { key: String },
    #[error("the tensor `{name}` stands twice")]
    DuplicateTensor { name: String },
    #[error("`general.alignment` is {0}; it must be a power of two")]
    Alignment(String),
    #[error(
        "with an alignment of {alignment} the tensor data would start at byte {start}, past the end at {len}"
    )]
    DataStart {
        alignment: u64,
        start: u64,
        len: u64,
    },
    #[error("tensor `{tensor}` has {n} dimensions; ggml has 1 to 4")]
    Dimensions { tensor: String, n: u32 },
    #[error("tensor `{tensor}` has shape {shape:?}, whose number of elements or bytes overflows")]
    Overflow { tensor: String, shape: Vec<u64> },
    #[error(
        "tensor `{tensor}` has rows of {row} weights, not a whole number of {ty} blocks of {block}"
    )]
    Row {
        tensor: String,
        ty: super::GgmlType,
        row: u64,
        block: u64,
    },
    #[error("tensor `{tensor}` has offset {offset}, not a multiple of the alignment {alignment}")]
    Misaligned {
        tensor: String,
        offset: u64,
        alignment: u64,
    },
    #[error(
        "the data of tensor `{tensor}` runs from byte {start} to {end}, past the end of the file at {len}"
    )]
    PastEnd {
        tensor: String,
        start: u64,
        end: u64,
        len: u64,
    },
    #[error("the data of tensors `{first}` and `{second}` overlap at byte {at}")]
    Overlap {
        first: String,
        second: String,
        at: u64,
    },
    #[error("is part {no} of {count} of a split model, but its name does not end in -{index:05}-of-{count:05}.gguf, so the other parts cannot be found", index = no + 1)]
    SplitName { no: u64, count: u64 },
    #[error("`split.{key}` is {value}, which contradicts {beside}")]
    SplitKey {
        key: &'static str,
        value: u64,
        beside: String,
    },
    #[error("tensor `{tensor}` has type {ty}, which cannot be written")]
    UnknownType { tensor: String, ty: super::GgmlType },
}
