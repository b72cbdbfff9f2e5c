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
    /// Mean square of the row that each group of 32 weights belongs to. Set for
    /// [`Weighing::ByRow`] with an importance matrix.
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

/// What an importance matrix makes a format's search need, beside the importances.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighing {
    /// Not even them: nothing is searched.
    Ignored,
    /// Nothing.
    Alone,
    /// [`Batch::row_square`].
    ByRow,
}

/// The encoder of one block format.
pub(super) trait Format {
    /// What an importance matrix asks for.
    const WEIGHING: Weighing = Weighing::Alone;

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

/// Sum of the squares of each run of `SUPER` weights, in order.
#[inline(always)]
pub(super) fn super_sums<S: Simd>(s: S, batch: &Batch<'_>) -> [f32; BATCH / SUPER] {
    let mut sums = [0.0; BATCH / SUPER];
    let add = AddSquares {
        x: batch.x,
        columns: SUPER,
        sums: &mut sums,
    };
    add.run(s);
    sums
}

/// Mean square of each run of `SUPER` weights, summed in order, times `factor`.
#[inline(always)]
pub(super) fn super_squares<S: Simd>(s: S, batch: &Batch<'_>, factor: f32) -> [f32; BATCH / SUPER] {
    super_sums(s, batch).map(|sum| factor * sum / SUPER as f32)
}

/// Of each lane's super-block the value, for sub-blocks of `n` weights from `group` on.
#[inline(always)]
pub(super) fn by_lane<S: Simd>(
    s: S,
    values: &[f32; BATCH / SUPER],
    group: usize,
    n: usize,
) -> S::F {
    let mut lanes = [0.0; 32];
    for (lane, value) in lanes[..S::LANES].iter_mut().enumerate() {
        *value = values[(group + lane) * n / SUPER];
    }
    s.load(&lanes)
}

/// Weights of the errors of x, to `w`: importance · √(σ² + x²), the importances of sub-blocks of
/// `N` weights, one per lane, from the start of `importance` on.
#[inline(always)]
pub(super) fn weigh<S: Simd, const N: usize>(
    s: S,
    importance: &[f32],
    sigma2: S::F,
    x: &[S::F; N],
    w: &mut [S::F; N],
) {
    s.columns(importance, N, w);
    for i in 0..N {
        w[i] = w[i] * s.sqrt(sigma2 + x[i] * x[i]);
    }
}

/// 1/d, or 0 where d is 0.
#[inline(always)]
pub(super) fn reciprocal<S: Simd>(s: S, d: S::F) -> S::F {
    s.select(s.ne(d, s.splat(0.0)), s.splat(1.0) / d, s.splat(0.0))
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
