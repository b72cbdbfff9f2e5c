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
//! Byte i of the 4-bit levels holds weight i low and weight i + 16 high; bit i of the fifth bits
//! belongs to weight i. Without an importance matrix the scale maps the extreme weight to the end
//! of the levels and nothing is searched; with one (not Q8_0) the fits of the K formats serve,
//! weighted by importance · √(σ² + x²), σ² the mean square of the whole row.

use super::batch::{BLOCK, Batch, Format, SUBS, Scratch, put_f16};
use super::fit::{self, Grid};
use super::lanes::Simd;

/// Loads the blocks of each vector transposed and hands them to `each(first block, weights)`.
#[inline(always)]
fn for_blocks<S: Simd>(s: S, batch: &Batch<'_>, mut each: impl FnMut(usize, &[S::F; BLOCK])) {
    let mut x = [s.splat(0.0); BLOCK];
    for group in (0..batch.len / BLOCK).step_by(S::LANES) {
        s.columns(&batch.x[group * BLOCK..], BLOCK, &mut x);
        each(group, &x);
    }
}

/// Importance · √(σ² + x²) for the blocks from `group` on.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    importance: &[f32],
    group: usize,
    x: &[S::F; BLOCK],
) -> [S::F; BLOCK] {
    let sigma2 = s.load(&batch.row_square[group..]);
    let mut w = [s.splat(0.0); BLOCK];
    s.columns(&importance[group * BLOCK..], BLOCK, &mut w);
    for i in 0..BLOCK {
        w[i] = w[i] * s.sqrt(sigma2 + x[i] * x[i]);
    }
    w
}

/// 1/d, or 0 where d is 0.
#[inline(always)]
fn reciprocal<S: Simd>(s: S, d: S::F) -> S::F {
    s.select(s.ne(d, s.splat(0.0)), s.splat(1.0) / d, s.splat(0.0))
}

/// Fills scale and rate: the extreme weight goes to level −half.
#[inline(always)]
fn scale_by_extreme<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, half: f32) {
    for_blocks(s, batch, |group, x| {
        let (extreme, _) = fit::extreme(s, x);
        let d = extreme / s.splat(-half);
        s.store(d, &mut scratch.scale[group..]);
        s.store(reciprocal(s, d), &mut scratch.rate[group..]);
    });
}

/// Fills scale, base and rate: the range of the weights becomes the range of the levels.
#[inline(always)]
fn scale_by_range<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, top: f32) {
    for_blocks(s, batch, |group, x| {
        let (mut low, mut high) = (s.splat(f32::MAX), s.splat(-f32::MAX));
        for x in x {
            low = s.min(*x, low);
            high = s.max(*x, high);
        }
        let d = (high - low) / s.splat(top);
        s.store(d, &mut scratch.scale[group..]);
        s.store(low, &mut scratch.base[group..]);
        s.store(reciprocal(s, d), &mut scratch.rate[group..]);
    });
}

/// Fills scale and rate by search.
#[inline(always)]
fn fit_symmetric<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    importance: &[f32],
    scratch: &mut Scratch,
    half: f32,
) {
    for_blocks(s, batch, |group, x| {
        let w = weigh(s, batch, importance, group, x);
        let fit = fit::symmetric(s, x, &w, half);
        s.store(fit.scale, &mut scratch.scale[group..]);
        s.store(fit.rate, &mut scratch.rate[group..]);
    });
}

/// Fills scale, base, rate and from by search.
#[inline(always)]
fn fit_affine<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    importance: &[f32],
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
    for_blocks(s, batch, |group, x| {
        let w = weigh(s, batch, importance, group, x);
        let fit = fit::affine(s, x, &w, grid);
        s.store(fit.scale, &mut scratch.scale[group..]);
        s.store(fit.base, &mut scratch.base[group..]);
        s.store(fit.rate, &mut scratch.rate[group..]);
        s.store(fit.from, &mut scratch.from[group..]);
    });
}

/// How scaled weights become levels.
#[derive(Clone, Copy)]
enum Rounding {
    /// Add, truncate, take the low byte, at most `top`: C's `MIN(top, (int8_t)(v + half))`.
    Up { add: f32, top: i32 },
    /// To even, within −half..half, plus half; 0 where the rate is 0.
    Symmetric { half: i32 },
    /// Into 0..=top, then to even.
    Clamped { top: f32 },
}

/// Levels of one block: of rate · (x − from).
#[inline(always)]
fn levels<S: Simd>(s: S, x: &[f32], rate: f32, from: f32, rounding: Rounding) -> [u8; BLOCK] {
    let mut levels = [0u8; BLOCK];
    for at in (0..BLOCK).step_by(S::LANES) {
        let x = s.load(&x[at..]);
        let l = match rounding {
            Rounding::Up { add, top } => {
                let v = (x - s.splat(from)) * s.splat(rate);
                s.imin(s.int(top), s.sign_extend_byte(s.truncate(v + s.splat(add))))
            }
            Rounding::Symmetric { half } => {
                let l = s.nearest(s.splat(rate) * x);
                let l = s.imax(s.int(-half), s.imin(s.int(half - 1), l)) + s.int(half);
                if rate == 0.0 { s.int(0) } else { l }
            }
            Rounding::Clamped { top } => {
                let v = s.splat(rate) * (x - s.splat(from));
                s.nearest(s.min(s.max(v, s.splat(0.0)), s.splat(top)))
            }
        };
        s.store_bytes(l, &mut levels[at..]);
    }
    levels
}

/// Low nibbles of weights i and i + 16 in byte i.
#[inline(always)]
fn pack_nibbles(out: &mut [u8], levels: &[u8; BLOCK]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = (levels[i] & 0xf) | levels[i + 16] << 4;
    }
}

/// Fifth bits, then low nibbles.
#[inline(always)]
fn pack_five(out: &mut [u8], levels: &[u8; BLOCK]) {
    let mut high = 0u32;
    for (i, level) in levels.iter().enumerate() {
        high |= u32::from(level >> 4 & 1) << i;
    }
    out[..4].copy_from_slice(&high.to_le_bytes());
    pack_nibbles(&mut out[4..], levels);
}

/// Writes d and, where the format has one, the offset of each block, and its levels.
#[inline(always)]
fn write<S: Simd, const BYTES: usize>(
    s: S,
    batch: &Batch<'_>,
    scratch: &Scratch,
    out: &mut [u8],
    (offset, from): (bool, Option<&[f32; SUBS]>),
    rounding: Rounding,
    pack: impl Fn(&mut [u8], &[u8; BLOCK]),
) {
    for (block, out) in out.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
        put_f16(out, scratch.scale[block]);
        if offset {
            put_f16(&mut out[2..], scratch.base[block]);
        }
        let from = from.map_or(0.0, |from| from[block]);
        let l = levels(
            s,
            &batch.x[block * BLOCK..],
            scratch.rate[block],
            from,
            rounding,
        );
        pack(&mut out[if offset { 4 } else { 2 }..], &l);
    }
}

/// The symmetric formats.
#[inline(always)]
fn encode_symmetric<S: Simd, const BYTES: usize>(
    s: S,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
    half: u8,
    pack: impl Fn(&mut [u8], &[u8; BLOCK]),
) {
    let rounding = if let Some(importance) = batch.importance {
        fit_symmetric(s, batch, importance, scratch, f32::from(half));
        Rounding::Symmetric { half: half.into() }
    } else {
        scale_by_extreme(s, batch, scratch, f32::from(half));
        Rounding::Up {
            add: f32::from(half) + 0.5,
            top: i32::from(2 * half - 1),
        }
    };
    write::<S, BYTES>(s, batch, scratch, out, (false, None), rounding, pack);
}

/// The formats with an offset.
#[inline(always)]
fn encode_affine<S: Simd, const BYTES: usize>(
    s: S,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
    (top, bound): (u8, i32),
    pack: impl Fn(&mut [u8], &[u8; BLOCK]),
) {
    if let Some(importance) = batch.importance {
        fit_affine(s, batch, importance, scratch, f32::from(top));
        let rounding = Rounding::Clamped { top: top.into() };
        write::<S, BYTES>(
            s,
            batch,
            scratch,
            out,
            (true, Some(&scratch.from)),
            rounding,
            pack,
        );
    } else {
        scale_by_range(s, batch, scratch, f32::from(top));
        let rounding = Rounding::Up {
            add: 0.5,
            top: bound,
        };
        write::<S, BYTES>(
            s,
            batch,
            scratch,
            out,
            (true, Some(&scratch.base)),
            rounding,
            pack,
        );
    }
}

/// 4.5 bits per weight, symmetric.
pub(super) struct Q40;

impl Format for Q40 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode_symmetric::<S, 18>(s, batch, scratch, out, 8, pack_nibbles);
    }
}

/// 5.5 bits per weight, symmetric.
pub(super) struct Q50;

impl Format for Q50 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode_symmetric::<S, 22>(s, batch, scratch, out, 16, pack_five);
    }
}

/// 5 bits per weight, with an offset.
pub(super) struct Q41;

impl Format for Q41 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode_affine::<S, 20>(s, batch, scratch, out, (15, 15), |out, l| {
            pack_nibbles(out, l)
        });
    }
}

/// 6 bits per weight, with an offset.
pub(super) struct Q51;

impl Format for Q51 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        // Without a bound: the low five bits are what is stored.
        encode_affine::<S, 24>(s, batch, scratch, out, (31, i32::MAX), |out, l| {
            pack_five(out, l)
        });
    }
}

/// 8.5 bits per weight, symmetric; an importance matrix changes nothing.
pub(super) struct Q80;

impl Format for Q80 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        for_blocks(s, batch, |group, x| {
            let mut magnitude = s.splat(0.0);
            for x in x {
                magnitude = s.max(s.abs(*x), magnitude);
            }
            let d = magnitude / s.splat(127.0);
            s.store(d, &mut scratch.scale[group..]);
            s.store(reciprocal(s, d), &mut scratch.rate[group..]);
        });
        for (block, out) in out.as_chunks_mut::<34>().0.iter_mut().enumerate() {
            put_f16(out, scratch.scale[block]);
            let rate = s.splat(scratch.rate[block]);
            for at in (0..BLOCK).step_by(S::LANES) {
                let x = s.load(&batch.x[block * BLOCK + at..]);
                s.store_bytes(s.round_away(x * rate), &mut out[2 + at..]);
            }
        }
    }
}
