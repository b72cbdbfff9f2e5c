//! Eight lanes in plain Rust, for any CPU; the compiler vectorizes what it can.

use super::{ROUNDER, Simd};
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};

const LANES: usize = 8;

/// The plain implementation, which needs no particular instructions.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F([f32; LANES]);
/// Eight i32.
#[derive(Clone, Copy)]
pub(crate) struct I([i32; LANES]);
/// Eight truth values, all ones or all zeros, so that a select is three bit operations.
#[derive(Clone, Copy)]
pub(crate) struct M([u32; LANES]);

/// Makes an array from an expression in the lane's index. It is a loop because a closure would not
/// be compiled with the target features of the function around it.
macro_rules! lanes {
    ($zero:expr, $i:ident => $lane:expr) => {{
        let mut out = [$zero; LANES];
        for $i in 0..LANES {
            out[$i] = $lane;
        }
        out
    }};
}

macro_rules! operator {
    ($op:ident $method:ident $vector:ident, $zero:expr, $a:ident, $b:ident => $lane:expr) => {
        impl $op for $vector {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                let ($a, $b) = (self.0, other.0);
                Self(lanes!($zero, i => { let ($a, $b) = ($a[i], $b[i]); $lane }))
            }
        }
    };
}

operator!(Add add F, 0.0, a, b => a + b);
operator!(Sub sub F, 0.0, a, b => a - b);
operator!(Mul mul F, 0.0, a, b => a * b);
operator!(Div div F, 0.0, a, b => a / b);
operator!(Add add I, 0, a, b => a.wrapping_add(b));
operator!(BitAnd bitand I, 0, a, b => a & b);
operator!(BitOr bitor I, 0, a, b => a | b);
operator!(BitAnd bitand M, 0, a, b => a & b);
operator!(BitOr bitor M, 0, a, b => a | b);

/// C's conversion from float to int. On x86 that is `cvttss2si`, which gives `i32::MIN` for values
/// out of range; elsewhere it gives the nearest i32, like Rust's `as`.
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
    lanes!(0, i => u16::from_le_bytes([from[2 * i], from[2 * i + 1]]))
}

impl Simd for Plain {
    const LANES: usize = LANES;
    const TILE: usize = LANES;
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
        let halves = halves(from);
        F(lanes!(0.0, i => crate::float16::f16_to_f32(halves[i])))
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> F {
        let halves = halves(from);
        F(lanes!(0.0, i => f32::from_bits(u32::from(halves[i]) << 16)))
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8]) {
        *to.first_chunk_mut().expect("a byte per lane") = lanes!(0, i => v.0[i] as u8);
    }
    #[inline(always)]
    fn tile(self, from: &[f32], stride: usize, to: &mut [F]) {
        let to: &mut [F; LANES] = to.first_chunk_mut().expect("a column per lane");
        for j in 0..LANES {
            let row: &[f32; LANES] = from[j * stride..].first_chunk().expect("a run per lane");
            for i in 0..LANES {
                to[i].0[j] = row[i];
            }
        }
    }
    #[inline(always)]
    fn abs(self, v: F) -> F {
        F(lanes!(0.0, i => v.0[i].abs()))
    }
    #[inline(always)]
    fn sqrt(self, v: F) -> F {
        F(lanes!(0.0, i => v.0[i].sqrt()))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        F(lanes!(0.0, i => if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        F(lanes!(0.0, i => if a.0[i] < b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn round(self, v: F) -> F {
        F(lanes!(0.0, i => (v.0[i] + ROUNDER) - ROUNDER))
    }
    #[inline(always)]
    fn lt(self, a: F, b: F) -> M {
        M(lanes!(0, i => truth(a.0[i] < b.0[i])))
    }
    #[inline(always)]
    fn ne(self, a: F, b: F) -> M {
        M(lanes!(0, i => truth(a.0[i] != b.0[i])))
    }
    #[inline(always)]
    fn select(self, m: M, a: F, b: F) -> F {
        F(
            lanes!(0.0, i => f32::from_bits((m.0[i] & a.0[i].to_bits()) | (!m.0[i] & b.0[i].to_bits()))),
        )
    }
    #[inline(always)]
    fn any(self, m: M) -> bool {
        let mut all = 0;
        for m in m.0 {
            all |= m;
        }
        all != 0
    }
    #[inline(always)]
    fn all(self, m: M) -> bool {
        let mut all = u32::MAX;
        for m in m.0 {
            all &= m;
        }
        all != 0
    }
    #[inline(always)]
    fn nearest(self, v: F) -> I {
        I(lanes!(0, i => crate::float16::nearest(v.0[i])))
    }
    #[inline(always)]
    fn truncate_byte(self, v: F) -> I {
        I(lanes!(0, i => i32::from(truncate(v.0[i]) as i8)))
    }
    #[inline(always)]
    fn truncate(self, v: F) -> I {
        I(lanes!(0, i => truncate(v.0[i])))
    }
    #[inline(always)]
    fn round_away(self, v: F) -> I {
        // Adding the largest f32 below ½ reaches the next integer from x.5 but from nothing
        // smaller.
        I(lanes!(0, i => truncate(v.0[i] + 0.499_999_97_f32.copysign(v.0[i]))))
    }
    #[inline(always)]
    fn bits(self, v: F) -> I {
        I(lanes!(0, i => v.0[i].to_bits() as i32))
    }
    #[inline(always)]
    fn of_bits(self, v: I) -> F {
        F(lanes!(0.0, i => f32::from_bits(v.0[i] as u32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 32], index: I) -> F {
        F(lanes!(0.0, i => f32::from(table[(index.0[i] & 31) as usize])))
    }
    #[inline(always)]
    fn times16(self, v: I) -> I {
        I(lanes!(0, i => v.0[i] << 4))
    }
    #[inline(always)]
    fn float(self, v: I) -> F {
        F(lanes!(0.0, i => v.0[i] as f32))
    }
    #[inline(always)]
    fn imax(self, a: I, b: I) -> I {
        I(lanes!(0, i => a.0[i].max(b.0[i])))
    }
    #[inline(always)]
    fn imin(self, a: I, b: I) -> I {
        I(lanes!(0, i => a.0[i].min(b.0[i])))
    }
}
