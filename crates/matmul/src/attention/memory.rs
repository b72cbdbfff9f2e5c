//! What a tile reads and writes: queries, keys, values, the mask, and the results.

#![allow(unsafe_code)]

use super::lanes::{Row, load, save, vector, widened};
use super::{KEYS, LANES, Operands, QUERIES};
use crate::x86::{self, transpose};
use std::arch::x86_64::*;
use std::slice;

/// The part of the operands that a tile sees.
pub(super) struct Tile<'a> {
    pub operands: &'a Operands,
    /// The first query, and how many there are.
    pub first: usize,
    pub count: usize,
    pub head: usize,
    pub batch: usize,
}

impl Tile<'_> {
    /// The activations of a query.
    ///
    /// # Safety
    /// The operands are as they say.
    unsafe fn query(&self, i: usize) -> &[f32] {
        let o = self.operands;
        let [row, head, batch] = o.q_strides;
        let at = (self.first + i) * row + self.head * head + self.batch * batch;
        // SAFETY: the caller's.
        unsafe { slice::from_raw_parts(o.q.add(at).cast(), o.key_width) }
    }

    /// A key or a value, as 16-bit floats.
    ///
    /// # Safety
    /// As above.
    unsafe fn cached(&self, of: *const u8, strides: [usize; 3], i: usize, width: usize) -> &[u16] {
        let o = self.operands;
        let [row, head, batch] = strides;
        let kv_head = self.head / (o.heads / o.kv_heads);
        let kv_batch = self.batch / (o.batches / o.kv_batches);
        let at = i * row + kv_head * head + kv_batch * batch;
        // SAFETY: the caller's.
        unsafe { slice::from_raw_parts(of.add(at).cast(), width) }
    }

    /// The mask of a query for `count` keys from `key` on, as 16-bit floats.
    ///
    /// # Safety
    /// As above, and there is a mask.
    unsafe fn mask(&self, i: usize, key: usize, count: usize) -> &[u16] {
        let o = self.operands;
        let [row, head, batch] = o.mask_strides;
        let at = (self.first + i) * row
            + self.head % o.mask_heads * head
            + self.batch % o.mask_batches * batch;
        // SAFETY: the caller's.
        unsafe { slice::from_raw_parts(o.mask.add(at).cast::<u16>().add(key), count) }
    }

    /// Where the result of a query goes.
    ///
    /// # Safety
    /// As above, and nothing else touches the results of this tile.
    #[allow(clippy::mut_from_ref)]
    unsafe fn out(&self, i: usize) -> &mut [f32] {
        let o = self.operands;
        let row = (self.batch * o.queries + self.first + i) * o.heads + self.head;
        // SAFETY: the caller's.
        unsafe { slice::from_raw_parts_mut(o.out.add(row * o.out_stride).cast(), o.value_width) }
    }
}

/// What a mask does to a tile of keys.
pub(super) enum Masked {
    /// No query sees any of the keys.
    All,
    /// All queries see all keys.
    Nothing,
    Some,
}

/// Transposes up to 64 rows of 16 numbers from `at(i)` to 16 rows of 64.
macro_rules! to_lanes {
    ($count:expr, $to:expr, $at:expr, $missing:expr) => {
        for (j, start) in (0..QUERIES).step_by(LANES).enumerate() {
            let mut square = [$missing; LANES];
            for (i, row) in square
                .iter_mut()
                .enumerate()
                .take($count.saturating_sub(start))
            {
                *row = $at(start + i);
            }
            for (row, to) in transpose(square).iter().zip($to.chunks_exact_mut(QUERIES)) {
                let to = &mut to[j * LANES..(j + 1) * LANES];
                // SAFETY: there is room for 16 numbers.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), *row) };
            }
        }
    };
}

/// The queries, scaled, as `[key_width][QUERIES]`; zeros for those that are missing.
///
/// # Safety
/// The operands are as they say.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn load_queries(tile: &Tile<'_>, to: &mut [f32]) {
    let scale = _mm512_set1_ps(tile.operands.scale);
    for (d, to) in to.chunks_exact_mut(LANES * QUERIES).enumerate() {
        // SAFETY: the caller's.
        let at = |i: usize| unsafe { vector(tile.query(i), d * LANES) };
        to_lanes!(tile.count, to, at, _mm512_setzero_ps());
    }
    for numbers in to.chunks_exact_mut(QUERIES) {
        let mut row = load(numbers);
        for vector in &mut row {
            *vector = _mm512_mul_ps(*vector, scale);
        }
        save(&row, numbers);
    }
}

/// Rows of keys or values in 32 bits; zeros after the last.
///
/// # Safety
/// The operands are as they say, and there are as many keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn load_rows(
    tile: &Tile<'_>,
    of: *const u8,
    strides: [usize; 3],
    first: usize,
    count: usize,
    width: usize,
    to: &mut [f32],
) {
    for (i, to) in to.chunks_exact_mut(width).enumerate() {
        if i >= count {
            to.fill(0.0);
            continue;
        }
        // SAFETY: the caller's.
        let row = unsafe { tile.cached(of, strides, first + i, width) };
        // The same row of the next tile: rows are far apart in the cache.
        let next = row.as_ptr().cast::<u8>().wrapping_add(KEYS * strides[0]);
        for line in 0..(2 * width).div_ceil(64) {
            x86::prefetch(next.wrapping_add(64 * line), false);
        }
        let (vectors, _) = row.as_chunks::<LANES>();
        let (parts, _) = to.as_chunks_mut::<LANES>();
        for (halves, part) in vectors.iter().zip(parts) {
            // SAFETY: there is room for 16 numbers.
            unsafe { _mm512_storeu_ps(part.as_mut_ptr(), widened(halves)) };
        }
    }
}

/// Looks at the mask of a tile of keys, and writes it as `[KEYS][QUERIES]` if it has to be added.
///
/// # Safety
/// The operands are as they say, and there are as many keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn load_mask(
    tile: &Tile<'_>,
    key: usize,
    count: usize,
    to: &mut [f32],
) -> Masked {
    if tile.operands.mask.is_null() {
        return Masked::Nothing;
    }
    const HIDDEN: u16 = 0xfc00;
    let (mut all, mut nothing) = (true, true);
    for i in 0..tile.count {
        // SAFETY: the caller's.
        let (vectors, rest) = unsafe { tile.mask(i, key, count) }.as_chunks::<LANES>();
        for halves in vectors {
            // SAFETY: there are 16 of them.
            let halves = unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) };
            let hidden = _mm256_set1_epi16(HIDDEN.cast_signed());
            all &= _mm256_cmpeq_epi16_mask(halves, hidden) == u16::MAX;
            nothing &= _mm256_test_epi16_mask(halves, halves) == 0;
        }
        all &= rest.iter().all(|&value| value == HIDDEN);
        nothing &= rest.iter().all(|&value| value == 0);
        if !all && !nothing {
            break;
        }
    }
    if all {
        return Masked::All;
    }
    if nothing {
        return Masked::Nothing;
    }
    for (part, to) in to.chunks_exact_mut(LANES * QUERIES).enumerate() {
        let start = part * LANES;
        let at = |i: usize| {
            let mut halves = [HIDDEN; LANES];
            let here = LANES.min(count.saturating_sub(start));
            // SAFETY: the caller's.
            let mask = unsafe { tile.mask(i, key, count) };
            halves[..here].copy_from_slice(&mask[count.min(start)..count.min(start) + here]);
            widened(&halves)
        };
        to_lanes!(tile.count, to, at, _mm512_setzero_ps());
    }
    Masked::Some
}

/// Divides the results by the sums of their weights and stores them query by query. A query that
/// sees nothing gets zeros.
///
/// # Safety
/// The operands are as they say, and nothing else touches the results of this tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn store(tile: &Tile<'_>, results: &[f32], sums: &Row) {
    for (j, start) in (0..tile.count).step_by(LANES).enumerate() {
        let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sums[j], _mm512_setzero_ps());
        let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(1.0), sums[j]);
        for (d, results) in results.chunks_exact(LANES * QUERIES).enumerate() {
            let mut square = [_mm512_setzero_ps(); LANES];
            for (row, results) in square.iter_mut().zip(results.chunks_exact(QUERIES)) {
                *row = _mm512_mul_ps(vector(results, start), inverse);
            }
            let square = transpose(square);
            for (i, row) in square.iter().enumerate().take(tile.count - start) {
                // SAFETY: the caller's.
                let out = unsafe { tile.out(start + i) };
                let out = &mut out[d * LANES..(d + 1) * LANES];
                // SAFETY: there is room for 16 numbers.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *row) };
            }
        }
    }
}
