//! Attention of many queries, in tiles, by AVX-512.
//!
//! ggml computes it as one operation: the products of queries and keys, softmax with a mask, and the
//! products of the weights with the values. Here a tile of [`QUERIES`] queries of one head meets
//! [`KEYS`] keys at a time. Everything is laid out with one query per lane, so that keys and values,
//! once converted to 32 bits, are read in their own order and broadcast, and the maximum and the sum
//! over keys need no operation across lanes. The softmax is computed online (Milakov and Gimelshein
//! 2018, Dao et al. 2022): results so far are rescaled when a larger score appears.
//!
//! Tiles of keys begin at the same keys for every query, so a query's result does not depend on the
//! queries beside it.

#![allow(unsafe_code)]

mod lanes;
mod memory;
#[cfg(test)]
mod tests;

use super::avx512::Avx512;
use lanes::{accumulate, multiply_keys, softmax};
use memory::{Masked, Tile, load_mask, load_queries, load_rows, store};
use std::arch::x86_64::*;

/// The number of queries in a tile: four vectors.
const QUERIES: usize = 64;
/// The number of keys in a tile.
const KEYS: usize = 48;
/// The number of rows that are accumulated in registers, each four vectors wide.
const ROWS: usize = 6;
const LANES: usize = 16;
const VECTORS: usize = QUERIES / LANES;

/// What ggml's operation `FLASH_ATTN_EXT` is given; mirrors `struct modelve_attention` of `ggml.cpp`.
/// Strides are in bytes. All rows are contiguous.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Operands {
    /// `[batches][heads][queries][key_width]` of 32-bit floats, with the strides of the first three,
    /// the last first.
    pub q: *const u8,
    pub q_strides: [usize; 3],
    /// `[kv_batches][kv_heads][keys][key_width]` of 16-bit floats.
    pub k: *const u8,
    pub k_strides: [usize; 3],
    /// `[kv_batches][kv_heads][keys][value_width]` of 16-bit floats.
    pub v: *const u8,
    pub v_strides: [usize; 3],
    /// `[mask_batches][mask_heads][queries][keys]` of 16-bit floats that are added to the scores, or
    /// null.
    pub mask: *const u8,
    pub mask_strides: [usize; 3],
    /// `[batches][queries][heads][value_width]` of 32-bit floats; `out_stride` is that of heads.
    pub out: *mut u8,
    pub out_stride: usize,
    pub key_width: usize,
    pub value_width: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub batches: usize,
    pub kv_batches: usize,
    pub mask_heads: usize,
    pub mask_batches: usize,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// Returns whether there is a kernel for heads of these widths and as many queries. From a full tile
/// on ggml, too, multiplies all queries with all keys; of fewer, which may be one query of each of
/// many sequences, it leaves out the keys that a query does not see.
pub(super) fn has_kernel(key_width: usize, value_width: usize, queries: usize) -> bool {
    let fits = |width: usize| width > 0 && width.is_multiple_of(LANES);
    Avx512::detect().is_some() && queries >= QUERIES && fits(key_width) && fits(value_width)
}

/// The number of tiles, which different threads may compute.
pub(super) fn tiles(operands: &Operands) -> usize {
    operands.queries.div_ceil(QUERIES) * operands.heads * operands.batches
}

/// The number of floats that a tile needs beside its operands.
pub(super) fn scratch(key_width: usize, value_width: usize) -> usize {
    (QUERIES + KEYS) * (key_width + value_width) + 2 * QUERIES * KEYS
}

/// Computes a tile.
///
/// # Safety
/// [`has_kernel`]; the operands are as they say, and nothing writes to them; `tile` is less than
/// [`tiles`], and nothing else touches the results of this tile, or `scratch`, which has
/// [`scratch`] floats.
pub(super) unsafe fn compute(operands: &Operands, tile: usize, scratch: &mut [f32]) {
    // SAFETY: the CPU has the instructions, and the rest is the caller's.
    unsafe { compute_tile(operands, tile, scratch) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn compute_tile(operands: &Operands, tile: usize, scratch: &mut [f32]) {
    let per_head = operands.queries.div_ceil(QUERIES);
    let first = tile % per_head * QUERIES;
    let tile = Tile {
        operands,
        first,
        count: QUERIES.min(operands.queries - first),
        head: tile / per_head % operands.heads,
        batch: tile / per_head / operands.heads,
    };
    let (key_width, value_width) = (operands.key_width, operands.value_width);
    let (queries, scratch) = scratch.split_at_mut(QUERIES * key_width);
    let (results, scratch) = scratch.split_at_mut(QUERIES * value_width);
    let (keys, scratch) = scratch.split_at_mut(KEYS * key_width);
    let (values, scratch) = scratch.split_at_mut(KEYS * value_width);
    let (scores, scratch) = scratch.split_at_mut(QUERIES * KEYS);
    let mask = &mut scratch[..QUERIES * KEYS];

    // SAFETY: the operands are as they say.
    unsafe { load_queries(&tile, queries) };
    results.fill(0.0);
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); VECTORS];
    let mut sums = [_mm512_setzero_ps(); VECTORS];
    for key in (0..operands.keys).step_by(KEYS) {
        let count = KEYS.min(operands.keys - key);
        // SAFETY: as above; there are as many keys.
        let masked = unsafe {
            let masked = load_mask(&tile, key, count, mask);
            if !matches!(masked, Masked::All) {
                let (k, v) = (operands.k, operands.v);
                load_rows(&tile, k, operands.k_strides, key, count, key_width, keys);
                load_rows(
                    &tile,
                    v,
                    operands.v_strides,
                    key,
                    count,
                    value_width,
                    values,
                );
            }
            masked
        };
        if matches!(masked, Masked::All) {
            continue;
        }
        for (rows, scores) in keys
            .chunks_exact(ROWS * key_width)
            .zip(scores.chunks_exact_mut(ROWS * QUERIES))
        {
            multiply_keys(rows, key_width, queries, scores);
        }
        let add = matches!(masked, Masked::Some).then_some(&*mask);
        let shrink = softmax(scores, add, count, &mut largest, &mut sums);
        let mut d = 0;
        while d < value_width {
            let results = &mut results[d * QUERIES..];
            let values = &values[d..];
            match value_width - d {
                2 => accumulate::<2>(values, value_width, scores, &shrink, results),
                4 => accumulate::<4>(values, value_width, scores, &shrink, results),
                _ => accumulate::<ROWS>(values, value_width, scores, &shrink, results),
            }
            d += ROWS;
        }
    }
    // SAFETY: as above.
    unsafe { store(&tile, results, &sums) };
}
