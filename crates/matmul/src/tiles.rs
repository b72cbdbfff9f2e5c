//! The loops over rows, columns and blocks, shared by all instruction sets.

use super::columns::{Block, tile_width};
use super::formats::{Q8_0, UNPACKED, UNPACKED_WITH_ZERO_POINT, has_zero_point, may_end_early};
use super::{ROWS, Rows, Sink, block_bytes};
use bytemuck::Pod;
use std::array;

/// Bytes of activations that are multiplied with all rows of a tile before the next part, so that
/// they stay in the L1 cache.
const ACTIVATION_BYTES: usize = 20 << 10;

/// Distance in bytes between the weights in use and the weights being prefetched, where weights are
/// read sequentially.
const PREFETCH_DISTANCE: usize = 2 << 10;

/// The operations on a block that each instruction set implements. A value of an implementing type
/// exists only if the CPU has the instructions.
pub(super) trait Simd: Copy {
    /// 256 unpacked weights.
    type Weights: Pod;
    /// A sum of products that is still distributed over the lanes of a vector.
    type Sum: Copy;

    /// The number of columns from which multiplying two rows at a time is faster than one row after
    /// the other.
    const TWO_ROWS_FROM: usize;

    fn zero(self) -> Self::Sum;
    /// Unpacks a block of type `T`.
    fn unpack<const T: u32>(self, block: &[u8]) -> Self::Weights;
    /// For every row and column, accumulates the products of 256 weights of type `T` and 256
    /// activations.
    fn add_products<const T: u32, const R: usize, const C: usize>(
        self,
        weights: &[Self::Weights; R],
        x: &[Block; C],
        sums: &mut [[Self::Sum; C]; R],
    );
    /// Calls [`multiply_tile`] for weights that are already unpacked, of a type with a constant
    /// zero-point or of one with minima. Not generic over the type, so that it is compiled once
    /// for all of them.
    fn multiply_unpacked(
        self,
        zero_point: bool,
        rows: Rows<'_>,
        x: &[Block],
        n: usize,
        sink: &mut dyn FnMut(usize, &[f32]),
    );
    /// Adds up the lanes of a sum.
    fn total(self, sum: Self::Sum) -> f32;
    /// Prefetches a cache line: into L1 if it is used next, otherwise into L2. An address outside
    /// mapped memory is ignored.
    fn prefetch(self, address: *const u8, used_next: bool);
}

/// The size in bytes of 256 weights of type `ty`.
const fn size<S: Simd>(ty: u32) -> usize {
    match is_unpacked(ty) {
        true => size_of::<S::Weights>(),
        false => block_bytes(ty),
    }
}

/// The size in bytes of the largest block of a type that may end early.
const MOST_BYTES: usize = block_bytes(Q8_0);

/// A block as long as all others of its type. The last one of a row may be shorter; it is copied to
/// `padded` and continues with zeros, which are weights of 0.
#[inline(always)]
fn whole<'a, const T: u32>(block: &'a [u8], padded: &'a mut [u8; MOST_BYTES]) -> &'a [u8] {
    if !may_end_early(T) || block.len() == block_bytes(T) {
        return block;
    }
    padded[..block.len()].copy_from_slice(block);
    &padded[..block_bytes(T)]
}

/// Returns whether weights of type `ty` are already unpacked.
const fn is_unpacked(ty: u32) -> bool {
    matches!(ty, UNPACKED | UNPACKED_WITH_ZERO_POINT)
}

/// Which weights are prefetched while a block is multiplied.
#[derive(Clone, Copy)]
struct Prefetch {
    /// Their distance in bytes from that block.
    distance: usize,
    /// Whether they are used next, so that they belong into the L1 cache.
    used_next: bool,
}

/// Implements [`super::Kernel::multiply`]; `T` is the type of the weights.
#[inline(always)]
pub(super) fn multiply<S: Simd, const T: u32>(
    s: S,
    rows: Rows<'_>,
    x: &[Block],
    n: usize,
    sink: &mut Sink<'_>,
) {
    let Rows { bytes, row_bytes } = rows;
    let blocks = x.len() / n;
    let tile = tile_width(n);
    let groups = bytes
        .chunks(ROWS * row_bytes)
        .map(|bytes| Rows { bytes, row_bytes });
    if n == tile {
        for (i, rows) in groups.enumerate() {
            multiply_tile::<S, T>(s, rows, x, n, &mut |c, rows| sink(c, i * ROWS, rows));
        }
        return;
    }
    // More than one tile: unpack the rows once, then multiply them with one tile after the other.
    let unpacked_size = size::<S>(UNPACKED);
    let mut unpacked = vec![0u8; ROWS * blocks * unpacked_size];
    let mut padded = [0; MOST_BYTES];
    for (i, Rows { bytes, .. }) in groups.enumerate() {
        let prefetch = Prefetch {
            distance: bytes.len(),
            used_next: false,
        };
        let mut weights = unpacked.chunks_exact_mut(unpacked_size);
        for row in bytes.chunks_exact(row_bytes) {
            for (block, weights) in row.chunks(size::<S>(T)).zip(&mut weights) {
                prefetch_block::<S, T>(s, block, prefetch);
                let block = whole::<T>(block, &mut padded);
                weights.copy_from_slice(bytemuck::bytes_of(&s.unpack::<T>(block)));
            }
        }
        let unpacked = Rows {
            bytes: &unpacked[..bytes.len() / row_bytes * blocks * unpacked_size],
            row_bytes: blocks * unpacked_size,
        };
        for (j, x) in x.chunks(tile * blocks).enumerate() {
            let sink = &mut |c: usize, rows: &[f32]| sink(j * tile + c, i * ROWS, rows);
            s.multiply_unpacked(has_zero_point(T), unpacked, x, x.len() / blocks, sink);
        }
    }
}

/// Multiplies up to [`ROWS`] rows with the `n` columns of one tile.
#[inline(always)]
pub(super) fn multiply_tile<S: Simd, const T: u32>(
    s: S,
    rows: Rows<'_>,
    x: &[Block],
    n: usize,
    sink: &mut dyn FnMut(usize, &[f32]),
) {
    match n {
        1 => multiply_tile_of_width::<S, T, 1>(s, rows, x, sink),
        2 => multiply_tile_of_width::<S, T, 2>(s, rows, x, sink),
        3 => multiply_tile_of_width::<S, T, 3>(s, rows, x, sink),
        4 => multiply_tile_of_width::<S, T, 4>(s, rows, x, sink),
        5 => multiply_tile_of_width::<S, T, 5>(s, rows, x, sink),
        6 => multiply_tile_of_width::<S, T, 6>(s, rows, x, sink),
        7 => multiply_tile_of_width::<S, T, 7>(s, rows, x, sink),
        _ => multiply_tile_of_width::<S, T, 8>(s, rows, x, sink),
    }
}

/// [`multiply_tile`] for a number of columns that is known at compile time.
#[inline(always)]
fn multiply_tile_of_width<S: Simd, const T: u32, const C: usize>(
    s: S,
    rows: Rows<'_>,
    x: &[Block],
    sink: &mut dyn FnMut(usize, &[f32]),
) {
    let Rows {
        bytes: rows,
        row_bytes,
    } = rows;
    let (x, _) = x.as_chunks::<C>();
    let part_len = ACTIVATION_BYTES / size_of::<[Block; C]>();
    let prefetch = Prefetch {
        distance: match C {
            // Where the activations are split into parts, the rows after all of these come next to
            // this position; where two rows are multiplied at a time, the rows after the next two
            // do.
            _ if x.len() > part_len => rows.len(),
            _ if C >= S::TWO_ROWS_FROM => 2 * row_bytes,
            _ => PREFETCH_DISTANCE,
        },
        used_next: x.len() <= part_len,
    };
    // Weights that are already unpacked leave registers free for a second row.
    let shared = C >= S::TWO_ROWS_FROM || S::TWO_ROWS_FROM < usize::MAX && is_unpacked(T) && C > 1;
    let mut sums = [[s.zero(); C]; ROWS];
    for (i, part) in x.chunks(part_len).enumerate() {
        let start = i * part_len * size::<S>(T);
        let (pairs, _) = sums.as_chunks_mut::<2>();
        for (rows, sums) in rows.chunks(2 * row_bytes).zip(pairs) {
            let (first, second) = rows.split_at(row_bytes);
            let first = &first[start..];
            if shared && !second.is_empty() {
                accumulate::<S, T, 2, C>(s, [first, &second[start..]], part, prefetch, sums);
                continue;
            }
            accumulate::<S, T, 1, C>(s, [first], part, prefetch, array::from_mut(&mut sums[0]));
            if !second.is_empty() {
                let second = [&second[start..]];
                accumulate::<S, T, 1, C>(s, second, part, prefetch, array::from_mut(&mut sums[1]));
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

/// Accumulates the products of `R` rows and `C` columns over the blocks of `x`. The rows start at
/// the block that `x` starts at and may be longer. Each block of activations is read once for all
/// `R` rows.
#[inline(always)]
fn accumulate<S: Simd, const T: u32, const R: usize, const C: usize>(
    s: S,
    rows: [&[u8]; R],
    x: &[[Block; C]],
    prefetch: Prefetch,
    sums: &mut [[S::Sum; C]; R],
) {
    let mut sum = *sums;
    let mut blocks = rows.map(|row| row.chunks(size::<S>(T)));
    let mut padded = [0; MOST_BYTES];
    for x in x {
        let mut weights: [S::Weights; R] = [bytemuck::Zeroable::zeroed(); R];
        for r in 0..R {
            let block = blocks[r].next().expect("as many as of activations");
            prefetch_block::<S, T>(s, block, prefetch);
            weights[r] = s.unpack::<T>(whole::<T>(block, &mut padded));
        }
        s.add_products::<T, R, C>(&weights, x, &mut sum);
    }
    *sums = sum;
}

/// Prefetches the block at `prefetch.distance` bytes after `block`, unless the weights are already
/// unpacked.
#[inline(always)]
fn prefetch_block<S: Simd, const T: u32>(s: S, block: &[u8], prefetch: Prefetch) {
    if is_unpacked(T) {
        return;
    }
    let address = block.as_ptr().wrapping_add(prefetch.distance);
    for line in 0..size::<S>(T).div_ceil(64) {
        s.prefetch(address.wrapping_add(64 * line), prefetch.used_next);
    }
}
