//! The order in which rows and columns meet, the same for every instruction set.

use super::columns::{Block, is_centred, tile as tile_of};
use super::{ROWS, Sink, block_bytes};
use crate::gguf::GgmlType;
use bytemuck::Pod;

/// Columns that are multiplied with a block of weights while it lies in registers.
pub(super) const COLUMNS: usize = 8;

/// Columns from which on two rows at a time are faster than one after the other.
const SHARE: usize = 5;

/// Bytes of activations that are worked on together: they stay in the first cache.
const NEAR: usize = 20 << 10;

/// Bytes between what is used and what is fetched, where weights are read from front to back.
const AHEAD: usize = 2 << 10;

pub(super) const Q4_0: u32 = GgmlType::Q4_0.0;
pub(super) const Q8_0: u32 = GgmlType::Q8_0.0;
pub(super) const Q4_K: u32 = GgmlType::Q4_K.0;
pub(super) const Q5_K: u32 = GgmlType::Q5_K.0;
pub(super) const Q6_K: u32 = GgmlType::Q6_K.0;
/// [`Simd::Weights`] as they are, with minima.
pub(super) const APART: u32 = u32::MAX;
/// [`Simd::Weights`] as they are, around a centre.
pub(super) const APART_CENTRED: u32 = u32::MAX - 1;

/// What an instruction set does with a block. A value is a token: the CPU has the instructions.
pub(super) trait Simd: Copy {
    /// 256 weights taken apart.
    type Weights: Pod;
    /// Sums of products, still spread over lanes.
    type Sum: Copy;

    fn zero(self) -> Self::Sum;
    /// Takes apart a block of type `T`.
    fn take_apart<const T: u32>(self, block: &[u8]) -> Self::Weights;
    /// The sum of 256 products of weights of type `T` and what came before.
    fn add_product<const T: u32>(
        self,
        weights: &Self::Weights,
        x: &Block,
        sum: Self::Sum,
    ) -> Self::Sum;
    fn total(self, sum: Self::Sum) -> f32;
    /// Fetches what will be read next, or soon; nothing happens if there is nothing.
    fn prefetch(self, address: *const u8, next: bool);
}

/// Bytes of 256 weights of a type.
const fn size<S: Simd>(ty: u32) -> usize {
    match is_apart(ty) {
        true => size_of::<S::Weights>(),
        false => block_bytes(ty),
    }
}

/// Are weights of this type already taken apart?
const fn is_apart(ty: u32) -> bool {
    matches!(ty, APART | APART_CENTRED)
}

/// What is fetched from memory while a block is multiplied.
#[derive(Clone, Copy)]
struct Ahead {
    /// How far behind that block it lies.
    bytes: usize,
    /// It is used before much else.
    next: bool,
}

/// See [`super::Kernel::multiply`].
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    s: S,
    ty: GgmlType,
    rows: &[u8],
    x: &[Block],
    n: usize,
    sink: &mut Sink<'_>,
) {
    match ty.0 {
        Q4_0 => all::<S, Q4_0>(s, rows, x, n, sink),
        Q8_0 => all::<S, Q8_0>(s, rows, x, n, sink),
        Q4_K => all::<S, Q4_K>(s, rows, x, n, sink),
        Q5_K => all::<S, Q5_K>(s, rows, x, n, sink),
        _ => all::<S, Q6_K>(s, rows, x, n, sink),
    }
}

#[inline(always)]
fn all<S: Simd, const T: u32>(s: S, rows: &[u8], x: &[Block], n: usize, sink: &mut Sink<'_>) {
    let blocks = x.len() / n;
    let tile = tile_of(n);
    if n == tile {
        for (i, rows) in rows.chunks(ROWS * blocks * size::<S>(T)).enumerate() {
            few::<S, T>(s, rows, x, n, &mut |c, rows| sink(c, i * ROWS, rows));
        }
        return;
    }
    // Taken apart once, then multiplied with a few columns at a time.
    let apart_size = size::<S>(APART);
    let mut apart = vec![0u8; ROWS * blocks * apart_size];
    for (i, rows) in rows.chunks(ROWS * blocks * size::<S>(T)).enumerate() {
        let ahead = Ahead {
            bytes: rows.len(),
            next: false,
        };
        let apart = &mut apart[..rows.len() / size::<S>(T) * apart_size];
        let weights = apart.chunks_exact_mut(apart_size);
        for (weights, block) in weights.zip(rows.chunks_exact(size::<S>(T))) {
            prefetch::<S, T>(s, block, ahead);
            weights.copy_from_slice(bytemuck::bytes_of(&s.take_apart::<T>(block)));
        }
        for (j, x) in x.chunks(tile * blocks).enumerate() {
            let sink = &mut |c: usize, rows: &[f32]| sink(j * tile + c, i * ROWS, rows);
            match is_centred(T) {
                true => few::<S, APART_CENTRED>(s, apart, x, x.len() / blocks, sink),
                false => few::<S, APART>(s, apart, x, x.len() / blocks, sink),
            }
        }
    }
}

/// Up to [`ROWS`] rows times up to [`COLUMNS`] columns.
#[inline(always)]
fn few<S: Simd, const T: u32>(
    s: S,
    rows: &[u8],
    x: &[Block],
    n: usize,
    sink: &mut dyn FnMut(usize, &[f32]),
) {
    match n {
        1 => tile::<S, T, 1>(s, rows, x, sink),
        2 => tile::<S, T, 2>(s, rows, x, sink),
        3 => tile::<S, T, 3>(s, rows, x, sink),
        4 => tile::<S, T, 4>(s, rows, x, sink),
        5 => tile::<S, T, 5>(s, rows, x, sink),
        6 => tile::<S, T, 6>(s, rows, x, sink),
        7 => tile::<S, T, 7>(s, rows, x, sink),
        _ => tile::<S, T, 8>(s, rows, x, sink),
    }
}

#[inline(always)]
fn tile<S: Simd, const T: u32, const C: usize>(
    s: S,
    rows: &[u8],
    x: &[Block],
    sink: &mut dyn FnMut(usize, &[f32]),
) {
    let (x, _) = x.as_chunks::<C>();
    let near = NEAR / size_of::<[Block; C]>();
    let row_bytes = x.len() * size::<S>(T);
    let ahead = Ahead {
        bytes: match C {
            // The same place of the rows after all of these, or of those after the next two.
            _ if x.len() > near => rows.len(),
            SHARE.. => 2 * row_bytes,
            _ => AHEAD,
        },
        next: x.len() <= near,
    };
    // Taking apart needs registers, too.
    let shared = C >= SHARE || is_apart(T) && C > 1;
    let mut sums = [[s.zero(); C]; ROWS];
    for (i, part) in x.chunks(near).enumerate() {
        let start = i * near * size::<S>(T);
        let (pairs, _) = sums.as_chunks_mut::<2>();
        for (rows, sums) in rows.chunks(2 * row_bytes).zip(pairs) {
            let (first, second) = rows.split_at(row_bytes);
            if second.is_empty() || !shared {
                one::<S, T, C>(s, &first[start..], part, ahead, &mut sums[0]);
                if !second.is_empty() {
                    one::<S, T, C>(s, &second[start..], part, ahead, &mut sums[1]);
                }
            } else {
                two::<S, T, C>(s, [&first[start..], &second[start..]], part, ahead, sums);
            }
        }
    }
    let count = rows.len() / row_bytes;
    for c in 0..C {
        let mut column = [0f32; ROWS];
        for (total, sums) in column.iter_mut().zip(&sums) {
            *total = s.total(sums[c]);
        }
        sink(c, &column[..count]);
    }
}

/// A row times `C` columns, from where `row` and `x` begin to where `x` ends.
#[inline(always)]
fn one<S: Simd, const T: u32, const C: usize>(
    s: S,
    row: &[u8],
    x: &[[Block; C]],
    ahead: Ahead,
    sums: &mut [S::Sum; C],
) {
    let mut sum = *sums;
    for (block, x) in row.chunks_exact(size::<S>(T)).zip(x) {
        prefetch::<S, T>(s, block, ahead);
        let weights = s.take_apart::<T>(block);
        for c in 0..C {
            sum[c] = s.add_product::<T>(&weights, &x[c], sum[c]);
        }
    }
    *sums = sum;
}

/// Two rows, which share the reading of activations.
#[inline(always)]
fn two<S: Simd, const T: u32, const C: usize>(
    s: S,
    rows: [&[u8]; 2],
    x: &[[Block; C]],
    ahead: Ahead,
    sums: &mut [[S::Sum; C]; 2],
) {
    let [mut sum, mut sum2] = *sums;
    let blocks = rows[0].chunks_exact(size::<S>(T));
    let blocks2 = rows[1].chunks_exact(size::<S>(T));
    for ((block, block2), x) in blocks.zip(blocks2).zip(x) {
        prefetch::<S, T>(s, block, ahead);
        prefetch::<S, T>(s, block2, ahead);
        let weights = s.take_apart::<T>(block);
        let weights2 = s.take_apart::<T>(block2);
        for c in 0..C {
            sum[c] = s.add_product::<T>(&weights, &x[c], sum[c]);
            sum2[c] = s.add_product::<T>(&weights2, &x[c], sum2[c]);
        }
    }
    *sums = [sum, sum2];
}

/// Fetches a block that lies `ahead` bytes behind another.
#[inline(always)]
fn prefetch<S: Simd, const T: u32>(s: S, block: &[u8], ahead: Ahead) {
    if is_apart(T) {
        return;
    }
    let address = block.as_ptr().wrapping_add(ahead.bytes);
    for line in 0..size::<S>(T).div_ceil(64) {
        s.prefetch(address.wrapping_add(64 * line), ahead.next);
    }
}
