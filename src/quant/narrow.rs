//! Rows to plain f32, f16 and bf16, and rows to f32 scratch.

use super::SourceType;
use super::float16::{f32_to_bf16, f32_to_f16};
use super::lanes::{Simd, Task};

/// Widens `src` to `to`; answers whether all weights are finite.
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

/// The first vector of bf16 or f16.
#[inline(always)]
fn load<S: Simd, const BF16: bool>(s: S, from: &[u8]) -> S::F {
    if BF16 {
        s.load_bf16(from)
    } else {
        s.load_f16(from)
    }
}

/// Widens two-byte weights, a vector at a time; the rest by way of a padded vector.
#[inline(always)]
fn widen_halves<S: Simd, const BF16: bool>(s: S, src: &[u8], to: &mut [f32]) -> bool {
    let infinity = s.splat(f32::INFINITY);
    let mut finite = s.lt(s.splat(0.0), infinity);
    let whole = to.len() / S::LANES * S::LANES;
    let vectors = to.chunks_exact_mut(S::LANES);
    for (to, from) in vectors.zip(src.chunks_exact(2 * S::LANES)) {
        let v = load::<S, BF16>(s, from);
        finite = finite & s.lt(s.abs(v), infinity);
        s.store(v, to);
    }
    let (mut bytes, mut lanes) = ([0u8; 128], [0.0; 64]);
    let rest = to.len() - whole;
    if rest > 0 {
        bytes[..2 * rest].copy_from_slice(&src[2 * whole..2 * (whole + rest)]);
        let v = load::<S, BF16>(s, &bytes);
        finite = finite & s.lt(s.abs(v), infinity);
        s.store(v, &mut lanes);
        to[whole..].copy_from_slice(&lanes[..rest]);
    }
    s.all(finite)
}

#[inline(always)]
fn all_finite<S: Simd>(s: S, x: &[f32]) -> bool {
    let infinity = s.splat(f32::INFINITY);
    let mut finite = s.lt(s.splat(0.0), infinity);
    let whole = x.len() / S::LANES * S::LANES;
    for x in x.chunks_exact(S::LANES) {
        finite = finite & s.lt(s.abs(s.load(x)), infinity);
    }
    s.all(finite) && x[whole..].iter().all(|x| x.is_finite())
}

/// Rounds `x` to f16 (or bf16) in `out`; answers whether all results are finite.
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
