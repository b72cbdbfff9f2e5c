//! Q2_K, Q4_K and Q5_K: super-blocks of 256 weights whose sub-blocks have a scale and an offset,
//! x ≈ d · scale · l − dmin · offset.
//!
//! ```text
//! Q4_K, 144 bytes: d f16 | dmin f16 | 8 scales and 8 offsets of 6 bits: 12 | 4-bit levels: 128
//! Q5_K, 176 bytes: d f16 | dmin f16 | as above: 12 | fifth bits: 32 | low 4 bits: 128
//! Q2_K,  84 bytes: 16 × (scale | offset << 4): 16 | 2-bit levels: 64 | d f16 | dmin f16
//! ```
//!
//! Encoding has three steps. First, each sub-block is fitted by itself ([`fit::affine`], one
//! sub-block per lane). Then the scales and offsets of a super-block are quantized, relative to the
//! largest or, with an importance matrix, by another fit ([`fit::positive`], one super-block per
//! lane). Last, each weight gets the level that is nearest with the *stored* scale and offset;
//! where the stored scale is 0, the levels of the first step are kept.

use super::batch::{BATCH, Batch, Format, SUBS, SUPER, Scratch};
use super::batch::{by_lane, error_weights, gather, put_f16, super_squares};
use super::fit::{self, Grid};
use super::float16::nearest;
use super::lanes::Simd;

/// The parameters in which the three formats differ.
struct Shape {
    /// The highest level; the lowest is 0.
    top: f32,
    /// The highest quantized scale or offset; the lowest is 0.
    code_top: f32,
    /// The search without an importance matrix.
    plain: Grid,
    /// The search with an importance matrix.
    weighted: Grid,
    /// The limit of quantized scales and offsets, without and with an importance matrix.
    bounds: [u8; 2],
}

const fn grid(top: f32, first: f32, step: f32, tries: u32) -> Grid {
    Grid {
        top,
        first,
        step,
        tries,
        absolute: false,
        clamped: false,
    }
}

const Q4: Shape = Shape {
    top: 15.0,
    code_top: 63.0,
    plain: grid(15.0, -1.0, 0.1, 20),
    weighted: Grid {
        clamped: true,
        ..grid(15.0, -0.9, 0.05, 36)
    },
    bounds: [63, 255],
};
const Q5: Shape = Shape {
    top: 31.0,
    code_top: 63.0,
    plain: grid(31.0, -0.5, 0.1, 15),
    weighted: Grid {
        clamped: true,
        ..grid(31.0, -0.9, 0.05, 36)
    },
    bounds: [63, 63],
};
const Q2: Shape = Shape {
    top: 3.0,
    code_top: 15.0,
    plain: Grid {
        absolute: true,
        ..grid(3.0, -0.5, 0.1, 15)
    },
    weighted: Grid {
        clamped: true,
        ..grid(3.0, -0.9, 0.05, 36)
    },
    bounds: [255, 255],
};

/// Fits all sub-blocks of `N` weights. Without importances, the error of a weight is weighted by
/// its magnitude (N = 16), or by that plus the root mean square of the sub-block (N = 32). With
/// importances, it is weighted by importance · √(σ² + x²), where σ² is the mean square of the
/// super-block (N = 16) or twice that (N = 32).
#[inline(always)]
fn fit_all<S: Simd, const N: usize>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, shape: &Shape) {
    let zero = s.splat(0.0);
    let sigma2 = if batch.importance.is_some() {
        super_squares(s, batch, if N == 32 { 2.0 } else { 1.0 })
    } else {
        [0.0; BATCH / SUPER]
    };
    let (mut x, mut w) = ([zero; N], [zero; N]);
    for group in (0..batch.len / N).step_by(S::LANES) {
        s.columns(&batch.x[group * N..], N, &mut x);
        let fit = if let Some(importance) = batch.importance {
            let sigma2 = by_lane(s, &sigma2, group, N);
            error_weights(s, &importance[group * N..], sigma2, &x, &mut w);
            let mut sum = zero;
            for w in w {
                sum = sum + w;
            }
            s.store(sum, &mut scratch.weight[group..]);
            fit::affine(s, &x, &w, shape.weighted)
        } else {
            let mut offset = zero;
            if N == 32 {
                for x in x {
                    offset = offset + x * x;
                }
                offset = s.sqrt(offset / s.splat(N as f32));
            }
            for i in 0..N {
                w[i] = if N == 32 {
                    offset + s.abs(x[i])
                } else {
                    s.abs(x[i])
                };
            }
            fit::affine(s, &x, &w, shape.plain)
        };
        s.store(fit.scale, &mut scratch.scale[group..]);
        s.store(zero - fit.base, &mut scratch.base[group..]);
        s.store(fit.rate, &mut scratch.rate[group..]);
        s.store(fit.from, &mut scratch.from[group..]);
    }
}

/// Quantizes `values`, `PER` for each super-block, to codes 0..=top with one scale per super-block,
/// which is largest/top or, with `weight`, that of the weighted fit.
#[inline(always)]
fn code_all<S: Simd, const PER: usize>(
    s: S,
    (values, weight): (&[f32; SUBS], Option<&[f32; SUBS]>),
    supers: usize,
    top: f32,
    codes: &mut [u8; SUBS],
    whole: &mut [f32; BATCH / SUPER],
) {
    if let Some(weight) = weight {
        let (mut x, mut w) = ([s.splat(0.0); PER], [s.splat(0.0); PER]);
        let mut levels = [s.int(0); PER];
        let mut lanes = [0u8; 32];
        for group in (0..supers).step_by(S::LANES) {
            // `PER` may be half of `Simd::TILE`, which `Simd::columns` does not take.
            gather::<S, PER>(s, &values[group * PER..], &mut x);
            gather::<S, PER>(s, &weight[group * PER..], &mut w);
            let scale = fit::positive(s, &x, &w, top, &mut levels);
            s.store(scale, &mut whole[group..]);
            for (i, level) in levels.iter().enumerate() {
                s.store_bytes(*level, &mut lanes);
                for (lane, code) in lanes[..S::LANES].iter().enumerate() {
                    codes[(group + lane) * PER + i] = *code;
                }
            }
        }
        return;
    }
    for block in 0..supers {
        let values: &[f32; PER] = values[block * PER..]
            .first_chunk()
            .expect("a whole super-block");
        let codes = &mut codes[block * PER..][..PER];
        let largest = values
            .iter()
            .fold(0.0, |most, &v| if v > most { v } else { most });
        let rate = if largest > 0.0 { top / largest } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = nearest(rate * value) as u8;
        }
        whole[block] = largest / top;
    }
}

/// Computes the levels of one sub-block in the order of its weights: the nearest with the stored
/// scale d and offset m or, if d is 0, those of the fit.
#[inline(always)]
fn requantize<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    (d, m): (f32, f32),
    (rate, from, clamped): (f32, f32, bool),
    top: f32,
    levels: &mut [u8],
) {
    let (low, high) = (s.int(0), s.int(top as i32));
    for at in (0..N).step_by(S::LANES) {
        let x = s.load(&x[at..]);
        let v = if d != 0.0 {
            (x + s.splat(m)) / s.splat(d)
        } else {
            let v = s.splat(rate) * (x - s.splat(from));
            if clamped {
                s.min(s.max(v, s.splat(0.0)), s.splat(top))
            } else {
                v
            }
        };
        s.store_bytes(s.imax(low, s.imin(high, s.nearest(v))), &mut levels[at..]);
    }
}

/// The layout of a super-block in `BYTES` bytes.
trait Layout<const PER: usize, const BYTES: usize> {
    /// Writes the sub-blocks' scales and offsets, and the super-block's scale and offset; returns
    /// the latter two as rounded to f16.
    fn header(
        out: &mut [u8; BYTES],
        scales: &[u8; PER],
        offsets: &[u8; PER],
        whole: [f32; 2],
    ) -> [f32; 2];

    /// Writes the levels.
    fn pack(out: &mut [u8; BYTES], levels: &[u8; SUPER]);
}

/// Encodes super-blocks of `PER` sub-blocks of `N` weights, in the three steps of the module's
/// documentation.
#[inline(always)]
fn encode<S: Simd, L: Layout<PER, BYTES>, const N: usize, const PER: usize, const BYTES: usize>(
    s: S,
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
    shape: &Shape,
) {
    fit_all::<S, N>(s, batch, scratch, shape);
    let clamped = batch.importance.is_some();
    let supers = batch.len / SUPER;
    let weight = if clamped { Some(&scratch.weight) } else { None };
    let [scales, offsets] = &mut scratch.codes;
    let [d, m] = &mut scratch.whole;
    let top = shape.code_top;
    code_all::<S, PER>(s, (&scratch.scale, weight), supers, top, scales, d);
    code_all::<S, PER>(s, (&scratch.base, weight), supers, top, offsets, m);
    let bound = shape.bounds[usize::from(clamped)];
    let mask = top as u8;
    let mut levels = [0u8; SUPER];
    for (block, out) in out.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
        let (mut scale, mut offset) = ([0u8; PER], [0u8; PER]);
        for j in 0..PER {
            scale[j] = scales[block * PER + j].min(bound);
            offset[j] = offsets[block * PER + j].min(bound);
        }
        let stored = L::header(out, &scale, &offset, [d[block], m[block]]);
        for j in 0..PER {
            let sub = block * PER + j;
            let line = (
                stored[0] * f32::from(scale[j] & mask),
                stored[1] * f32::from(offset[j] & mask),
            );
            let kept = (scratch.rate[sub], scratch.from[sub], clamped);
            let x = &batch.x[sub * N..];
            requantize::<S, N>(s, x, line, kept, shape.top, &mut levels[j * N..]);
        }
        L::pack(out, &levels);
    }
}

/// Writes two f16, then 8 scales and 8 offsets of 6 bits in 12 bytes. The low 6 bits of bytes 0–3
/// and 4–7 hold the first four scales and offsets. Of the last four, the low four bits are in bytes
/// 8–11 (scales low, offsets high), and the high two bits are in the top bits of bytes 0–3 and 4–7.
/// Returns the two f16.
#[inline(always)]
fn six_bit_header(
    out: &mut [u8],
    scales: &[u8; 8],
    offsets: &[u8; 8],
    whole: [f32; 2],
) -> [f32; 2] {
    let stored = [put_f16(out, whole[0]), put_f16(&mut out[2..], whole[1])];
    for j in 0..4 {
        out[4 + j] = scales[j] | ((scales[j + 4] >> 4) << 6);
        out[8 + j] = offsets[j] | ((offsets[j + 4] >> 4) << 6);
        out[12 + j] = (scales[j + 4] & 0xf) | ((offsets[j + 4] & 0xf) << 4);
    }
    stored
}

/// Packs the low four bits of each level: of every 64 levels, the first 32 go to the low halves of
/// 32 bytes and the last 32 to the high halves.
#[inline(always)]
fn pack_nibbles(out: &mut [u8], levels: &[u8; SUPER]) {
    for (out, l) in out
        .as_chunks_mut::<32>()
        .0
        .iter_mut()
        .zip(levels.as_chunks::<64>().0)
    {
        for i in 0..32 {
            out[i] = (l[i] & 0xf) | (l[i + 32] << 4);
        }
    }
}

/// 4.5 bits per weight.
pub(super) struct Q4K;

impl Layout<8, 144> for Q4K {
    #[inline(always)]
    fn header(out: &mut [u8; 144], scales: &[u8; 8], offsets: &[u8; 8], d: [f32; 2]) -> [f32; 2] {
        six_bit_header(out, scales, offsets, d)
    }
    #[inline(always)]
    fn pack(out: &mut [u8; 144], levels: &[u8; SUPER]) {
        pack_nibbles(&mut out[16..], levels);
    }
}

impl Format for Q4K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode::<S, Self, 32, 8, 144>(s, batch, scratch, out, &Q4);
    }
}

/// 5.5 bits per weight.
pub(super) struct Q5K;

impl Layout<8, 176> for Q5K {
    #[inline(always)]
    fn header(out: &mut [u8; 176], scales: &[u8; 8], offsets: &[u8; 8], d: [f32; 2]) -> [f32; 2] {
        six_bit_header(out, scales, offsets, d)
    }
    #[inline(always)]
    fn pack(out: &mut [u8; 176], levels: &[u8; SUPER]) {
        pack_high_bit::<4>(&mut out[16..48], levels);
        pack_nibbles(&mut out[48..], levels);
    }
}

impl Format for Q5K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode::<S, Self, 32, 8, 176>(s, batch, scratch, out, &Q5);
    }
}

/// 2.625 bits per weight.
pub(super) struct Q2K;

impl Layout<16, 84> for Q2K {
    #[inline(always)]
    fn header(out: &mut [u8; 84], scales: &[u8; 16], offsets: &[u8; 16], d: [f32; 2]) -> [f32; 2] {
        for j in 0..16 {
            out[j] = scales[j] | (offsets[j] << 4);
        }
        [put_f16(&mut out[80..], d[0]), put_f16(&mut out[82..], d[1])]
    }
    #[inline(always)]
    fn pack(out: &mut [u8; 84], levels: &[u8; SUPER]) {
        pack_pairs(&mut out[16..80], levels);
    }
}

impl Format for Q2K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, batch: &Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
        encode::<S, Self, 16, 16, 84>(s, batch, scratch, out, &Q2);
    }
}

/// Packs bit `BIT` of each level: bit j of byte i is that of level 32 j + i.
#[inline(always)]
pub(super) fn pack_high_bit<const BIT: u32>(out: &mut [u8], levels: &[u8; SUPER]) {
    let out: &mut [u8; 32] = out.first_chunk_mut().expect("32 bytes");
    *out = [0; 32];
    for (j, l) in levels.as_chunks::<32>().0.iter().enumerate() {
        for i in 0..32 {
            out[i] |= ((l[i] >> BIT) & 1) << j;
        }
    }
}

/// Packs two bits of each level: of every 128 levels, byte i of 32 holds levels i, i + 32, i + 64
/// and i + 96, from the low bits up.
#[inline(always)]
pub(super) fn pack_pairs(out: &mut [u8], levels: &[u8; SUPER]) {
    for (out, l) in out
        .as_chunks_mut::<32>()
        .0
        .iter_mut()
        .zip(levels.as_chunks::<128>().0)
    {
        for i in 0..32 {
            out[i] = l[i] | (l[i + 32] << 2) | (l[i + 64] << 4) | (l[i + 96] << 6);
        }
    }
}
