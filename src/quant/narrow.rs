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
            SourceType::F16 => widen_halves(s, self.src, self.to, |from| s.load_f16(from)),
            SourceType::Bf16 => widen_halves(s, self.src, self.to, |from| s.load_bf16(from)),
        }
    }
}

/// Widens two-byte weights, a vector at a time; the rest by way of a padded vector.
#[inline(always)]
fn widen_halves<S: Simd>(s: S, src: &[u8], to: &mut [f32], load: impl Fn(&[u8]) -> S::F) -> bool {
    let infinity = s.splat(f32::INFINITY);
    let mut finite = s.lt(s.splat(0.0), infinity);
    let whole = to.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let v = load(&src[2 * at..]);
        finite = finite & s.lt(s.abs(v), infinity);
        s.store(v, &mut to[at..]);
    }
    let (mut bytes, mut lanes) = ([0u8; 128], [0.0; 64]);
    let rest = to.len() - whole;
    if rest > 0 {
        bytes[..2 * rest].copy_from_slice(&src[2 * whole..2 * (whole + rest)]);
        let v = load(&bytes);
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
    for at in (0..whole).step_by(S::LANES) {
        finite = finite & s.lt(s.abs(s.load(&x[at..])), infinity);
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
            narrow(self.x, self.out, f32_to_bf16, 0x7f80)
        } else {
            narrow(self.x, self.out, f32_to_f16, 0x7c00)
        }
    }
}

#[inline(always)]
fn narrow(x: &[f32], out: &mut [u8], to_bits: impl Fn(f32) -> u16, exponent: u16) -> bool {
    let mut most = 0;
    for (out, x) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
        let bits = to_bits(*x);
        most = most.max(bits & exponent);
        *out = bits.to_le_bytes();
    }
    most != exponent
}
