//! What the encoders of block formats work on: a batch of widened weights and scratch for it.

use super::float16::{f16_to_f32, f32_to_f16};
use super::lanes::{Simd, Task};
use std::marker::PhantomData;

/// Weights in a batch: 16 super-blocks, so that per-super-block work fills 16 lanes too; 16 KiB
/// of f32, so that a batch stays in the first-level cache.
pub(super) const BATCH: usize = 4096;
/// Weights of a super-block, the unit of the K formats (ggml's `QK_K`).
pub(super) const SUPER: usize = 256;
/// Weights of a block of the older formats.
pub(super) const BLOCK: usize = 32;
/// Most sub-blocks in a batch: 16 weights each.
pub(super) const SUBS: usize = BATCH / 16;

/// Consecutive weights, row after row: whole blocks, zeros after them.
pub(super) struct Batch<'a> {
    /// The weights.
    pub(super) x: &'a [f32; BATCH],
    /// Their importances, where there is an importance matrix.
    pub(super) importance: Option<&'a [f32; BATCH]>,
    /// Mean square of the row that each group of 32 weights belongs to. Set for the older
    /// formats with an importance matrix.
    pub(super) row_square: &'a [f32; BATCH / BLOCK],
    /// Weights in use.
    pub(super) len: usize,
}

/// Results of the fits, by sub-block (or by 32-weight block), and levels.
pub(super) struct Scratch {
    pub(super) scale: [f32; SUBS],
    pub(super) base: [f32; SUBS],
    pub(super) rate: [f32; SUBS],
    pub(super) from: [f32; SUBS],
    pub(super) weight: [f32; SUBS],
    /// Quantized scales and offsets of the sub-blocks.
    pub(super) codes: [[u8; SUBS]; 2],
    /// Scale and offset of each super-block.
    pub(super) whole: [[f32; BATCH / SUPER]; 2],
}

impl Scratch {
    pub(super) fn new() -> Box<Self> {
        Box::new(Scratch {
            scale: [0.0; SUBS],
            base: [0.0; SUBS],
            rate: [0.0; SUBS],
            from: [0.0; SUBS],
            weight: [0.0; SUBS],
            codes: [[0; SUBS]; 2],
            whole: [[0.0; BATCH / SUPER]; 2],
        })
    }
}

/// Adds the squares of `columns` weights of each of the first rows of `x`, which lie `SUPER`
/// apart, to `sums`: one row per lane, in the order of the weights.
pub(super) struct AddSquares<'a> {
    pub(super) x: &'a [f32; BATCH],
    pub(super) columns: usize,
    pub(super) sums: &'a mut [f32; BATCH / SUPER],
}

impl Task for AddSquares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut column = [s.splat(0.0); 16];
        for (group, sums) in self.sums.chunks_exact_mut(S::LANES).enumerate() {
            let rows = &self.x[group * S::LANES * SUPER..];
            let mut sum = s.load(sums);
            for at in (0..self.columns).step_by(16) {
                s.columns(&rows[at..], SUPER, &mut column);
                for x in column {
                    sum = sum + x * x;
                }
            }
            s.store(sum, sums);
        }
    }
}

/// The encoder of one block format.
pub(super) trait Format {
    /// Encodes the batch's blocks to `out`, which holds exactly them.
    fn encode<S: Simd>(simd: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]);
}

/// [`Format::encode`] as work for an instruction set.
pub(super) struct Encode<'a, T> {
    pub(super) batch: Batch<'a>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) out: &'a mut [u8],
    pub(super) format: PhantomData<T>,
}

impl<T: Format> Task for Encode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        T::encode(simd, &self.batch, self.scratch, self.out);
    }
}

/// Stores `x` as f16, little-endian, and hands back what was stored.
#[inline(always)]
pub(super) fn put_f16(to: &mut [u8], x: f32) -> f32 {
    let h = f32_to_f16(x);
    to[..2].copy_from_slice(&h.to_le_bytes());
    f16_to_f32(h)
}

/// The f16 of each, as bits.
#[inline(always)]
pub(super) fn to_f16(x: &[f32; SUBS]) -> [u16; SUBS] {
    let mut halves = [0; SUBS];
    for (half, x) in halves.iter_mut().zip(x) {
        *half = f32_to_f16(*x);
    }
    halves
}

/// Mean square of each run of `SUPER` weights, summed in order, times `factor`.
#[inline(always)]
pub(super) fn super_squares<S: Simd>(s: S, batch: &Batch<'_>, factor: f32) -> [f32; BATCH / SUPER] {
    let mut squares = [0.0; BATCH / SUPER];
    let add = AddSquares {
        x: batch.x,
        columns: SUPER,
        sums: &mut squares,
    };
    add.run(s);
    for square in &mut squares {
        *square = factor * *square / SUPER as f32;
    }
    squares
}

/// Lane `j` of `to[i]` is `from[j * N + i]`, for N that need not fill a tile.
#[inline(always)]
pub(super) fn gather<S: Simd, const N: usize>(s: S, from: &[f32], to: &mut [S::F; N]) {
    let mut lanes = [0.0; 32];
    for (i, to) in to.iter_mut().enumerate() {
        for lane in 0..S::LANES {
            lanes[lane] = from[lane * N + i];
        }
        *to = s.load(&lanes);
    }
}
