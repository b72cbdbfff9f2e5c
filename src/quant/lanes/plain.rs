//! Eight lanes in plain Rust, for any CPU; the compiler makes of them what it can.

use super::{ROUNDER, Simd, tile_rows};
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};

const LANES: usize = 8;

/// Plain code needs nothing of the CPU.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Plain;

/// Eight f32.
#[derive(Clone, Copy)]
pub(in crate::quant) struct F([f32; LANES]);
/// Eight i32.
#[derive(Clone, Copy)]
pub(in crate::quant) struct I([i32; LANES]);
/// Eight truth values, all ones or all zeros, so that a choice is three bit operations.
#[derive(Clone, Copy)]
pub(in crate::quant) struct M([u32; LANES]);

#[inline(always)]
fn map<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip<A: Copy, B>(a: [A; LANES], b: [A; LANES], f: impl Fn(A, A) -> B) -> [B; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

macro_rules! operator {
    ($op:ident, $method:ident, $vector:ident, $scalar:expr) => {
        impl $op for $vector {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(zip(self.0, other.0, $scalar))
            }
        }
    };
}

operator!(Add, add, F, |a, b| a + b);
operator!(Sub, sub, F, |a, b| a - b);
operator!(Mul, mul, F, |a, b| a * b);
operator!(Div, div, F, |a, b| a / b);
operator!(Add, add, I, i32::wrapping_add);
operator!(BitAnd, bitand, I, |a, b| a & b);
operator!(BitAnd, bitand, M, |a, b| a & b);
operator!(BitOr, bitor, M, |a, b| a | b);

/// C's float → int: on x86 `cvttss2si`, which gives `i32::MIN` for what does not fit; elsewhere
/// the nearest that fits, as Rust's `as`.
#[inline(always)]
fn truncate(v: f32) -> i32 {
    let fits = v.abs() < 2_147_483_648.0;
    if cfg!(target_arch = "x86_64") && !fits {
        i32::MIN
    } else {
        v as i32
    }
}

#[inline(always)]
fn truth(b: bool) -> u32 {
    0u32.wrapping_sub(u32::from(b))
}

#[inline(always)]
fn halves(from: &[u8]) -> [u16; LANES] {
    let from: &[u8; 2 * LANES] = from.first_chunk().expect("two bytes per lane");
    std::array::from_fn(|i| u16::from_le_bytes([from[2 * i], from[2 * i + 1]]))
}

impl Simd for Plain {
    const LANES: usize = LANES;
    type F = F;
    type I = I;
    type M = M;

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        F([value; LANES])
    }
    #[inline(always)]
    fn int(self, value: i32) -> I {
        I([value; LANES])
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        F(*from.first_chunk().expect("a float per lane"))
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut [f32]) {
        *to.first_chunk_mut().expect("a float per lane") = v.0;
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> F {
        F(map(halves(from), crate::quant::float16::f16_to_f32))
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> F {
        F(map(halves(from), |h| f32::from_bits(u32::from(h) << 16)))
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8]) {
        *to.first_chunk_mut().expect("a byte per lane") = map(v.0, |i| i as u8);
    }
    #[inline(always)]
    fn tile(self, from: &[f32], stride: usize, to: &mut [F]) {
        let rows = tile_rows::<LANES>(from, stride);
        for (i, column) in to.iter_mut().enumerate() {
            *column = F(std::array::from_fn(|j| rows[j][i]));
        }
    }
    #[inline(always)]
    fn abs(self, v: F) -> F {
        F(map(v.0, f32::abs))
    }
    #[inline(always)]
    fn sqrt(self, v: F) -> F {
        F(map(v.0, f32::sqrt))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        F(zip(a.0, b.0, |a, b| if a > b { a } else { b }))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        F(zip(a.0, b.0, |a, b| if a < b { a } else { b }))
    }
    #[inline(always)]
    fn round(self, v: F) -> F {
        F(map(v.0, |v| (v + ROUNDER) - ROUNDER))
    }
    #[inline(always)]
    fn lt(self, a: F, b: F) -> M {
        M(zip(a.0, b.0, |a, b| truth(a < b)))
    }
    #[inline(always)]
    fn ne(self, a: F, b: F) -> M {
        M(zip(a.0, b.0, |a, b| truth(a != b)))
    }
    #[inline(always)]
    fn select(self, m: M, a: F, b: F) -> F {
        F(std::array::from_fn(|i| {
            f32::from_bits((m.0[i] & a.0[i].to_bits()) | (!m.0[i] & b.0[i].to_bits()))
        }))
    }
    #[inline(always)]
    fn any(self, m: M) -> bool {
        m.0.iter().fold(0, |all, m| all | m) != 0
    }
    #[inline(always)]
    fn all(self, m: M) -> bool {
        m.0.iter().fold(u32::MAX, |all, m| all & m) != 0
    }
    #[inline(always)]
    fn nearest(self, v: F) -> I {
        I(map(v.0, crate::quant::float16::nearest))
    }
    #[inline(always)]
    fn truncate(self, v: F) -> I {
        I(map(v.0, truncate))
    }
    #[inline(always)]
    fn round_away(self, v: F) -> I {
        // The float below ½ carries x.5 over the integer and nothing less.
        I(map(v.0, |v| truncate(v + 0.499_999_97_f32.copysign(v))))
    }
    #[inline(always)]
    fn float(self, v: I) -> F {
        F(map(v.0, |i| i as f32))
    }
    #[inline(always)]
    fn imax(self, a: I, b: I) -> I {
        I(zip(a.0, b.0, i32::max))
    }
    #[inline(always)]
    fn imin(self, a: I, b: I) -> I {
        I(zip(a.0, b.0, i32::min))
    }
    #[inline(always)]
    fn sign_extend_byte(self, v: I) -> I {
        I(map(v.0, |i| i32::from(i as i8)))
    }
}
