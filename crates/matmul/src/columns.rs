//! Activations quantized to 8 bits.

use super::BLOCK;
use bytemuck::{Pod, Zeroable};
use modelve_gguf::GgmlType;

/// Maximum number of columns that are multiplied with a block of weights while it is in registers.
const MAX_TILE_WIDTH: usize = 8;

/// 64 bytes of packed activations, aligned to a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

/// 256 activations, quantized: activation = byte × scale of its group of 16. The fields are
/// documented as the AVX-512 kernels fill them; the AVX2 layout is documented at `pack` in
/// `avx2.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Block {
    /// Activation `16 i + 4 j + b` is byte `b` of 32-bit lane `i` of vector `j`.
    pub(super) bytes: [[i8; 64]; 4],
    /// The scale of each group of 16.
    pub(super) scales: [f32; 16],
    /// For each group of 16, the sum of its bytes: multiplied by the scale and stored as an `f32`
    /// for weights with minima; multiplied by the negated zero-point for weights with a constant
    /// zero-point.
    pub(super) sums: [i32; 16],
}

/// The number of activations that share a scale. As in ggml, this is the block size of the weights:
/// 256 for the K types, 32 for the others.
pub(super) fn group(ty: GgmlType) -> usize {
    match ty {
        GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => BLOCK,
        _ => 32,
    }
}

/// The number of blocks in a column of `width` activations.
pub(super) fn blocks(width: usize) -> usize {
    width.div_ceil(BLOCK)
}

/// The number of columns in a tile, out of `n`: those that are multiplied with a block of weights
/// at once. The last tile may be narrower.
pub(super) fn tile_width(n: usize) -> usize {
    n.div_ceil(n.div_ceil(MAX_TILE_WIDTH))
}

/// The column and the block in it of the `i`-th [`Block`] among `n` columns of `blocks` blocks each.
/// Within a tile, the blocks of all columns with the same place in their column are adjacent.
pub(super) fn block_at(i: usize, n: usize, blocks: usize) -> (usize, usize) {
    let first = i / (tile_width(n) * blocks) * tile_width(n);
    let together = tile_width(n).min(n - first);
    let i = i - first * blocks;
    (first + i % together, i / together)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_each_column_has_one_place() {
        for n in 1..=40 {
            let mut places: Vec<_> = (0..n * 3).map(|i| block_at(i, n, 3)).collect();
            places.sort_unstable();
            let expected: Vec<_> = (0..n).flat_map(|c| (0..3).map(move |b| (c, b))).collect();
            assert_eq!(places, expected, "{n} columns");
        }
    }
}
