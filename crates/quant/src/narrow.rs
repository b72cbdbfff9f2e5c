//! Conversion of source rows to f32, and of f32 to f16 and bf16.

use super::SourceType;
use super::float16::{f32_to_bf16, f32_to_f16};
use super::lanes::{Simd, Task};

/// Converts `src` to f32 in `to`; returns whether all weights are finite.
pub(super) struct Widen<'a> {
    pub(super) source: SourceType,
    pub(super) src: &'a [u8],
    pub(super) to: &'a mut [f32],
}

impl Task for Widen<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        match self.source {
            SourceType::F32 => {
                for (to, from) in self.to.iter_mut().zip(self.src.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*from);
                }
                all_finite(s, self.to)
            }
            SourceType::F16 => widen_halves::<S, false>(s, self.src, self.to),
            SourceType::Bf16 => widen_halves::<S, true>(s, self.src, self.to),
        }
    }
}

/// Loads a vector of bf16 or f16 from the start of `from`.
#[inline(always)]
fn load<S: Simd, const BF16: bool>(s: S, from: &[u8]) -> S::F {
    if BF16 {
        s.load_bf16(from)
    } else {
        s.load_f16(from)
    }
}

/// The number of weights in one iteration: a multiple of the lanes of every instruction set, so
/// that the inner loop has no bounds checks and the CPU overlaps its vectors.
const STEP: usize = 64;

/// The larger of `peak` and |v|, compared as bits, because those of NaN exceed those of infinity.
#[inline(always)]
fn peak_of<S: Simd>(s: S, peak: S::I, v: S::F) -> S::I {
    s.imax(peak, s.bits(s.abs(v)))
}

/// Returns whether all values that `peak` is the maximum of are finite.
#[inline(always)]
fn is_finite<S: Simd>(s: S, peak: S::I) -> bool {
    s.all(s.lt(s.of_bits(peak), s.splat(f32::INFINITY)))
}

/// Converts `STEP` two-byte weights to f32.
#[inline(always)]
fn widen_step<S: Simd, const BF16: bool>(
    s: S,
    from: &[u8; 2 * STEP],
    to: &mut [f32; STEP],
    mut peak: S::I,
) -> S::I {
    for at in (0..STEP).step_by(S::LANES) {
        let v = load::<S, BF16>(s, &from[2 * at..]);
        peak = peak_of(s, peak, v);
        s.store(v, &mut to[at..]);
    }
    peak
}

/// Converts two-byte weights to f32; the last few are padded to a whole `STEP`.
#[inline(always)]
fn widen_halves<S: Simd, const BF16: bool>(s: S, src: &[u8], to: &mut [f32]) -> bool {
    let mut peak = s.int(0);
    let (steps, rest) = to.as_chunks_mut::<STEP>();
    let (src_steps, src_rest) = src.as_chunks::<{ 2 * STEP }>();
    for (to, from) in steps.iter_mut().zip(src_steps) {
        peak = widen_step::<S, BF16>(s, from, to, peak);
    }
    if !rest.is_empty() {
        let (mut from, mut padded) = ([0; 2 * STEP], [0.0; STEP]);
        from[..src_rest.len()].copy_from_slice(src_rest);
        peak = widen_step::<S, BF16>(s, &from, &mut padded, peak);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
    is_finite(s, peak)
}

/// Returns whether all of `x` are finite.
#[inline(always)]
fn all_finite<S: Simd>(s: S, x: &[f32]) -> bool {
    let mut peak = s.int(0);
    let (steps, rest) = x.as_chunks::<STEP>();
    for x in steps {
        for at in (0..STEP).step_by(S::LANES) {
            peak = peak_of(s, peak, s.load(&x[at..]));
        }
    }
    is_finite(s, peak) && rest.iter().all(|x| x.is_finite())
}

/// Rounds `x` to f16 or bf16 in `out`; returns whether all results are finite.
pub(super) struct Narrow<'a> {
    pub(super) x: &'a [f32],
    pub(super) bf16: bool,
    pub(super) out: &'a mut [u8],
}

impl Task for Narrow<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        if self.bf16 {
            narrow::<true>(self.x, self.out)
        } else {
            narrow::<false>(self.x, self.out)
        }
    }
}

#[inline(always)]
fn narrow<const BF16: bool>(x: &[f32], out: &mut [u8]) -> bool {
    let exponent = if BF16 { 0x7f80 } else { 0x7c00 };
    let mut most = 0;
    for (out, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
        let bits = if BF16 {
            f32_to_bf16(*x)
        } else {
            f32_to_f16(*x)
        };
        most = most.max(bits & exponent);
        *out = bits.to_le_bytes();
    }
    most != exponent
}
