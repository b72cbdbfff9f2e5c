//! Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: independent blocks of 32 weights.
//!
//! ```text
//! Q4_0, 18 bytes: d f16 | 4-bit levels: 16                     x = d · (l − 8)
//! Q4_1, 20 bytes: d f16 | m f16 | 4-bit levels: 16             x = d · l + m
//! Q5_0, 22 bytes: d f16 | fifth bits: 4 | low 4 bits: 16       x = d · (l − 16)
//! Q5_1, 24 bytes: d f16 | m f16 | fifth bits: 4 | low 4 bits: 16
//! Q8_0, 34 bytes: d f16 | i8 levels: 32                        x = d · l
//! ```
//!
//! Byte i of the 4-bit levels holds weight i in its low half and weight i + 16 in its high half;
//! bit i of the fifth bits belongs to weight i. Without an importance matrix there is no search:
//! the scale maps the extreme weight to the end of the levels. With one (except for Q8_0) the
//! searches are those of the K formats, weighted by importance · √(σ² + x²), where σ² is the mean
//! square of the whole row.

use super::batch::{BATCH, BLOCK, Batch, Format, ImatrixUse, SUBS, Scratch};
use super::batch::{error_weights, reciprocal, to_f16};
use super::fit::{self, Grid};
use super::lanes::Simd;

/// Loads blocks from block `group` on, one per lane.
#[inline(always)]
fn load<S: Simd>(s: S, from: &[f32; BATCH], group: usize, to: &mut [S::F; BLOCK]) {
    s.columns(&from[group * BLOCK..], BLOCK, to);
}

/// Fits without a search: the weight of largest magnitude gets level −half.
#[inline(always)]
fn scale_by_extreme<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, half: f32) {
    let mut x = [s.splat(0.0); BLOCK];
    for group in (0..batch.len / BLOCK).step_by(S::LANES) {
        load(s, batch.x, group, &mut x);
        let (extreme, _) = fit::extreme(s, &x);
        let d = extreme / s.splat(-half);
        s.store(d, &mut scratch.scale[group..]);
        s.store(reciprocal(s, d), &mut scratch.rate[group..]);
        s.store(s.splat(0.0), &mut scratch.from[group..]);
    }
}

/// Fits without a search: the range of the weights is mapped to the range of the levels.
#[inline(always)]
fn scale_by_range<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, top: f32) {
    let mut x = [s.splat(0.0); BLOCK];
    for group in (0..batch.len / BLOCK).step_by(S::LANES) {
        load(s, batch.x, group, &mut x);
        let (mut low, mut high) = (s.splat(f32::MAX), s.splat(-f32::MAX));
        for x in &x {
            low = s.min(*x, low);
            high = s.max(*x, high);
        }
        let d = (high - low) / s.splat(top);
        s.store(d, &mut scratch.scale[group..]);
        s.store(low, &mut scratch.base[group..]);
        s.store(reciprocal(s, d), &mut scratch.rate[group..]);
        s.store(low, &mut scratch.from[group..]);
    }
}

/// Fits x ≈ scale · l with [`fit::symmetric`].
#[inline(always)]
fn fit_symmetric<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    importance: &[f32; BATCH],
    scratch: &mut Scratch,
    half: f32,
) {
    let (mut x, mut w) = ([s.splat(0.0); BLOCK], [s.splat(0.0); BLOCK]);
    for group in (0..batch.len / BLOCK).step_by(S::LANES) {
        load(s, batch.x, group, &mut x);
        let sigma2 = s.load(&batch.row_square[group..]);
        error_weights(s, &importance[group * BLOCK..], sigma2, &x, &mut w);
        let fit = fit::symmetric(s, &x, &w, half);
        s.store(fit.scale, &mut scratch.scale[group..]);
        s.store(fit.rate, &mut scratch.rate[group..]);
        s.store(s.splat(0.0), &mut scratch.from[group..]);
    }
}

/// Fits x ≈ scale · l + base with [`fit::affine`].
#[inline(always)]
fn fit_affine<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    importance: &[f32; BATCH],
    scratch: &mut Scratch,
    top: f32,
) {
    let grid = Grid {
        top,
        first: -0.9,
        step: 0.05,
        tries: 36,
        absolute: false,
        clamped: true,
    };
    let (mut x, mut w) = ([s.splat(0.0); BLOCK], [s.splat(0.0); BLOCK]);
    for group in (0..batch.len / BLOCK).step_by(S::LANES) {
        load(s, batch.x, group, &mut x);
        let sigma2 = s.load(&batch.row_square[group..]);
        error_weights(s, &importance[group * BLOCK..], sigma2, &x, &mut w);
        let fit = fit::affine(s, &x, &w, grid);
        s.store(fit.scale, &mut scratch.scale[group..]);
        s.store(fit.base, &mut scratch.base[group..]);
        s.store(fit.rate, &mut scratch.rate[group..]);
        s.store(fit.from, &mut scratch.from[group..]);
    }
}

/// How scaled weights are rounded to levels.
#[derive(Clone, Copy)]
enum Rounding {
    /// Add `add`, truncate to a byte, and limit to `top`.
    Up { add: f32, top: i32 },
    /// Round to nearest, ties to even, clamp to −half..half, and add `half`; 0 if the rate is 0.
    Symmetric { half: i32 },
    /// Clamp to 0..=top, then round to nearest, ties to even.
    Clamped { top: f32 },
}

/// The levels of a vector of weights, rounded from rate · (x − from).
#[inline(always)]
fn level<S: Simd>(s: S, x: &[f32], (rate, from): (f32, f32), rounding: Rounding) -> S::I {
    let v = s.splat(rate) * (s.load(x) - s.splat(from));
    match rounding {
        Rounding::Up { add, top } => s.imin(s.int(top), s.truncate_byte(v + s.splat(add))),
        Rounding::Symmetric { half } => {
            let l = s.imax(s.int(-half), s.imin(s.int(half - 1), s.nearest(v)));
            if rate == 0.0 {
                s.int(0)
            } else {
                l + s.int(half)
            }
        }
        Rounding::Clamped { top } => s.nearest(s.min(s.max(v, s.splat(0.0)), s.splat(top))),
    }
}

/// Packs bit 4 of each level, in the order of the weights.
#[inline(always)]
fn fifth_bits(levels: &[u8; BLOCK]) -> [u8; 4] {
    let mut bits = [0; 4];
    for (bits, levels) in bits.iter_mut().zip(levels.as_chunks::<8>().0) {
        // The multiplication moves the bit of byte i to bit i of the top byte. No two partial
        // products share a bit, so nothing carries into the top byte.
        let fifths = (u64::from_le_bytes(*levels) >> 4) & 0x0101_0101_0101_0101;
        *bits = (fifths.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    bits
}

/// Writes the blocks from the results of the fits in `scratch`. A block of `BYTES` bytes is: d; if
/// `OFFSET`, m; if `FIVE`, four bytes of fifth bits; 16 bytes of low halves of levels.
#[inline(always)]
fn write<S: Simd, const BYTES: usize, const OFFSET: bool, const FIVE: bool>(
    s: S,
    batch: &Batch<'_>,
    scratch: &Scratch,
    out: &mut [u8],
    rounding: Rounding,
) {
    let scale = to_f16(&scratch.scale);
    let base = if OFFSET {
        to_f16(&scratch.base)
    } else {
        [0; SUBS]
    };
    let blocks = batch.x.as_chunks::<BLOCK>().0.iter();
    let mut high = [0; BLOCK];
    for ((block, out), x) in out
        .as_chunks_mut::<BYTES>()
        .0
        .iter_mut()
        .enumerate()
        .zip(blocks)
    {
        out[..2].copy_from_slice(&scale[block].to_le_bytes());
        if OFFSET {
            out[2..4].copy_from_slice(&base[block].to_le_bytes());
        }
        let line = (scratch.rate[block], scratch.from[block]);
        let nibbles = &mut out[BYTES - 16..];
        for at in (0..16).step_by(S::LANES) {
            let first = level(s, &x[at..], line, rounding);
            let second = level(s, &x[16 + at..], line, rounding);
            if FIVE {
                let low = s.int(0xf);
                s.store_bytes((first & low) | s.times16(second), &mut nibbles[at..]);
                s.store_bytes(first, &mut high[at..]);
                s.store_bytes(second, &mut high[16 + at..]);
            } else {
                s.store_bytes(first | s.times16(second), &mut nibbles[at..]);
            }
        }
        if FIVE {
            out[BYTES - 20..BYTES - 16].copy_from_slice(&fifth_bits(&high));
        }
    }
}

/// Encodes to the symmetric formats.
#[inline(always)]
fn encode_symmetric<S: Simd, const BYTES: usize, const FIVE: bool>(
    s: S,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
    half: u8,
) {
    let rounding = if let Some(importance) = batch.importance {
        fit_symmetric(s, batch, importance, scratch, f32::from(half));
        Rounding::Symmetric { half: half.into() }
    } else {
        scale_by_extreme(s, batch, scratch, f32::from(half));
        let top = i32::from(2 * half - 1);
        Rounding::Up {
            add: f32::from(half) + 0.5,
            top,
        }
    };
    write::<S, BYTES, false, FIVE>(s, batch, scratch, out, rounding);
}

/// Encodes to the formats with an offset. `bound` limits the levels where there is no search.
#[inline(always)]
fn encode_affine<S: Simd, const BYTES: usize, const FIVE: bool>(
    s: S,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
    (top, bound): (u8, i32),
) {
    let rounding = if let Some(importance) = batch.importance {
        fit_affine(s, batch, importance, scratch, f32::from(top));
        Rounding::Clamped { top: top.into() }
    } else {
        scale_by_range(s, batch, scratch, f32::from(top));
        Rounding::Up {
            add: 0.5,
            top: bound,
        }
    };
    write::<S, BYTES, true, FIVE>(s, batch, scratch, out, rounding);
}

/// 4.5 bits per weight, symmetric.
pub(super) struct Q40;

impl Format for Q40 {
    const IMATRIX_USE: ImatrixUse = ImatrixUse::WithRowSquares;

    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode_symmetric::<S, 18, false>(s, batch, scratch, out, 8);
    }
}

/// 5.5 bits per weight, symmetric.
pub(super) struct Q50;

impl Format for Q50 {
    const IMATRIX_USE: ImatrixUse = ImatrixUse::WithRowSquares;

    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode_symmetric::<S, 22, true>(s, batch, scratch, out, 16);
    }
}

/// 5 bits per weight, with an offset.
pub(super) struct Q41;

impl Format for Q41 {
    const IMATRIX_USE: ImatrixUse = ImatrixUse::WithRowSquares;

    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode_affine::<S, 20, false>(s, batch, scratch, out, (15, 15));
    }
}

/// 6 bits per weight, with an offset.
pub(super) struct Q51;

impl Format for Q51 {
    const IMATRIX_USE: ImatrixUse = ImatrixUse::WithRowSquares;

    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        // As in ggml, no bound is needed: only the low five bits of a level are stored.
        encode_affine::<S, 24, true>(s, batch, scratch, out, (31, i32::MAX));
    }
}

/// 8.5 bits per weight, symmetric; an importance matrix has no effect.
pub(super) struct Q80;

impl Format for Q80 {
    const IMATRIX_USE: ImatrixUse = ImatrixUse::Ignored;

    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        let mut x = [s.splat(0.0); BLOCK];
        for group in (0..batch.len / BLOCK).step_by(S::LANES) {
            load(s, batch.x, group, &mut x);
            let mut magnitude = s.splat(0.0);
            for x in &x {
                magnitude = s.max(s.abs(*x), magnitude);
            }
            let d = magnitude / s.splat(127.0);
            s.store(d, &mut scratch.scale[group..]);
            s.store(reciprocal(s, d), &mut scratch.rate[group..]);
        }
        let scale = to_f16(&scratch.scale);
        let blocks = batch.x.as_chunks::<BLOCK>().0.iter();
        for ((block, out), x) in out
            .as_chunks_mut::<34>()
            .0
            .iter_mut()
            .enumerate()
            .zip(blocks)
        {
            let (d, levels) = out.split_at_mut(2);
            d.copy_from_slice(&scale[block].to_le_bytes());
            let rate = s.splat(scratch.rate[block]);
            for (x, levels) in x
                .chunks_exact(S::LANES)
                .zip(levels.chunks_exact_mut(S::LANES))
            {
                s.store_bytes(s.round_away(s.load(x) * rate), levels);
            }
        }
    }
}
