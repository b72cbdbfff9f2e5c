//! Two vectors as one with twice the lanes. A search that is one long chain of dependent operations
//! leaves execution units idle, so that a second, independent chain costs no more time.

use super::Simd;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Sub};

/// `S`, two vectors at a time.
#[derive(Clone, Copy)]
pub(crate) struct Pair<S>(pub(crate) S);

/// The lower lanes and the upper lanes.
#[derive(Clone, Copy)]
pub(crate) struct Two<T>(T, T);

macro_rules! operator {
    ($($op:ident $method:ident),*) => {$(
        impl<T: $op<Output = T>> $op for Two<T> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Two(self.0.$method(other.0), self.1.$method(other.1))
            }
        }
    )*};
}
operator!(Add add, Sub sub, Mul mul, Div div, BitAnd bitand, BitOr bitor);

macro_rules! each {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            Two(self.0.$name($($arg.0),*), self.0.$name($($arg.1),*))
        }
    )*};
}

impl<S: Simd> Simd for Pair<S> {
    const LANES: usize = 2 * S::LANES;
    const TILE: usize = S::TILE;
    type F = Two<S::F>;
    type I = Two<S::I>;
    type M = Two<S::M>;

    each! {
        abs(v: Self::F) -> Self::F;
        sqrt(v: Self::F) -> Self::F;
        max(a: Self::F, b: Self::F) -> Self::F;
        min(a: Self::F, b: Self::F) -> Self::F;
        round(v: Self::F) -> Self::F;
        lt(a: Self::F, b: Self::F) -> Self::M;
        ne(a: Self::F, b: Self::F) -> Self::M;
        select(m: Self::M, a: Self::F, b: Self::F) -> Self::F;
        nearest(v: Self::F) -> Self::I;
        truncate_byte(v: Self::F) -> Self::I;
        truncate(v: Self::F) -> Self::I;
        round_away(v: Self::F) -> Self::I;
        bits(v: Self::F) -> Self::I;
        of_bits(v: Self::I) -> Self::F;
        times16(v: Self::I) -> Self::I;
        float(v: Self::I) -> Self::F;
        imax(a: Self::I, b: Self::I) -> Self::I;
        imin(a: Self::I, b: Self::I) -> Self::I;
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        Two(self.0.splat(value), self.0.splat(value))
    }
    #[inline(always)]
    fn int(self, value: i32) -> Self::I {
        Two(self.0.int(value), self.0.int(value))
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        self.0.any(m.0 | m.1)
    }
    #[inline(always)]
    fn all(self, m: Self::M) -> bool {
        self.0.all(m.0 & m.1)
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F {
        Two(self.0.load(from), self.0.load(&from[S::LANES..]))
    }
    #[inline(always)]
    fn store(self, v: Self::F, to: &mut [f32]) {
        self.0.store(v.0, to);
        self.0.store(v.1, &mut to[S::LANES..]);
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> Self::F {
        Two(
            self.0.load_f16(from),
            self.0.load_f16(&from[2 * S::LANES..]),
        )
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> Self::F {
        Two(
            self.0.load_bf16(from),
            self.0.load_bf16(&from[2 * S::LANES..]),
        )
    }
    #[inline(always)]
    fn store_bytes(self, v: Self::I, to: &mut [u8]) {
        self.0.store_bytes(v.0, to);
        self.0.store_bytes(v.1, &mut to[S::LANES..]);
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 32], index: Self::I) -> Self::F {
        Two(self.0.lookup(table, index.0), self.0.lookup(table, index.1))
    }
    #[inline(always)]
    fn tile(self, from: &[f32], stride: usize, to: &mut [Self::F]) {
        let mut half = [self.0.splat(0.0); 16];
        let half = &mut half[..S::TILE];
        self.0.tile(from, stride, half);
        for (to, lower) in to.iter_mut().zip(half.iter()) {
            to.0 = *lower;
        }
        self.0.tile(&from[S::LANES * stride..], stride, half);
        for (to, upper) in to.iter_mut().zip(half.iter()) {
            to.1 = *upper;
        }
    }
}
