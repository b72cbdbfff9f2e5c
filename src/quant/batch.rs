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
    /// Levels of the weights of a batch, where they cannot be recomputed.
    pub(super) levels: [u8; BATCH],
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
            levels: [0; BATCH],
        })
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

/// Mean square of each run of `SUPER` weights, summed in order, times `factor`.
#[inline(always)]
pub(super) fn super_squares<S: Simd>(
    s: S,
    x: &[f32; BATCH],
    len: usize,
    finish: impl Fn(S::F) -> S::F,
    to: &mut [f32; BATCH / SUPER],
) {
    let mut column = [s.splat(0.0); 16];
    for group in (0..len.div_ceil(SUPER)).step_by(S::LANES) {
        let mut sum = s.splat(0.0);
        for at in (0..SUPER).step_by(16) {
            s.columns(&x[group * SUPER + at..], SUPER, &mut column);
            for x in column {
                sum = sum + x * x;
            }
        }
        s.store(finish(sum), &mut to[group..]);
    }
}
