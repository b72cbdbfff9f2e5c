//! Q3_K and Q6_K: super-blocks of 256 weights in 16 sub-blocks that have a scale only,
//! x ≈ d · scale · l with l in −half..half.
//!
//! ```text
//! Q3_K, 110 bytes: third bits: 32 | low 2 bits: 64 | 16 scales of 6 bits: 12 | d f16
//! Q6_K, 210 bytes: low 4 bits: 128 | high 2 bits: 64 | 16 scales i8: 16 | d f16
//! ```
//!
//! The steps are those of [`super::k_affine`]: fit the sub-blocks, quantize their scales, give each
//! weight the nearest level with the stored scale; where that is 0, keep the levels of the fit.

use super::batch::{
    BATCH, Batch, Format, SUBS, SUPER, Scratch, error_weights, put_f16, super_squares,
};
use super::fit::{self, ALL_ZERO, Descent};
use super::float16::nearest;
use super::k_affine::{pack_high_bit, pack_pairs};
use super::lanes::Simd;
use super::lanes::pair::Pair;

/// The number of weights in a sub-block.
const SUB: usize = 16;
/// The number of sub-blocks in a super-block.
const PER: usize = SUPER / SUB;

/// The factor by which [`fit_all`] weights the error of a weight x.
enum Weights<'a> {
    /// x².
    Square,
    /// The weight's importance.
    Importance(&'a [f32; BATCH]),
    /// The weight's importance times √(σ² + x²), with one σ² per super-block.
    Damped(&'a [f32; BATCH], [f32; BATCH / SUPER]),
}

/// Fits all sub-blocks.
#[inline(always)]
fn fit_all<S: Simd>(
    s: S,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    half: f32,
    weights: &Weights<'_>,
) {
    let (mut x, mut w) = ([s.splat(0.0); SUB], [s.splat(0.0); SUB]);
    for group in (0..batch.len / SUB).step_by(S::LANES) {
        s.columns(&batch.x[group * SUB..], SUB, &mut x);
        match weights {
            Weights::Square => {
                for i in 0..SUB {
                    w[i] = x[i] * x[i];
                }
            }
            Weights::Importance(importance) => s.columns(&importance[group * SUB..], SUB, &mut w),
            Weights::Damped(importance, sigma2) => {
                // All lanes belong to one super-block, which has 16 sub-blocks: there are at most
                // 16 lanes, and their number divides 16.
                let sigma2 = s.splat(sigma2[group / PER]);
                error_weights(s, &importance[group * SUB..], sigma2, &x, &mut w);
            }
        }
        let mut sum = s.splat(0.0);
        for w in w {
            sum = sum + w;
        }
        let fit = fit::symmetric(s, &x, &w, half);
        s.store(sum, &mut scratch.weight[group..]);
        s.store(fit.scale, &mut scratch.scale[group..]);
        s.store(fit.rate, &mut scratch.rate[group..]);
    }
}

/// Computes the levels of one sub-block, shifted to 0..2·half: the nearest with scale d or, if d is
/// 0, those of the fit, which `rate` gives. If the rate is 0, too, all shifted levels are 0.
#[inline(always)]
fn requantize<S: Simd>(s: S, x: &[f32], d: f32, rate: f32, half: f32, levels: &mut [u8]) {
    let (low, high) = (s.int(-half as i32), s.int(half as i32 - 1));
    let shift = if d == 0.0 && rate == 0.0 {
        low
    } else {
        s.int(0)
    };
    for at in (0..SUB).step_by(S::LANES) {
        let x = s.load(&x[at..]);
        let v = if d != 0.0 {
            x / s.splat(d)
        } else {
            s.splat(rate) * x
        };
        let l = s.imax(low, s.imin(high, s.nearest(v)));
        s.store_bytes(l + s.int(half as i32) + shift, &mut levels[at..]);
    }
}

/// The scale of largest magnitude (the first of several), and its magnitude.
#[inline(always)]
pub(super) fn largest(scales: &[f32]) -> (f32, f32) {
    let (mut largest, mut magnitude) = (0.0, 0.0);
    for &scale in scales {
        if scale.abs() > magnitude {
            (largest, magnitude) = (scale, scale.abs());
        }
    }
    (largest, magnitude)
}

/// The scales of the sub-blocks of a super-block.
#[inline(always)]
fn scales_of(all: &[f32], block: usize) -> &[f32; PER] {
    all[block * PER..]
        .first_chunk()
        .expect("a whole super-block")
}

/// 6.5625 bits per weight.
pub(super) struct Q6K;

impl Format for Q6K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        const HALF: f32 = 32.0;
        let weights = match batch.importance {
            Some(importance) => Weights::Importance(importance),
            None => Weights::Square,
        };
        fit_all(s, batch, scratch, HALF, &weights);
        let mut levels = [0u8; SUPER];
        for (block, out) in out.as_chunks_mut::<210>().0.iter_mut().enumerate() {
            let scales = scales_of(&scratch.scale, block);
            let (largest, magnitude) = largest(scales);
            if magnitude < ALL_ZERO {
                out.fill(0);
                continue;
            }
            let rate = -128.0 / largest;
            let d = put_f16(&mut out[208..], 1.0 / rate);
            for j in 0..PER {
                let code = nearest(rate * scales[j]).min(127) as i8;
                out[192 + j] = code as u8;
                let sub = block * PER + j;
                let d = d * f32::from(code);
                requantize(
                    s,
                    &batch.x[sub * SUB..],
                    d,
                    scratch.rate[sub],
                    HALF,
                    &mut levels[j * SUB..],
                );
            }
            // Of every 128 levels, in four runs of 32: 32 bytes hold the low four bits of runs 0
            // and 2, the next 32 those of runs 1 and 3; 32 more hold the high two bits of all four.
            let (low, high) = out[..192].split_at_mut(128);
            for (n, l) in levels.chunks_exact(128).enumerate() {
                let (low, high) = (&mut low[64 * n..][..64], &mut high[32 * n..][..32]);
                for i in 0..32 {
                    let run = [l[i], l[i + 32], l[i + 64], l[i + 96]];
                    low[i] = (run[0] & 0xf) | run[2] << 4;
                    low[i + 32] = (run[1] & 0xf) | run[3] << 4;
                    high[i] =
                        run[0] >> 4 | (run[1] >> 4) << 2 | (run[2] >> 4) << 4 | (run[3] >> 4) << 6;
                }
            }
        }
    }
}

/// 3.4375 bits per weight.
pub(super) struct Q3K;

/// The levels of Q3_K are in −4..4, its scales in −32..32.
const Q3_HALF: f32 = 4.0;
const Q3_SCALE_HALF: f32 = 32.0;

impl Format for Q3K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        if let Some(importance) = batch.importance {
            q3_weighted(s, batch, importance, scratch);
        } else {
            q3_plain(s, batch, scratch);
        }
        let [codes, _] = &scratch.codes;
        let [whole, _] = &scratch.whole;
        let mut levels = [0u8; SUPER];
        for (block, out) in out.as_chunks_mut::<110>().0.iter_mut().enumerate() {
            let codes: &[u8; PER] = codes[block * PER..].first_chunk().expect("codes");
            let d = put_f16(&mut out[108..], whole[block]);
            // The low four bits of scales 0–7 share bytes with those of 8–15. Then each of four
            // bytes holds the high two bits of scales j, j + 4, j + 8 and j + 12.
            for j in 0..8 {
                out[96 + j] = (codes[j] & 0xf) | codes[j + 8] << 4;
            }
            for j in 0..4 {
                out[104 + j] = (codes[j] >> 4)
                    | ((codes[j + 4] >> 4) << 2)
                    | ((codes[j + 8] >> 4) << 4)
                    | ((codes[j + 12] >> 4) << 6);
            }
            let x: &[f32; SUPER] = batch.x[block * SUPER..].first_chunk().expect("weights");
            if batch.importance.is_none() && (d == 0.0 || codes.contains(&32)) {
                descended_levels(s, x, &mut levels);
            }
            for j in 0..PER {
                let d = d * (f32::from(codes[j]) - 32.0);
                if d != 0.0 || batch.importance.is_some() {
                    let rate = scratch.rate[block * PER + j];
                    let (x, levels) = (&x[j * SUB..], &mut levels[j * SUB..]);
                    requantize(s, x, d, rate, Q3_HALF, levels);
                }
            }
            pack_high_bit::<2>(&mut out[..32], &levels);
            for level in &mut levels {
                *level &= 3;
            }
            pack_pairs(&mut out[32..96], &levels);
        }
    }
}

/// Computes the levels of a super-block again by [`fit::descend`], for sub-blocks whose stored
/// scale is 0.
#[inline(always)]
fn descended_levels<S: Simd>(s: S, x: &[f32; SUPER], levels: &mut [u8; SUPER]) {
    let (mut column, mut descent) = ([s.splat(0.0); SUB], Descent::new(s));
    let mut bytes = [0; 16];
    for group in (0..PER).step_by(S::LANES) {
        s.columns(&x[group * SUB..], SUB, &mut column);
        fit::descend(s, &column, Q3_HALF, 5, &mut descent);
        for (i, l) in descent.levels.iter().enumerate() {
            s.store_bytes(s.truncate(*l), &mut bytes);
            for (lane, level) in bytes[..S::LANES].iter().enumerate() {
                levels[(group + lane) * SUB + i] = *level;
            }
        }
    }
}

/// Fits with [`fit::descend`] and quantizes the scales relative to the largest.
#[inline(always)]
fn q3_plain<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch) {
    // Every step of the descent depends on the previous one, so four groups of lanes are processed
    // at once. Four of five sub-blocks are done after one sweep; the others are collected, and
    // their descent starts again with all sweeps.
    let four = Pair(Pair(s));
    let lanes = Pair::<Pair<S>>::LANES;
    let (zero, one) = (four.splat(0.0), four.splat(1.0));
    let (mut x, mut descent) = ([zero; SUB], Descent::new(four));
    let mut again = [0usize; SUBS + 1];
    let mut count = 0;
    let mut column = [0.0; 64];
    for group in (0..batch.len / SUB).step_by(lanes) {
        four.columns(&batch.x[group * SUB..], SUB, &mut x);
        let (scale, moving) = fit::descend(four, &x, Q3_HALF, 1, &mut descent);
        four.store(scale, &mut scratch.scale[group..]);
        four.store(four.select(moving, one, zero), &mut column);
        for (lane, moving) in column[..lanes].iter().enumerate() {
            again[count] = group + lane;
            count += usize::from(*moving != 0.0);
        }
    }
    let mut dense = [0.0; 64 * SUB];
    for subs in again[..count].chunks(lanes) {
        for (sub, dense) in subs.iter().zip(dense.as_chunks_mut::<SUB>().0) {
            dense.copy_from_slice(&batch.x[sub * SUB..][..SUB]);
        }
        four.columns(&dense, SUB, &mut x);
        let (scale, _) = fit::descend(four, &x, Q3_HALF, 5, &mut descent);
        four.store(scale, &mut column);
        for (sub, scale) in subs.iter().zip(column) {
            scratch.scale[*sub] = scale;
        }
    }
    for block in 0..batch.len / SUPER {
        let scales = scales_of(&scratch.scale, block);
        let codes = &mut scratch.codes[0][block * PER..][..PER];
        let (largest, _) = largest(scales);
        let rate = -Q3_SCALE_HALF / largest;
        for (code, scale) in codes.iter_mut().zip(scales) {
            // Truncated to an i8, as in ggml.
            let l = i32::from(nearest(rate * scale) as i8);
            *code = if largest == 0.0 {
                0
            } else {
                (l.clamp(-32, 31) + 32) as u8
            };
        }
        scratch.whole[0][block] = if largest == 0.0 { 0.0 } else { 1.0 / rate };
    }
}

/// Fits with errors weighted by importance · √(σ² + x²), where σ² is twice the mean square of the
/// super-block. The scales are quantized by the same search, weighted by the sums of these factors
/// over their sub-blocks.
#[inline(always)]
fn q3_weighted<S: Simd>(s: S, batch: &Batch<'_>, importance: &[f32; BATCH], scratch: &mut Scratch) {
    let weights = Weights::Damped(importance, super_squares(s, batch, 2.0));
    fit_all(s, batch, scratch, Q3_HALF, &weights);
    let (mut x, mut w) = ([s.splat(0.0); PER], [s.splat(0.0); PER]);
    let mut rates = [0.0; BATCH / SUPER];
    for group in (0..batch.len / SUPER).step_by(S::LANES) {
        s.columns(&scratch.scale[group * PER..], PER, &mut x);
        s.columns(&scratch.weight[group * PER..], PER, &mut w);
        let fit = fit::symmetric(s, &x, &w, Q3_SCALE_HALF);
        s.store(fit.scale, &mut scratch.whole[0][group..]);
        s.store(fit.rate, &mut rates[group..]);
    }
    for (block, rate) in rates.iter().enumerate().take(batch.len / SUPER) {
        let codes = &mut scratch.codes[0][block * PER..];
        requantize(
            s,
            &scratch.scale[block * PER..],
            0.0,
            *rate,
            Q3_SCALE_HALF,
            codes,
        );
    }
}
