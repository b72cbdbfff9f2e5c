//! The input and scratch memory of the block formats' encoders: a batch of weights as f32.

use super::float16::{f16_to_f32, f32_to_f16};
use super::lanes::{Simd, Task};
use std::marker::PhantomData;

/// The number of weights in a batch: 16 super-blocks, so that work with one super-block per lane
/// fills 16 lanes, too; 16 KiB as f32, so that a batch stays in the L1 cache.
pub(super) const BATCH: usize = 4096;
/// The number of weights in a super-block, the block of the K formats (ggml's `QK_K`).
pub(super) const SUPER: usize = 256;
/// The number of weights in a block of the formats without super-blocks.
pub(super) const BLOCK: usize = 32;
/// Maximum number of sub-blocks in a batch; the smallest have 16 weights.
pub(super) const SUBS: usize = BATCH / 16;

/// Consecutive weights, row after row: whole blocks, then zeros.
pub(super) struct Batch<'a> {
    /// The weights.
    pub(super) x: &'a [f32; BATCH],
    /// The importance of each weight, if there is an importance matrix.
    pub(super) importance: Option<&'a [f32; BATCH]>,
    /// For each block of 32 weights, the mean square of its row. Valid only for
    /// [`ImatrixUse::WithRowSquares`] with an importance matrix.
    pub(super) row_square: &'a [f32; BATCH / BLOCK],
    /// The number of weights in use.
    pub(super) len: usize,
}

/// The results of the fits of a batch, indexed by sub-block, or by block of 32 weights for formats
/// without sub-blocks. [`super::fit::Affine`] explains the first four.
pub(super) struct Scratch {
    pub(super) scale: [f32; SUBS],
    pub(super) base: [f32; SUBS],
    pub(super) rate: [f32; SUBS],
    pub(super) from: [f32; SUBS],
    /// The sum of the weights in the error of each sub-block.
    pub(super) weight: [f32; SUBS],
    /// The quantized scales, then the quantized offsets of the sub-blocks.
    pub(super) codes: [[u8; SUBS]; 2],
    /// For each super-block, the scale of its scales (`d`), then of its offsets (`dmin`).
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

/// Adds the squares of the first `columns` weights of each row of `x` to `sums`. Rows start every
/// `SUPER` weights; there is one row per lane, summed in the order of the weights.
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

/// How a format uses an importance matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ImatrixUse {
    /// Not at all, because the format has no search.
    Ignored,
    /// The search needs the importances only.
    Importances,
    /// The search also needs [`Batch::row_square`].
    WithRowSquares,
}

/// The encoder of one block format.
pub(super) trait Format {
    /// How the format uses an importance matrix.
    const IMATRIX_USE: ImatrixUse = ImatrixUse::Importances;

    /// Encodes the batch to `out`, which is exactly as long as the blocks.
    fn encode<S: Simd>(simd: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]);
}

/// [`Format::encode`] as a [`Task`], to be run with an instruction set.
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

/// Stores `x` as a little-endian f16 and returns the stored value.
#[inline(always)]
pub(super) fn put_f16(to: &mut [u8], x: f32) -> f32 {
    let h = f32_to_f16(x);
    to[..2].copy_from_slice(&h.to_le_bytes());
    f16_to_f32(h)
}

/// Converts each number to the bits of an f16.
#[inline(always)]
pub(super) fn to_f16(x: &[f32; SUBS]) -> [u16; SUBS] {
    let mut halves = [0; SUBS];
    for (half, x) in halves.iter_mut().zip(x) {
        *half = f32_to_f16(*x);
    }
    halves
}

/// The sum of the squares of each super-block's weights, in the order of the weights.
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

/// The mean square of each super-block's weights, summed in their order, times `factor`.
#[inline(always)]
pub(super) fn super_squares<S: Simd>(s: S, batch: &Batch<'_>, factor: f32) -> [f32; BATCH / SUPER] {
    super_sums(s, batch).map(|sum| factor * sum / SUPER as f32)
}

/// For lanes that hold sub-blocks of `n` weights from sub-block `group` on, the value of each
/// lane's super-block.
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

/// Sets `w` to the weights of the errors of x: importance · √(σ² + x²). `importance` starts with
/// the importances of the sub-blocks of `N` weights that the lanes hold.
#[inline(always)]
pub(super) fn error_weights<S: Simd, const N: usize>(
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

/// Returns 1/d, or 0 where d is 0.
#[inline(always)]
pub(super) fn reciprocal<S: Simd>(s: S, d: S::F) -> S::F {
    s.select(s.ne(d, s.splat(0.0)), s.splat(1.0) / d, s.splat(0.0))
}

/// Sets lane `j` of `to[i]` to `from[j * N + i]`. Unlike [`Simd::columns`], it takes any N.
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
