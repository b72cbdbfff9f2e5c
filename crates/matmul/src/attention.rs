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

use super::x86::{self, transpose};
use modelve_base::isa::Isa;
use std::arch::x86_64::*;
use std::slice;
use std::sync::OnceLock;

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

/// Returns whether there is a kernel for heads of these widths and as many queries.
pub(super) fn has_kernel(key_width: usize, value_width: usize, queries: usize) -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    let available = AVAILABLE.get_or_init(|| {
        Isa::detect().vectors() == Isa::Avx512
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    });
    let fits = |width: usize| width > 0 && width.is_multiple_of(LANES);
    *available && queries >= QUERIES / 4 && fits(key_width) && fits(value_width)
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

/// One query per lane.
type Row = [__m512; VECTORS];

/// The part of the operands that a tile sees.
struct Tile<'a> {
    operands: &'a Operands,
    /// The first query, and how many there are.
    first: usize,
    count: usize,
    head: usize,
    batch: usize,
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
enum Masked {
    /// No query sees any of the keys.
    All,
    /// All queries see all keys.
    Nothing,
    Some,
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

fn lanes(numbers: &[f32]) -> [[f32; LANES]; VECTORS] {
    let (vectors, _) = numbers.as_chunks::<LANES>();
    *vectors.first_chunk().expect("as many as queries")
}

#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32]) -> Row {
    let lanes = lanes(numbers);
    let mut row = [_mm512_setzero_ps(); VECTORS];
    for (vector, numbers) in row.iter_mut().zip(&lanes) {
        // SAFETY: there are 16 numbers.
        *vector = unsafe { _mm512_loadu_ps(numbers.as_ptr()) };
    }
    row
}

#[target_feature(enable = "avx512f")]
fn save(row: &Row, numbers: &mut [f32]) {
    let (vectors, _) = numbers.as_chunks_mut::<LANES>();
    for (vector, numbers) in row.iter().zip(vectors) {
        // SAFETY: there is room for 16 numbers.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), *vector) };
    }
}

/// The vector of 16 numbers from `at` on.
#[target_feature(enable = "avx512f")]
fn vector(numbers: &[f32], at: usize) -> __m512 {
    let numbers: &[f32; LANES] = numbers[at..].first_chunk().expect("they are that many");
    // SAFETY: there are 16 numbers.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

/// 16 numbers from 16-bit floats.
#[target_feature(enable = "avx512f")]
fn widened(halves: &[u16; LANES]) -> __m512 {
    // SAFETY: there are 16 of them.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
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
unsafe fn load_queries(tile: &Tile<'_>, to: &mut [f32]) {
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
unsafe fn load_rows(
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
unsafe fn load_mask(tile: &Tile<'_>, key: usize, count: usize, to: &mut [f32]) -> Masked {
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

/// The scores of [`ROWS`] keys and all queries.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn multiply_keys(keys: &[f32], width: usize, queries: &[f32], scores: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    assert!(keys.len() == ROWS * width && queries.len() == width * QUERIES);
    for d in 0..width {
        // SAFETY: the lengths were checked.
        unsafe {
            let query = queries.as_ptr().add(d * QUERIES);
            for (r, sums) in sums.iter_mut().enumerate() {
                let key = _mm512_set1_ps(*keys.as_ptr().add(r * width + d));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(key, _mm512_loadu_ps(query.add(j * LANES)), *sum);
                }
            }
        }
    }
    for (sums, scores) in sums.iter().zip(scores.chunks_exact_mut(QUERIES)) {
        save(sums, scores);
    }
}

/// Turns the scores of `count` keys into weights relative to the largest score so far. Returns what
/// results so far are to be multiplied with.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn softmax(
    scores: &mut [f32],
    mask: Option<&[f32]>,
    count: usize,
    largest: &mut Row,
    sums: &mut Row,
) -> Row {
    let mut shrink = [_mm512_setzero_ps(); VECTORS];
    let hidden = _mm512_set1_ps(f32::NEG_INFINITY);
    for j in 0..VECTORS {
        let mut most = largest[j];
        for k in 0..count {
            let at = k * QUERIES + j * LANES;
            let mut score = vector(scores, at);
            if let Some(mask) = mask {
                score = _mm512_add_ps(score, vector(mask, at));
                // SAFETY: there are 16 numbers there.
                unsafe { _mm512_storeu_ps(scores[at..at + LANES].as_mut_ptr(), score) };
            }
            most = _mm512_max_ps(most, score);
        }
        // Where nothing is visible yet, weights are relative to 0, and all are 0.
        let none = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(most, hidden);
        let base = _mm512_mask_mov_ps(most, none, _mm512_setzero_ps());
        shrink[j] = exp(_mm512_sub_ps(largest[j], base));
        largest[j] = most;
        let mut sum = _mm512_mul_ps(sums[j], shrink[j]);
        for k in 0..KEYS {
            let at = k * QUERIES + j * LANES;
            let weight = match k < count {
                true => exp(_mm512_sub_ps(vector(scores, at), base)),
                false => _mm512_setzero_ps(),
            };
            sum = _mm512_add_ps(sum, weight);
            // SAFETY: there are 16 numbers there.
            unsafe { _mm512_storeu_ps(scores[at..at + LANES].as_mut_ptr(), weight) };
        }
        sums[j] = sum;
    }
    shrink
}

/// `e` to the power of numbers that are not positive, within two units in the last place; 0 below
/// −87.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn exp(x: __m512) -> __m512 {
    let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_set1_ps(-87.0));
    let x = _mm512_maskz_mov_ps(some, x);
    // x = n ln 2 + r, with ln 2 in two parts, the first of which has few digits.
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    // The series of e to the power of r, which is within 0.35 of 0.
    let mut sum = _mm512_set1_ps(1.0 / 5040.0);
    for divisor in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0 / divisor));
    }
    _mm512_maskz_scalef_ps(some, sum, n)
}

/// Adds the products of weights and `R` numbers of each value to the results of all queries, after
/// these were multiplied with `shrink`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn accumulate<const R: usize>(
    values: &[f32],
    width: usize,
    weights: &[f32],
    shrink: &Row,
    results: &mut [f32],
) {
    assert!(weights.len() == KEYS * QUERIES && values.len() >= (KEYS - 1) * width + R);
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
    for (sums, results) in sums.iter_mut().zip(results.chunks_exact(QUERIES)) {
        let before = load(results);
        for j in 0..VECTORS {
            sums[j] = _mm512_mul_ps(before[j], shrink[j]);
        }
    }
    for k in 0..KEYS {
        // SAFETY: the lengths were checked.
        unsafe {
            let weight = weights.as_ptr().add(k * QUERIES);
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*values.as_ptr().add(k * width + r));
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(value, _mm512_loadu_ps(weight.add(j * LANES)), *sum);
                }
            }
        }
    }
    for (sums, results) in sums.iter().zip(results.chunks_exact_mut(QUERIES)) {
        save(sums, results);
    }
}

/// Divides the results by the sums of their weights and stores them query by query. A query that
/// sees nothing gets zeros.
///
/// # Safety
/// The operands are as they say, and nothing else touches the results of this tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn store(tile: &Tile<'_>, results: &[f32], sums: &Row) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Pseudo-random numbers from −1 to 1.
    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn halves(numbers: &[f32]) -> Vec<u16> {
        numbers
            .iter()
            .map(|x| f16::from_f32(*x).to_bits())
            .collect()
    }

    struct Case {
        queries: usize,
        keys: usize,
        heads: usize,
        kv_heads: usize,
        width: usize,
        value_width: usize,
        q: Vec<f32>,
        k: Vec<u16>,
        v: Vec<u16>,
        /// Whether a query sees a key.
        sees: fn(usize, usize) -> bool,
    }

    impl Case {
        fn new(sizes: [usize; 6], sees: fn(usize, usize) -> bool) -> Case {
            let [queries, keys, heads, kv_heads, width, value_width] = sizes;
            let four =
                |n: usize, seed| numbers(n, seed).iter().map(|x| 4.0 * x).collect::<Vec<_>>();
            Case {
                queries,
                keys,
                heads,
                kv_heads,
                width,
                value_width,
                q: four(heads * queries * width, 1),
                k: halves(&numbers(kv_heads * keys * width, 2)),
                v: halves(&numbers(kv_heads * keys * value_width, 3)),
                sees,
            }
        }

        fn computed(&self) -> Vec<f32> {
            let mask: Vec<f32> = (0..self.queries * self.keys)
                .map(|i| match (self.sees)(i / self.keys, i % self.keys) {
                    true => 0.0,
                    false => f32::NEG_INFINITY,
                })
                .collect();
            let mask = halves(&mask);
            let mut out = vec![f32::NAN; self.queries * self.heads * self.value_width];
            let operands = Operands {
                q: self.q.as_ptr().cast(),
                q_strides: [4 * self.width, 4 * self.width * self.queries, 0],
                k: self.k.as_ptr().cast(),
                k_strides: [2 * self.width, 2 * self.width * self.keys, 0],
                v: self.v.as_ptr().cast(),
                v_strides: [2 * self.value_width, 2 * self.value_width * self.keys, 0],
                mask: mask.as_ptr().cast(),
                mask_strides: [2 * self.keys, 0, 0],
                out: out.as_mut_ptr().cast(),
                out_stride: 4 * self.value_width,
                key_width: self.width,
                value_width: self.value_width,
                queries: self.queries,
                keys: self.keys,
                heads: self.heads,
                kv_heads: self.kv_heads,
                batches: 1,
                kv_batches: 1,
                mask_heads: 1,
                mask_batches: 1,
                scale: 0.3,
            };
            let mut room = vec![f32::NAN; scratch(self.width, self.value_width)];
            for tile in 0..tiles(&operands) {
                // SAFETY: the operands are as they say.
                unsafe { compute(&operands, tile, &mut room) };
            }
            out
        }

        /// The same in 64 bits, by the definition.
        fn expected(&self) -> Vec<f64> {
            let wide = |half: u16| f64::from(f16::from_bits(half).to_f32());
            let mut out = vec![];
            for i in 0..self.queries {
                for head in 0..self.heads {
                    let kv = head / (self.heads / self.kv_heads);
                    let q = &self.q[(head * self.queries + i) * self.width..][..self.width];
                    let seen = (0..self.keys).filter(|&key| (self.sees)(i, key));
                    let scored: Vec<(usize, f64)> = seen
                        .map(|key| {
                            let k = &self.k[(kv * self.keys + key) * self.width..][..self.width];
                            let dot = q.iter().zip(k).map(|(q, k)| f64::from(*q) * wide(*k));
                            (key, 0.3 * dot.sum::<f64>())
                        })
                        .collect();
                    let most = scored
                        .iter()
                        .fold(f64::MIN, |most, (_, score)| most.max(*score));
                    let sum: f64 = scored.iter().map(|(_, score)| (score - most).exp()).sum();
                    for d in 0..self.value_width {
                        let at = |key: usize| self.v[(kv * self.keys + key) * self.value_width + d];
                        let weighed = scored
                            .iter()
                            .map(|(key, score)| (score - most).exp() * wide(at(*key)));
                        out.push(if sum > 0.0 {
                            weighed.sum::<f64>() / sum
                        } else {
                            0.0
                        });
                    }
                }
            }
            out
        }
    }

    #[allow(clippy::print_stderr)]
    fn available() -> bool {
        let available = has_kernel(64, 64, 64);
        if !available {
            eprintln!("skipped: there is no kernel for this CPU");
        }
        available
    }

    #[test]
    fn attention_is_that_of_its_definition() {
        if !available() {
            return;
        }
        let causal: fn(usize, usize) -> bool = |query, key| key <= query + 30;
        let window = |query: usize, key: usize| key <= query && key + 20 > query;
        let nothing = |query: usize, key: usize| query != 3 && key < 7;
        for case in [
            Case::new([64, 96, 2, 2, 96, 96], |_, _| true),
            Case::new([100, 131, 4, 2, 64, 64], causal),
            Case::new([70, 256, 2, 1, 128, 128], window),
            Case::new([16, 40, 3, 3, 80, 16], causal),
            Case::new([17, 49, 1, 1, 256, 32], nothing),
        ] {
            // Scores are up to 40, in 32 bits.
            let (ours, exact) = (case.computed(), case.expected());
            for (i, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
                assert!(
                    (f64::from(*ours) - exact).abs() < 1e-5,
                    "{i}: {ours} {exact}"
                );
            }
        }
    }

    #[test]
    fn a_query_does_not_depend_on_the_queries_beside_it() {
        if !available() {
            return;
        }
        let all = Case::new([130, 150, 1, 1, 32, 32], |query, key| key <= query + 20);
        let mut some = Case::new([77, 150, 1, 1, 32, 32], all.sees);
        some.q = all.q[..77 * 32].to_vec();
        assert_eq!(some.computed()[..], all.computed()[..77 * 32]);
    }
}
