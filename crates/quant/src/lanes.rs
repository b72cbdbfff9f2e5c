//! Vectors of f32 for the encoders, in which each *lane* does one independent fit.
//!
//! A search over a sub-block is a chain of sums, and their order affects the last bit, so a
//! sub-block cannot be distributed over the lanes of a vector without changing the result. But
//! sub-blocks are independent of each other, so several are searched at once: lane `j` of every
//! vector belongs to sub-block `j`, and within a lane the operations are in the order of the scalar
//! definition, with multiplications and additions rounded separately. The algorithms are written
//! once, generic over [`Simd`]; this module's children implement it for each instruction set.

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

/// 1.5 · 2²³. If it is added to `v`, |v| < 2²², the low bits of the sum's mantissa are `v` rounded
/// to the nearest integer, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// The largest |v| that [`Simd::nearest`] rounds; for larger ones it returns mantissa bits without
/// meaning.
pub(super) const NEAREST_MAX: f32 = 4_194_303.0;

/// An instruction set. A value of an implementing type exists only if the CPU has the instructions.
///
/// Operations panic if a slice is shorter than they need; the encoders pass arrays of fixed size.
pub(super) trait Simd: Copy {
    /// The number of lanes in a vector.
    const LANES: usize;
    /// The number of floats in each run of [`Simd::tile`]: 16 or a divisor of it.
    const TILE: usize;
    /// A vector of f32, whose IEEE 754 operations are each rounded.
    type F: Copy
        + Add<Output = Self::F>
        + Sub<Output = Self::F>
        + Mul<Output = Self::F>
        + Div<Output = Self::F>;
    /// A vector of i32, whose operations wrap.
    type I: Copy + Add<Output = Self::I> + BitAnd<Output = Self::I> + BitOr<Output = Self::I>;
    /// One truth value per lane.
    type M: Copy + BitAnd<Output = Self::M> + BitOr<Output = Self::M>;

    /// `value` in each lane.
    fn splat(self, value: f32) -> Self::F;
    /// `value` in each lane.
    fn int(self, value: i32) -> Self::I;
    /// Loads the first `LANES` floats.
    fn load(self, from: &[f32]) -> Self::F;
    /// Stores to the first `LANES` floats.
    fn store(self, v: Self::F, to: &mut [f32]);
    /// Loads the first `LANES` little-endian f16, converted to f32.
    fn load_f16(self, from: &[u8]) -> Self::F;
    /// Loads the first `LANES` little-endian bf16, converted to f32.
    fn load_bf16(self, from: &[u8]) -> Self::F;
    /// Stores the low byte of each lane to the first `LANES` bytes.
    fn store_bytes(self, v: Self::I, to: &mut [u8]);

    /// Loads `LANES` runs of `TILE` floats, `stride` apart, and transposes them:
    /// lane `j` of `to[i]` is `from[j * stride + i]`.
    fn tile(self, from: &[f32], stride: usize, to: &mut [Self::F]);

    /// Like [`Simd::tile`], for runs of `to.len()` floats, any multiple of `TILE`.
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
    /// Rounds to the nearest integer, ties to even, for |v| ≤ [`NEAREST_MAX`].
    fn round(self, v: Self::F) -> Self::F;
    /// `a < b`, false where either is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a ≠ b`, true where either is NaN.
    fn ne(self, a: Self::F, b: Self::F) -> Self::M;
    /// `m ? a : b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Returns whether any lane is true.
    fn any(self, m: Self::M) -> bool;
    /// Returns whether all lanes are true.
    fn all(self, m: Self::M) -> bool;

    /// ggml's rounding: the 23 mantissa bits of v + 1.5 · 2²³, minus 2²². For |v| ≤ [`NEAREST_MAX`]
    /// it rounds to the nearest integer, ties to even. For all other values, NaN included, the
    /// result has no meaning but is the same on every instruction set.
    fn nearest(self, v: Self::F) -> Self::I;
    /// C's `(int8_t)v` for 0 ≤ v < 128. Where C leaves the result undefined, because no i32 holds
    /// v, it is what C compilers give: on x86 the low byte of `i32::MIN`, on aarch64 that of the
    /// nearest i32.
    fn truncate_byte(self, v: Self::F) -> Self::I;
    /// C's `(int)v`.
    fn truncate(self, v: Self::F) -> Self::I;
    /// Rounds to the nearest integer, ties away from zero, like C's `roundf`, then converts like
    /// [`Simd::truncate_byte`].
    fn round_away(self, v: Self::F) -> Self::I;
    /// The bits of each f32.
    fn bits(self, v: Self::F) -> Self::I;
    /// The f32 with these bits.
    fn of_bits(self, v: Self::I) -> Self::F;
    /// For each lane, the table entry at the low five bits of `index`.
    fn lookup(self, table: &[i8; 32], index: Self::I) -> Self::F;
    /// 16 v.
    fn times16(self, v: Self::I) -> Self::I;
    /// The f32 nearest to each i32.
    fn float(self, v: Self::I) -> Self::F;
    /// The larger of `a` and `b`.
    fn imax(self, a: Self::I, b: Self::I) -> Self::I;
    /// The smaller of `a` and `b`.
    fn imin(self, a: Self::I, b: Self::I) -> Self::I;
}

/// Work that is compiled once for each instruction set.
pub(super) trait Task {
    /// The result.
    type Output;
    /// Does the work. Implementations are `#[inline(always)]`, so that the body is compiled with
    /// the target features of the calling function.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Implements `$op` for `$vector` by an intrinsic on the wrapped register.
macro_rules! operator {
    ($op:ident, $method:ident, $vector:ident, $intrinsic:expr) => {
        impl std::ops::$op for $vector {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: only methods of the `Simd` type make vectors, and its values exist
                // only if the CPU has the instructions.
                #[allow(unused_unsafe)]
                unsafe {
                    Self($intrinsic(self.0, other.0))
                }
            }
        }
    };
}
use operator;

/// Defines methods of [`Simd`] whose bodies are intrinsics.
macro_rules! by_intrinsics {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` exists only if the CPU has the instructions.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}
use by_intrinsics;

/// Running a task with an instruction set that is chosen at run time.
pub(super) trait Dispatch {
    /// Runs `task` compiled for this instruction set, or in plain Rust if the CPU does not have it.
    fn dispatch<T: Task>(self, task: T) -> T::Output;
}

impl Dispatch for Isa {
    fn dispatch<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 if self.is_available() => {
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

    /// The results, as bits, of the operations whose behaviour at the edges of their range matters.
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

    /// Transposes a matrix whose entries are their own positions.
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
