//! The loops over rows, columns and blocks, the same for every instruction set.

use super::columns::{Block, tile as tile_of};
use super::formats::{UNPACKED, UNPACKED_CENTRED, is_centred};
use super::{ROWS, Sink, block_bytes};
use bytemuck::Pod;
use std::array;

/// Bytes of activations that are worked on together: they stay in the first cache.
const NEAR: usize = 20 << 10;

/// Bytes between what is used and what is fetched, where weights are read from front to back.
const AHEAD: usize = 2 << 10;

/// What an instruction set does with a block. A value is a token: the CPU has the instructions.
pub(super) trait Simd: Copy {
    /// 256 weights taken unpacked.
    type Weights: Pod;
    /// Sums of products, still spread over lanes.
    type Sum: Copy;

    /// Columns from which on two rows at a time are faster than one after the other.
    const SHARE: usize;

    fn zero(self) -> Self::Sum;
    /// Unpacks a block of type `T`.
    fn unpack<const T: u32>(self, block: &[u8]) -> Self::Weights;
    /// Adds to the sum of every row and column 256 products of weights of type `T`.
    fn add_products<const T: u32, const R: usize, const C: usize>(
        self,
        weights: &[Self::Weights; R],
        x: &[Block; C],
        sums: &mut [[Self::Sum; C]; R],
    );
    fn total(self, sum: Self::Sum) -> f32;
    /// Fetches what will be read next, or soon; nothing happens if there is nothing.
    fn prefetch(self, address: *const u8, next: bool);
}

/// Bytes of 256 weights of a type.
const fn size<S: Simd>(ty: u32) -> usize {
    match is_unpacked(ty) {
        true => size_of::<S::Weights>(),
        false => block_bytes(ty),
    }
}

/// Returns whether weights of this type are already unpacked.
const fn is_unpacked(ty: u32) -> bool {
    matches!(ty, UNPACKED | UNPACKED_CENTRED)
}

/// What is fetched from memory while a block is multiplied.
#[derive(Clone, Copy)]
struct Ahead {
    /// How far behind that block it lies.
    bytes: usize,
    /// It is used before much else.
    next: bool,
}

/// See [`super::Kernel::multiply`]; `T` is the type of the weights.
#[inline(always)]
pub(super) fn multiply<S: Simd, const T: u32>(
    s: S,
    rows: &[u8],
    x: &[Block],
    n: usize,
    sink: &mut Sink<'_>,
) {
    let blocks = x.len() / n;
    let tile = tile_of(n);
    if n == tile {
        for (i, rows) in rows.chunks(ROWS * blocks * size::<S>(T)).enumerate() {
            few::<S, T>(s, rows, x, n, &mut |c, rows| sink(c, i * ROWS, rows));
        }
        return;
    }
    // Unpacked once, then multiplied with a few columns at a time.
    let unpacked_size = size::<S>(UNPACKED);
    let mut unpacked = vec![0u8; ROWS * blocks * unpacked_size];
    for (i, rows) in rows.chunks(ROWS * blocks * size::<S>(T)).enumerate() {
        let ahead = Ahead {
            bytes: rows.len(),
            next: false,
        };
        let unpacked = &mut unpacked[..rows.len() / size::<S>(T) * unpacked_size];
        let weights = unpacked.chunks_exact_mut(unpacked_size);
        for (weights, block) in weights.zip(rows.chunks_exact(size::<S>(T))) {
            prefetch::<S, T>(s, block, ahead);
            weights.copy_from_slice(bytemuck::bytes_of(&s.unpack::<T>(block)));
        }
        for (j, x) in x.chunks(tile * blocks).enumerate() {
            let sink = &mut |c: usize, rows: &[f32]| sink(j * tile + c, i * ROWS, rows);
            match is_centred(T) {
                true => few::<S, UNPACKED_CENTRED>(s, unpacked, x, x.len() / blocks, sink),
                false => few::<S, UNPACKED>(s, unpacked, x, x.len() / blocks, sink),
            }
        }
    }
}

/// Up to [`ROWS`] rows times up to [`tile_of`] columns.
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
            _ if C >= S::SHARE => 2 * row_bytes,
            _ => AHEAD,
        },
        next: x.len() <= near,
    };
    // Unpacking needs registers, too.
    let shared = C >= S::SHARE || S::SHARE < usize::MAX && is_unpacked(T) && C > 1;
    let mut sums = [[s.zero(); C]; ROWS];
    for (i, part) in x.chunks(near).enumerate() {
        let start = i * near * size::<S>(T);
        let (pairs, _) = sums.as_chunks_mut::<2>();
        for (rows, sums) in rows.chunks(2 * row_bytes).zip(pairs) {
            let (first, second) = rows.split_at(row_bytes);
            let first = &first[start..];
            if shared && !second.is_empty() {
                some::<S, T, 2, C>(s, [first, &second[start..]], part, ahead, sums);
                continue;
            }
            some::<S, T, 1, C>(s, [first], part, ahead, array::from_mut(&mut sums[0]));
            if !second.is_empty() {
                let second = [&second[start..]];
                some::<S, T, 1, C>(s, second, part, ahead, array::from_mut(&mut sums[1]));
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

/// `R` rows, which share the reading of activations, times `C` columns, from where `rows` and `x`
/// begin to where `x` ends.
#[inline(always)]
fn some<S: Simd, const T: u32, const R: usize, const C: usize>(
    s: S,
    rows: [&[u8]; R],
    x: &[[Block; C]],
    ahead: Ahead,
    sums: &mut [[S::Sum; C]; R],
) {
    let mut sum = *sums;
    let mut blocks = rows.map(|row| row.chunks_exact(size::<S>(T)));
    for x in x {
        let mut weights: [S::Weights; R] = [bytemuck::Zeroable::zeroed(); R];
        for r in 0..R {
            let block = blocks[r].next().expect("as many as of activations");
            prefetch::<S, T>(s, block, ahead);
            weights[r] = s.unpack::<T>(block);
        }
        s.add_products::<T, R, C>(&weights, x, &mut sum);
    }
    *sums = sum;
}

/// Fetches a block that lies `ahead` bytes behind another.
#[inline(always)]
fn prefetch<S: Simd, const T: u32>(s: S, block: &[u8], ahead: Ahead) {
    if is_unpacked(T) {
        return;
    }
    let address = block.as_ptr().wrapping_add(ahead.bytes);
    for line in 0..size::<S>(T).div_ceil(64) {
        s.prefetch(address.wrapping_add(64 * line), ahead.next);
    }
}
