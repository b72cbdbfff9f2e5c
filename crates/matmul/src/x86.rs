//! Helpers shared by the x86 instruction sets.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// Defines methods whose bodies are intrinsics, on a type whose values exist only if the CPU has
/// the instructions.
macro_rules! by_intrinsics {
    ($($(#[$meta:meta])*
        $vis:vis fn $name:ident$(<$(const $n:ident: $nty:ty),+>)?($self:ident $(, $arg:ident: $ty:ty)*) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name$(<$(const $n: $nty),+>)?($self $(, $arg: $ty)*) $(-> $out)? {
            // SAFETY: a value of this type exists only if the CPU has the instructions.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}
pub(super) use by_intrinsics;

/// The `N` bytes of a block from `start` on.
///
/// # Panics
/// If the block is shorter.
#[inline(always)]
pub(super) fn at<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..].first_chunk().expect("it is that long")
}

/// Prefetches a cache line, into L1 if it is used next, otherwise into L2.
#[inline(always)]
pub(super) fn prefetch(address: *const u8, used_next: bool) {
    // SAFETY: prefetching an invalid address has no effect; every x86-64 has the instruction.
    unsafe {
        if used_next {
            _mm_prefetch::<_MM_HINT_NTA>(address.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
        }
    }
}

/// Transposes 16 rows of 16 numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn transpose(mut rows: [__m512; 16]) -> [__m512; 16] {
    transpose_squares::<1>(&mut rows);
    transpose_squares::<2>(&mut rows);
    transpose_squares::<4>(&mut rows);
    transpose_squares::<8>(&mut rows);
    rows
}

/// In each square of 2 `K` rows and lanes, swaps the upper right and the lower left quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn transpose_squares<const K: usize>(rows: &mut [__m512; 16]) {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let side = _mm512_set1_epi32(K as i32);
    let right = _mm512_test_epi32_mask(lanes, side);
    // The lanes of the second vector are numbered from 16 on.
    let from_left = _mm512_add_epi32(lanes, _mm512_set1_epi32(16 - K as i32));
    let upper = _mm512_mask_mov_epi32(lanes, right, from_left);
    let below = _mm512_add_epi32(lanes, _mm512_set1_epi32(16));
    let lower = _mm512_mask_mov_epi32(_mm512_add_epi32(lanes, side), right, below);
    for i in 0..8 {
        let i = i / K * 2 * K + i % K;
        let (a, b) = (rows[i], rows[i + K]);
        rows[i] = _mm512_permutex2var_ps(a, upper, b);
        rows[i + K] = _mm512_permutex2var_ps(a, lower, b);
    }
}

/// Converts a 16-bit float.
#[inline]
#[target_feature(enable = "f16c")]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    let bits = i32::from(u16::from_le_bytes(bytes));
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
}

/// Unpacks the eight scales, then the eight minima of a `Q4_K` or `Q5_K` block, 6 bits each, from
/// the first 16 bytes of the block: its two 16-bit float scales, then 12 bytes of packed scales and
/// minima.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn k_scales(head: __m128i) -> __m128i {
    // Scales and minima 0–3 are the low six bits of a byte. Scales and minima 4–7 have their four
    // low bits in the last four bytes, and their two high bits in the top bits of the others.
    let low = _mm_srlv_epi32(
        _mm_shuffle_epi32::<0b11_11_11_11>(head),
        _mm_setr_epi32(0, 0, 0, 4),
    );
    let high = _mm_srlv_epi32(
        _mm_shuffle_epi32::<0b10_10_01_01>(head),
        _mm_setr_epi32(0, 2, 0, 2),
    );
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
    let low = _mm_and_si128(low, _mm_setr_epi32(0, four, 0, four));
    let high = _mm_and_si128(high, _mm_setr_epi32(six, two, six, two));
    _mm_or_si128(low, high)
}
