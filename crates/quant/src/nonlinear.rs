//! IQ4_NL and IQ4_XS: 4-bit codes for levels that are closer to each other near zero.
//!
//! ```text
//! IQ4_NL,  18 bytes, 32 weights: d f16 | codes: 16                   x ≈ d · LEVELS[code]
//! IQ4_XS, 136 bytes, 256 weights: d f16 | upper 2 bits of the scales u16 | their low 4 bits: 4
//!         | codes: 128                                 x ≈ d · (scale − 32) · LEVELS[code]
//! ```
//!
//! Byte i of a block's 16 holds the code of weight i in its low half and of weight i + 16 in its
//! high half. In IQ4_XS every 32 weights have a scale of 6 bits; the low four bits are stored two
//! to a byte, the upper bits from bit 0 up.
//!
//! Encoding fits every 32 weights by themselves ([`fit()`], one block per lane). For IQ4_XS the
//! scales are then quantized relative to the largest. Last, each weight gets the nearest level with
//! that scale; both formats divide by the scale before it is rounded to f16.

use super::batch::{BATCH, BLOCK, Batch, Format, SUPER, Scratch};
use super::batch::{by_lane, error_weights, put_f16, super_sums};
use super::fit::{self, ALL_ZERO};
use super::float16::nearest;
use super::k_symmetric::largest;
use super::lanes::Simd;

/// The levels (ggml's `kvalues_iq4nl`).
const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
/// The lowest and the highest level.
const ENDS: (f32, f32) = (LEVELS[0] as f32, LEVELS[15] as f32);
/// The number of blocks of 32 weights in a super-block of IQ4_XS.
const PER: usize = SUPER / BLOCK;

/// A lookup table for the nearest level. It divides the numbers into intervals of length 8: cell k
/// holds the numbers that round to 8 k, with k modulo 32, so that between −140 and 140 all but
/// three cells hold exactly one interval. No interval contains more than one of the midpoints
/// between adjacent levels, so at most two levels can be the nearest in a cell. Each cell contains
/// at most one level.
struct Cells {
    /// The lower of the two levels that can be nearest, or the only one.
    lower: [i8; 32],
    /// The upper of these levels, or the only one.
    upper: [i8; 32],
    /// The code of the level that the cell contains, if any.
    code: [i8; 32],
}

const CELLS: Cells = cells();

const fn cells() -> Cells {
    let mut cells = Cells {
        lower: [0; 32],
        upper: [0; 32],
        code: [0; 32],
    };
    let mut k = -16;
    while k < 16 {
        let cell = (k & 31) as usize;
        // The three outermost cells hold numbers from both ends.
        let outermost = k <= -15 || k == 15;
        cells.lower[cell] = LEVELS[if outermost { 0 } else { code_of(8 * k - 4) }];
        cells.upper[cell] = LEVELS[if outermost { 15 } else { code_of(8 * k + 4) }];
        k += 1;
    }
    let mut code = 0;
    while code < 16 {
        let k = (LEVELS[code] as i32 + 4).div_euclid(8);
        cells.code[(k & 31) as usize] = code as i8;
        code += 1;
    }
    cells
}

/// The code of the level nearest to v.
const fn code_of(v: i32) -> usize {
    let mut code = 0;
    while code < 15 && LEVELS[code] as i32 + LEVELS[code + 1] as i32 <= 2 * v {
        code += 1;
    }
    code
}

/// The index of the cell of v, |v| ≤ 140, in the low five bits; the other bits are undefined. f32
/// values from 2²⁶ to 2²⁷ are 8 apart, so the addition rounds to a multiple of 8.
#[inline(always)]
fn cell<S: Simd>(s: S, v: S::F) -> S::I {
    s.bits(v + s.splat(1.5 * 67_108_864.0))
}

/// The level nearest to v, |v| ≤ 140; the upper one if two are equally near.
#[inline(always)]
fn nearest_level<S: Simd>(s: S, v: S::F) -> S::F {
    let cell = cell(s, v);
    let lower = s.lookup(&CELLS.lower, cell);
    let upper = s.lookup(&CELLS.upper, cell);
    s.select(s.lt(v - lower, upper - v), lower, upper)
}

/// The code of the level nearest to v, for any v; for NaN that of the highest level (ggml:
/// `best_index_int8`).
#[inline(always)]
fn nearest_code<S: Simd>(s: S, v: S::F) -> S::I {
    let v = s.max(s.min(v, s.splat(ENDS.1)), s.splat(ENDS.0));
    s.truncate(s.lookup(&CELLS.code, cell(s, nearest_level(s, v))))
}

/// The sums Σwqx and Σwq² over the levels q that are nearest to rate · x.
#[inline(always)]
fn moments<S: Simd>(s: S, x: &[S::F; BLOCK], w: &[S::F; BLOCK], rate: S::F) -> (S::F, S::F) {
    let (mut sum_qx, mut sum_q2) = (s.splat(0.0), s.splat(0.0));
    for i in 0..BLOCK {
        let q = nearest_level(s, rate * x[i]);
        let wq = w[i] * q;
        sum_qx = sum_qx + wq * x[i];
        sum_q2 = sum_q2 + wq * q;
    }
    (sum_qx, sum_q2)
}

/// Fits x ≈ scale · q with levels q to a small Σ w · (scale · q − x)²; returns the scale.
///
/// For given levels the best scale is Σwqx / Σwq², and it lowers the error by (Σwqx)² / Σwq². The
/// grid tries the levels nearest to rate · x for rate = 127 / extreme, then for (t − 127) / extreme
/// with t from −7 to 7, and keeps those that lower the error most. (ggml:
/// `quantize_row_iq4_nl_impl` with `ntry` 7.)
#[inline(always)]
fn fit<S: Simd>(s: S, x: &[S::F; BLOCK], w: &[S::F; BLOCK]) -> S::F {
    let zero = s.splat(0.0);
    let (extreme, magnitude) = fit::extreme(s, x);
    let first_rate = s.splat(1.0) / (extreme / s.splat(-ENDS.0));
    let (sum_qx, sum_q2) = moments(s, x, w, first_rate);
    let mut scale = s.select(s.lt(zero, sum_q2), sum_qx / sum_q2, zero);
    let mut best = scale * sum_qx;
    for t in -7..=7 {
        let rate = s.splat(t as f32 + ENDS.0) / extreme;
        let (sum_qx, sum_q2) = moments(s, x, w, rate);
        let better = s.lt(zero, sum_q2) & s.lt(best * sum_q2, sum_qx * sum_qx);
        let try_scale = sum_qx / sum_q2;
        scale = s.select(better, try_scale, scale);
        best = s.select(better, try_scale * sum_qx, best);
    }
    s.select(s.lt(magnitude, s.splat(ALL_ZERO)), zero, scale)
}

/// Fits all blocks and writes their scales to `scratch`. The error of a weight is weighted by its
/// square or, with importances, by importance · √(σ² + x²), where σ² is twice the mean square of
/// the block or super-block of `N` weights that it belongs to.
#[inline(always)]
fn fit_all<S: Simd, const N: usize>(s: S, batch: &Batch<'_>, scratch: &mut Scratch) {
    let factor = 2.0 / N as f32;
    let sigma2 = if batch.importance.is_some() && N == SUPER {
        super_sums(s, batch).map(|sum| sum * factor)
    } else {
        [0.0; BATCH / SUPER]
    };
    let (mut x, mut w) = ([s.splat(0.0); BLOCK], [s.splat(0.0); BLOCK]);
    for group in (0..batch.len / BLOCK).step_by(S::LANES) {
        s.columns(&batch.x[group * BLOCK..], BLOCK, &mut x);
        for i in 0..BLOCK {
            w[i] = x[i] * x[i];
        }
        if let Some(importance) = batch.importance {
            let sigma2 = if N == SUPER {
                by_lane(s, &sigma2, group, BLOCK)
            } else {
                let mut sum = s.splat(0.0);
                for square in w {
                    sum = sum + square;
                }
                sum * s.splat(factor)
            };
            error_weights(s, &importance[group * BLOCK..], sigma2, &x, &mut w);
        }
        s.store(fit(s, &x, &w), &mut scratch.scale[group..]);
    }
}

/// Returns 1/d, or 0 if d is 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

/// Writes the codes of the levels nearest to rate · x, for a block of 32 weights.
#[inline(always)]
fn put_codes<S: Simd>(s: S, x: &[f32; BLOCK], rate: f32, out: &mut [u8]) {
    let rate = s.splat(rate);
    for at in (0..16).step_by(S::LANES) {
        let low = nearest_code(s, rate * s.load(&x[at..]));
        let high = nearest_code(s, rate * s.load(&x[16 + at..]));
        s.store_bytes(low | s.times16(high), &mut out[at..]);
    }
}

/// 4.5 bits per weight.
pub(super) struct Iq4Nl;

impl Format for Iq4Nl {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        fit_all::<S, BLOCK>(s, batch, scratch);
        let blocks = batch.x.as_chunks::<BLOCK>().0.iter().zip(&scratch.scale);
        for (out, (x, scale)) in out.as_chunks_mut::<18>().0.iter_mut().zip(blocks) {
            put_f16(out, *scale);
            put_codes(s, x, inverse(*scale), &mut out[2..]);
        }
    }
}

/// 4.25 bits per weight.
pub(super) struct Iq4Xs;

impl Format for Iq4Xs {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        fit_all::<S, SUPER>(s, batch, scratch);
        let supers = batch.x.as_chunks::<SUPER>().0.iter();
        let scales = scratch.scale.as_chunks::<PER>().0;
        for (out, (x, scales)) in out
            .as_chunks_mut::<136>()
            .0
            .iter_mut()
            .zip(supers.zip(scales))
        {
            let d = -largest(scales).0 / 32.0;
            put_f16(out, d);
            let (header, codes) = out.split_at_mut(8);
            let mut upper = 0u16;
            header[4..].fill(0);
            for (j, (x, codes)) in x
                .as_chunks::<BLOCK>()
                .0
                .iter()
                .zip(codes.as_chunks_mut::<16>().0)
                .enumerate()
            {
                let scale = nearest(inverse(d) * scales[j]).clamp(-32, 31);
                put_codes(s, x, inverse(d * scale as f32), codes);
                let stored = (scale + 32) as u8;
                header[4 + j / 2] |= (stored & 0xf) << (4 * (j % 2));
                upper |= u16::from(stored >> 4) << (2 * j);
            }
            header[2..4].copy_from_slice(&upper.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Dispatch;
    use super::super::lanes::Task;
    use super::*;
    use modelve_base::isa::Isa;

    /// Computes the code of the level nearest to each of these numbers, one at a time.
    struct Codes<'a>(&'a [f32]);

    impl Task for Codes<'_> {
        type Output = Vec<u8>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<u8> {
            let mut lanes = [0; 64];
            let code = |&v: &f32| {
                s.store_bytes(nearest_code(s, s.splat(v)), &mut lanes);
                lanes[0]
            };
            self.0.iter().map(code).collect()
        }
    }

    /// The code of the nearest level by comparison with all midpoints; the upper one if two are
    /// equally near.
    fn by_midpoints(v: f32) -> u8 {
        let below = |pair: &&[i8]| v < (f32::from(pair[0]) + f32::from(pair[1])) / 2.0;
        15 - LEVELS.windows(2).filter(below).count() as u8
    }

    #[test]
    fn codes_are_those_of_the_nearest_levels() {
        let mut values = vec![0.0, -0.0, 1e-40, 1e9, f32::MAX, f32::INFINITY, f32::NAN];
        for half in -300..300 {
            let v = half as f32 / 2.0;
            values.extend([v, v.next_up(), v.next_down(), v + 0.21]);
        }
        values.extend(values.clone().iter().map(|v| -v));
        let expected: Vec<u8> = values.iter().map(|v| by_midpoints(*v)).collect();
        for isa in Isa::available() {
            assert_eq!(isa.dispatch(Codes(&values)), expected, "{isa}");
        }
    }

    #[test]
    fn no_cell_has_two_levels_or_two_midpoints() {
        let codes: Vec<usize> = LEVELS.iter().map(|v| code_of(i32::from(*v))).collect();
        assert_eq!(codes, (0..16).collect::<Vec<_>>());
        for (code, level) in LEVELS.iter().enumerate() {
            let cell = (i32::from(*level) + 4).div_euclid(8) & 31;
            assert_eq!(CELLS.code[cell as usize], code as i8);
        }
        for k in -14..15i32 {
            let cell = (k & 31) as usize;
            let (lower, upper) = (CELLS.lower[cell], CELLS.upper[cell]);
            let gap = code_of(upper.into()) - code_of(lower.into());
            assert!(gap <= 1, "cell {k}: {lower} and {upper}");
        }
    }
}
