//! The GGUF file format: reading and writing, without llama.cpp.
//!
//! A file is a header and a block of tensor data, all little endian:
//!
//! ```text
//! "GGUF"  version u32  tensors u64  pairs u64
//! pairs   × { key: string, type u32, value }              string: length u64, bytes
//! tensors × { name: string, dimensions u32, size u64 …, type u32, offset u64 }
//! padding to the alignment; then each tensor's data at its offset from here
//! ```
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing here trusts a
//! length: every count is checked against the bytes that remain before anything is allocated.
//!
//! ```
//! use modelve_gguf::{GgmlType, Header, Layout, Value};
//!
//! let metadata = [("general.architecture".to_owned(), Value::String("llama".to_owned()))];
//! let layout = Layout::new(&metadata, &[("x.weight".to_owned(), vec![2], GgmlType::F32)])?;
//! let mut file = layout.header().to_vec();
//! file.extend([1f32, 2.0].into_iter().flat_map(f32::to_le_bytes));
//! file.resize(layout.file_size() as usize, 0);
//!
//! let header = Header::parse(&file)?;
//! let architecture = header.get(&file, "general.architecture");
//! assert_eq!(architecture.and_then(|value| value.as_str()).as_deref(), Some("llama"));
//! let tensor = &header.tensors()[0];
//! assert_eq!((tensor.name.as_str(), tensor.ty), ("x.weight", GgmlType::F32));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod header;
mod read;
mod types;
mod value;
pub mod vocab;
mod write;

pub use error::{Error, Problem};
pub use header::{Header, TensorInfo};
pub use read::Gguf;
pub use types::{GgmlType, TypeInfo};
pub use value::{Array, ArrayRef, Value, ValueRef, ValueType};
pub use write::Layout;

/// The version that [`Layout`] writes. Version 2 has the same layout.
pub const VERSION: u32 = 3;
/// The alignment of tensor data in bytes where `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// Maximum depth of nested arrays in metadata. No known file nests any.
pub const MAX_ARRAY_DEPTH: usize = 4;
/// Maximum number of dimensions of a tensor in ggml; the least is one.
pub const MAX_DIMENSIONS: usize = 4;
