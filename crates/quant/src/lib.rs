//! Chooses a quantization type for each tensor, and encodes rows of weights to blocks of that type,
//! with the same bytes that llama.cpp would write.
//!
//! [`Encoder`] is the entry point. This crate implements encoders for the formats in wide use, ten
//! times as fast as ggml's, and compares their bytes with ggml's when an encoder is made. All other
//! formats are encoded by ggml.
//!
//! - [`mix`]: recipes, and the types they give to tensors
//! - [`budget`]: the best choice of one type for each tensor under a limit of bytes
//! - [`imatrix`]: how much each column of a matrix matters, measured on a text
//! - [`encode`](self::Encoder): checks, batches, the choice of the encoder; `input`: its source
//!   rows
//! - `agree`: the comparison with ggml's encoders
//! - `lanes`: vectors of f32 on AVX-512, AVX2, NEON and plain Rust
//! - `fit`: the searches for scales and offsets, one sub-block per lane
//! - `k_affine`, `k_symmetric`, `legacy`, `nonlinear`: the block formats
//! - `narrow`: conversions between f32, f16 and bf16
//! - `ggml_ffi`: the calls into ggml
//!
//! ```
//! use modelve_gguf::GgmlType;
//! use modelve_quant::{Encoder, SourceType, dequantize_rows};
//!
//! let row: Vec<f32> = (0..256).map(|i| (i as f32 / 8.0).sin()).collect();
//! let source: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
//! let mut blocks = vec![0; 144];
//! let mut encoder = Encoder::new(GgmlType::Q4_K)?;
//! encoder.encode_rows(SourceType::F32, &source, row.len(), None, &mut blocks)?;
//!
//! let mut read = vec![0.0; row.len()];
//! dequantize_rows(GgmlType::Q4_K, &blocks, &mut read)?;
//! assert!(row.iter().zip(&read).all(|(a, b)| (a - b).abs() < 0.1));
//! # Ok::<(), modelve_quant::Error>(())
//! ```

mod agree;
mod batch;
pub mod budget;
mod encode;
mod fit;
mod float16;
mod ggml_ffi;
pub mod imatrix;
mod input;
mod k_affine;
mod k_symmetric;
mod lanes;
mod legacy;
pub mod mix;
mod narrow;
mod nonlinear;

pub use encode::Encoder;
pub use modelve_base::isa::Isa;

use modelve_gguf::GgmlType;

/// The float type of the weights of a source row, stored little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// IEEE 754 half precision, 2 bytes.
    F16,
    /// bfloat16, the upper half of an f32, 2 bytes.
    Bf16,
}

impl SourceType {
    /// The size in bytes of one weight.
    pub fn bytes(self) -> usize {
        match self {
            SourceType::F32 => 4,
            SourceType::F16 | SourceType::Bf16 => 2,
        }
    }
}

/// Errors of encoding and decoding. Rows and columns are counted from 0 within the call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// ggml has no quantizer (or no dequantizer) for the type, or the number names no type.
    #[error("{0} is not a type that weights can be converted to or from")]
    Unsupported(GgmlType),
    /// The type cannot be encoded without an importance matrix.
    #[error("{0} needs an importance matrix")]
    NeedsImatrix(GgmlType),
    /// A row is not a whole, positive number of blocks.
    #[error("a row of {weights} weights is not a whole number of {ty} blocks")]
    RowLength {
        /// The type.
        ty: GgmlType,
        /// The number of weights in the row.
        weights: usize,
    },
    /// A slice does not have the length that the rows and the type require.
    #[error("{what} should have length {expected}, not {actual}")]
    Length {
        /// What the slice holds.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The required length.
        expected: usize,
    },
    /// A weight is NaN or infinite.
    #[error("weight {value} in row {row}, column {column}")]
    NonFinite {
        /// The row of the weight.
        row: usize,
        /// The column of the weight.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// A block's f16 scale or offset, or an f16 weight, would be infinite.
    #[error("weights in row {row} from column {column} on are too large for {ty}")]
    Overflow {
        /// The type.
        ty: GgmlType,
        /// The row of the block.
        row: usize,
        /// The first column of the block.
        column: usize,
    },
    /// An importance is NaN, infinite or negative.
    #[error("importance {value} of column {column}")]
    Importance {
        /// The column of the importance.
        column: usize,
        /// The importance.
        value: f32,
    },
    /// The CPU does not have the requested instruction set.
    #[error("this CPU does not have {0}")]
    Isa(Isa),
}

/// Decodes blocks of `ty` to `dst.len()` weights, with ggml's decoder.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::RowLength`], or [`Error::Length`] if `src` is not exactly the
/// blocks of `dst.len()` weights.
pub fn dequantize_rows(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), Error> {
    if ty == GgmlType::F32 {
        expect_length("the weights", src.len(), dst.len() * 4)?;
        for (to, from) in dst.iter_mut().zip(src.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        return Ok(());
    }
    ggml_ffi::dequantize(ty, src, dst)
}

/// The size in bytes of a row of `n` weights.
fn row_bytes(ty: GgmlType, n: usize) -> Result<usize, Error> {
    let bytes = ty.row_bytes(n as u64).filter(|_| n > 0);
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or(Error::RowLength { ty, weights: n })
}

/// Returns an error unless a slice has the expected length.
fn expect_length(what: &'static str, actual: usize, expected: usize) -> Result<(), Error> {
    if actual == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            actual,
            expected,
        })
    }
}
