//! Arithmetic with one query per lane.

#![allow(unsafe_code)]

use super::{KEYS, LANES, QUERIES, ROWS, VECTORS};
use std::arch::x86_64::*;

/// One query per lane.
pub(super) type Row = [__m512; VECTORS];

fn lanes(numbers: &[f32]) -> [[f32; LANES]; VECTORS] {
    let (vectors, _) = numbers.as_chunks::<LANES>();
    *vectors.first_chunk().expect("as many as queries")
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(numbers: &[f32]) -> Row {
    let lanes = lanes(numbers);
    let mut row = [_mm512_setzero_ps(); VECTORS];
    for (vector, numbers) in row.iter_mut().zip(&lanes) {
        // SAFETY: there are 16 numbers.
        *vector = unsafe { _mm512_loadu_ps(numbers.as_ptr()) };
    }
    row
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn save(row: &Row, numbers: &mut [f32]) {
    let (vectors, _) = numbers.as_chunks_mut::<LANES>();
    for (vector, numbers) in row.iter().zip(vectors) {
        // SAFETY: there is room for 16 numbers.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), *vector) };
    }
}

/// The vector of 16 numbers from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn vector(numbers: &[f32], at: usize) -> __m512 {
    let numbers: &[f32; LANES] = numbers[at..].first_chunk().expect("they are that many");
    // SAFETY: there are 16 numbers.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

/// 16 numbers from 16-bit floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn widened(halves: &[u16; LANES]) -> __m512 {
    // SAFETY: there are 16 of them.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
}

/// The scores of [`ROWS`] keys and all queries.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn multiply_keys(keys: &[f32], width: usize, queries: &[f32], scores: &mut [f32]) {
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
pub(super) fn softmax(
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
#[inline]
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
pub(super) fn accumulate<const R: usize>(
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
