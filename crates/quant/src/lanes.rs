//! Vectors of f32 as the encoders see them: one *lane* is one independent fit.
//!
//! A search over a sub-block is a chain of sums whose order decides the last bit, so a sub-block
//! cannot be spread over a vector without changing the result. Sub-blocks are independent of each
//! other, though, so they are searched side by side: lane `j` of every vector belongs to
//! sub-block `j`, and inside a lane the operations come in the order of the scalar definition,
//! multiplications and additions rounded separately. The algorithms are written once over
//! [`Simd`]; this module's children say what its operations are on each instruction set.

#![allow(unsafe_code)]

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};

use modelve_base::isa::Isa;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod pair;
pub(super) mod plain;

/// 1.5 · 2²³. Added to `v`, |v| < 2²², it leaves `v` rounded to the nearest integer, ties to even,
/// in the low bits of the sum's mantissa.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// The largest |v| for which [`Simd::nearest`] is a rounding; beyond it the mantissa's bits come
/// out as they are.
pub(super) const NEAREST_MAX: f32 = 4_194_303.0;

/// An instruction set, as a token: a value exists only where the CPU has the instructions.
///
/// Slices are as long as the operation needs or it panics; the encoders hand fixed-size scratch.
pub(super) trait Simd: Copy {
    /// Lanes in a vector.
    const LANES: usize;
    /// Floats of a run in [`Simd::tile`]: 16 or a divisor of it.
    const TILE: usize;
    /// A vector of f32, with IEEE single operations, each rounded.
    type F: Copy
        + Add<Output = Self::F>
        + Sub<Output = Self::F>
        + Mul<Output = Self::F>
        + Div<Output = Self::F>;
    /// A vector of i32, wrapping.
    type I: Copy + Add<Output = Self::I> + BitAnd<Output = Self::I> + BitOr<Output = Self::I>;
    /// One truth value per lane.
    type M: Copy + BitAnd<Output = Self::M> + BitOr<Output = Self::M>;

    /// `value` in each lane.
    fn splat(self, value: f32) -> Self::F;
    /// `value` in each lane.
    fn int(self, value: i32) -> Self::I;
    /// The first `LANES` floats.
    fn load(self, from: &[f32]) -> Self::F;
    /// To the first `LANES` floats.
    fn store(self, v: Self::F, to: &mut [f32]);
    /// The first `LANES` little-endian f16, widened exactly.
    fn load_f16(self, from: &[u8]) -> Self::F;
    /// The first `LANES` little-endian bf16, widened exactly.
    fn load_bf16(self, from: &[u8]) -> Self::F;
    /// The low byte of each lane, in order, to the first `LANES` bytes.
    fn store_bytes(self, v: Self::I, to: &mut [u8]);

    /// Loads `LANES` runs of `TILE` floats, `stride` apart, and transposes them:
    /// lane `j` of `to[i]` is `from[j * stride + i]`.
    fn tile(self, from: &[f32], stride: usize, to: &mut [Self::F]);

    /// As [`Simd::tile`] for runs of any multiple of `TILE` floats (`to.len()`).
    #[inline(always)]
    fn columns(self, from: &[f32], stride: usize, to: &mut [Self::F]) {
        for (t, tile) in to.chunks_exact_mut(Self::TILE).enumerate() {
            self.tile(&from[t * Self::TILE..], stride, tile);
        }
    }

    /// |v|.
    fn abs(self, v: Self::F) -> Self::F;
    /// √v, correctly rounded.
    fn sqrt(self, v: Self::F) -> Self::F;
    /// `a > b ? a : b`: the second where they are equal or either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: the second where they are equal or either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even, for |v| ≤ [`NEAREST_MAX`].
    fn round(self, v: Self::F) -> Self::F;
    /// `a < b`, false where either is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a ≠ b`, true where either is NaN.
    fn ne(self, a: Self::F, b: Self::F) -> Self::M;
    /// `m ? a : b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Is it true in some lane?
    fn any(self, m: Self::M) -> bool;
    /// Is it true in each lane?
    fn all(self, m: Self::M) -> bool;

    /// ggml's rounding: the 23 mantissa bits of v + 1.5 · 2²³, less 2²². It is round-to-even
    /// for |v| ≤ [`NEAREST_MAX`] and well defined, if not meaningful, for all else, NaN included.
    fn nearest(self, v: Self::F) -> Self::I;
    /// C's `(int8_t)v` for 0 ≤ v < 128, and for v that no i32 holds as this machine's compiler
    /// renders it: x86 converts to `i32::MIN`, aarch64 to the nearest i32, and both take the low
    /// byte.
    fn truncate_byte(self, v: Self::F) -> Self::I;
    /// C's `(int)v`.
    fn truncate(self, v: Self::F) -> Self::I;
    /// v rounded half away from zero, as C's `roundf`, then converted as [`Simd::truncate_byte`]
    /// says.
    fn round_away(self, v: Self::F) -> Self::I;
    /// The bits of each f32.
    fn bits(self, v: Self::F) -> Self::I;
    /// The f32 of these bits.
    fn of_bits(self, v: Self::I) -> Self::F;
    /// Per lane the table's entry whose number is the low five bits of `index`.
    fn lookup(self, table: &[i8; 32], index: Self::I) -> Self::F;
    /// 16 v.
    fn times16(self, v: Self::I) -> Self::I;
    /// The f32 nearest to each i32.
    fn float(self, v: Self::I) -> Self::F;
    /// The larger.
    fn imax(self, a: Self::I, b: Self::I) -> Self::I;
    /// The smaller.
    fn imin(self, a: Self::I, b: Self::I) -> Self::I;
}

/// Work that is compiled once for each instruction set.
pub(super) trait Task {
    /// What it hands back.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`, so that the body takes the target
    /// features of the function it is called from.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// `impl $op for $vector` by an intrinsic on the wrapped register.
macro_rules! operator {
    ($op:ident, $method:ident, $vector:ident, $intrinsic:expr) => {
        impl std::ops::$op for $vector {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: a vector is made only by a token, and a token exists only where the
                // CPU has the instructions.
                #[allow(unused_unsafe)]
                unsafe {
                    Self($intrinsic(self.0, other.0))
                }
            }
        }
    };
}
use operator;

/// A method of [`Simd`] whose body is intrinsics.
macro_rules! by_intrinsics {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` is a token: the CPU has the instructions.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}
use by_intrinsics;

/// Runs a task compiled for an instruction set.
pub(super) trait Dispatch {
    /// Runs `task` with the vectors of this instruction set; plain where the CPU lacks it.
    fn dispatch<T: Task>(self, task: T) -> T::Output;
}

impl Dispatch for Isa {
    fn dispatch<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if self.is_available() => {
                // SAFETY: the CPU has just been found to have it.
                unsafe { avx512::run(task) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if self.is_available() => {
                // SAFETY: the CPU has just been found to have it.
                unsafe { avx2::run(task) }
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if self.is_available() => {
                // SAFETY: the CPU has just been found to have it.
                unsafe { neon::run(task) }
            }
            _ => task.run(plain::Plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of the operations with a contract at the edges, as bits.
    struct Edges;

    impl Task for Edges {
        type Output = Vec<Vec<i64>>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let values = [
                0.0f32,
                -0.0,
                0.5,
                -0.5,
                1.5,
                2.5,
                -2.5,
                0.49999997,
                -0.49999997,
                126.5,
                127.49999,
                -126.5,
                4194302.5,
                1e-42,
                15.500001,
                -3.5,
            ];
            let table = std::array::from_fn(|i| (37 * i) as i8);
            let floats = |v: S::F| {
                let mut out = [0.0; 64];
                s.store(v, &mut out);
                i64::from(out[0].to_bits())
            };
            let ints = |v: S::I| {
                let mut out = [0; 64];
                s.store_bytes(v, &mut out);
                i64::from(out[0]) << 32 | floats(s.float(v))
            };
            values
                .iter()
                .flat_map(|&a| values.iter().map(move |&b| (a, b)))
                .map(|(a, b)| {
                    let (va, vb) = (s.splat(a), s.splat(b));
                    vec![
                        floats(s.max(va, vb)),
                        floats(s.min(va, vb)),
                        floats(va / vb),
                        floats(s.sqrt(s.abs(va))),
                        ints(s.nearest(va)),
                        ints(s.truncate(va)),
                        ints(s.round_away(va)),
                        floats(s.of_bits(s.bits(va))),
                        floats(s.lookup(&table, s.nearest(va))),
                        i64::from(s.any(s.lt(va, vb))),
                        i64::from(s.all(s.ne(va, vb))),
                    ]
                })
                .collect()
        }
    }

    #[test]
    fn instruction_sets_agree_on_the_edges() {
        let plain = Isa::Plain.dispatch(Edges);
        for isa in Isa::available() {
            assert_eq!(isa.dispatch(Edges), plain, "{isa:?}");
        }
    }

    /// Columns of a matrix whose entry says where it stood.
    struct Columns;

    impl Task for Columns {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let from: Vec<f32> = (0..64 * 32).map(|i| i as f32).collect();
            let mut to = [s.splat(0.0); 32];
            s.columns(&from, 32, &mut to);
            let mut lanes = [0.0; 64];
            for (i, column) in to.iter().enumerate() {
                s.store(*column, &mut lanes);
                for (j, &lane) in lanes[..S::LANES].iter().enumerate() {
                    assert_eq!(lane, (32 * j + i) as f32);
                }
            }
        }
    }

    #[test]
    fn columns_are_transposed_rows() {
        for isa in Isa::available() {
            isa.dispatch(Columns);
        }
    }
}
