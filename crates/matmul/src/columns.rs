//! Activations quantized to 8 bits.

use super::BLOCK;
use bytemuck::{Pod, Zeroable};
use modelve_gguf::GgmlType;

/// Columns that are multiplied with a block of weights while it lies in registers.
const COLUMNS: usize = 8;

/// 256 activations: byte × scale of its group of 16. The fields are told as AVX-512 fills them;
/// `avx2.rs` says what it puts there.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Block {
    /// Number `16 i + 4 j + b` is byte `b` of lane `i` of vector `j`.
    pub(super) bytes: [[i8; 64]; 4],
    /// Of every group of 16.
    pub(super) scales: [f32; 16],
    /// Of the bytes of every group of 16: the sum times the scale, a float, for weights with
    /// minima; the sum times the centre, negative, for weights around a centre.
    pub(super) sums: [i32; 16],
}

/// How many numbers share a scale: 256 beside weights of 256, 32 beside weights of 32, as in ggml.
pub(super) fn group(ty: GgmlType) -> usize {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q8_0 => 32,
        _ => BLOCK,
    }
}

/// How many of `n` columns are multiplied with a block of weights at once; the last ones may be
/// fewer.
pub(super) fn tile(n: usize) -> usize {
    n.div_ceil(n.div_ceil(COLUMNS))
}

/// Where block `b` of column `c` lies: the same blocks of a tile's columns side by side.
pub(super) fn place(c: usize, b: usize, n: usize, blocks: usize) -> usize {
    let first = c - c % tile(n);
    let together = tile(n).min(n - first);
    first * blocks + b * together + (c - first)
}
