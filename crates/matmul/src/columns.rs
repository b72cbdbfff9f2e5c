//! Activations quantized to 8 bits.

use super::BLOCK;
use super::tiles::{COLUMNS, Q4_0, Q6_K, Q8_0, UNPACKED_CENTRED};
use bytemuck::{Pod, Zeroable};
use modelve_gguf::GgmlType;

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

/// What is subtracted from the bytes of weights of a type, where that is always the same.
pub(super) const fn centre(ty: u32) -> i32 {
    match ty {
        Q4_0 => 8,
        Q6_K | UNPACKED_CENTRED => 32,
        Q8_0 => 128,
        _ => 0,
    }
}

/// Returns whether weights of this type have a constant zero-point (`centre`) instead of minima.
pub(super) const fn is_centred(ty: u32) -> bool {
    centre(ty) != 0
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
