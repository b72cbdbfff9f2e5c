//! How the AMX kernels unpack weights: to signed bytes in the order of the file, 16 rows at a time.

#![allow(unsafe_code)]

use super::{Amx, SIDE};
use crate::block_bytes;
use crate::formats::{Q5_0, Q5_1, Q6_K, Q8_0, has_zero_point, zero_point};
use crate::x86::{at, by_intrinsics, half, k_scales};
use bytemuck::{Pod, Zeroable};
use std::arch::x86_64::*;

/// A block of 16 rows of a K type.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct KWeights {
    /// For each 64 weights, the high bytes of scale × weight.
    pub high: [[[i8; 64]; SIDE]; 4],
    /// The low ones, 0 to 63.
    pub low: [[[i8; 64]; SIDE]; 4],
    /// The scale of the block of each row.
    pub scales: [f32; SIDE],
    /// The scale of its minima.
    pub min_scales: [f32; SIDE],
    /// Its eight minima, two 16-bit integers each.
    pub minima: [[i32; 4]; SIDE],
}

/// 256 weights of 16 rows of a type with a scale for every 32 weights.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct GroupWeights {
    /// For each 32 weights.
    pub bytes: [[[i8; 32]; SIDE]; 8],
    pub scales: [[f32; SIDE]; 8],
    /// What is added to scale × byte.
    pub offsets: [[f32; SIDE]; 8],
}

impl Amx {
    by_intrinsics! {
        /// Multiplies 64 weights, 0 to 63, minus `zero_point` with their scales, and stores the high
        /// and low bytes of the products in row `r`. Lane `i` of 128 bits of `scales` has the scale
        /// of weights `16 i` to `16 i + 15`, eight times.
        fn store_products(self, q: __m512i, scales: __m512i, zero_point: i16, r: usize, c: usize, weights: &mut KWeights) {
            let zero = _mm512_setzero_si512();
            let shift = _mm512_mullo_epi16(scales, _mm512_set1_epi16(zero_point));
            let first = _mm512_sub_epi16(_mm512_mullo_epi16(_mm512_unpacklo_epi8(q, zero), scales), shift);
            let second = _mm512_sub_epi16(_mm512_mullo_epi16(_mm512_unpackhi_epi8(q, zero), scales), shift);
            let six = _mm512_set1_epi16(63);
            let low = _mm512_packs_epi16(_mm512_and_si512(first, six), _mm512_and_si512(second, six));
            let high = _mm512_packs_epi16(_mm512_srai_epi16::<6>(first), _mm512_srai_epi16::<6>(second));
            _mm512_storeu_si512(weights.low[c][r].as_mut_ptr().cast(), low);
            _mm512_storeu_si512(weights.high[c][r].as_mut_ptr().cast(), high);
        }

        /// The scales of the groups of 16 of `64 c` to `64 c + 63`, as [`Amx::store_products`] takes
        /// them, of words that each are the scale of `in_group` weights, 16 or 32.
        fn spread(self, words: __m256i, c: usize, in_group: i16) -> __m512i {
            let lanes = _mm512_setr_epi64(0, 0, 0x0010_0010_0010_0010, 0x0010_0010_0010_0010, 0x0020_0020_0020_0020, 0x0020_0020_0020_0020, 0x0030_0030_0030_0030, 0x0030_0030_0030_0030);
            let weights = _mm512_add_epi16(lanes, _mm512_set1_epi16(64 * c as i16));
            let index = match in_group {
                16 => _mm512_srli_epi16::<4>(weights),
                _ => _mm512_srli_epi16::<5>(weights),
            };
            _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(words))
        }

        /// Stores the scales and minima of a `Q4_K` or `Q5_K` block in row `r`; returns the scales of
        /// its groups as words.
        fn k_scales(self, head: &[u8; 16], r: usize, weights: &mut KWeights) -> __m256i {
            let head = _mm_loadu_si128(head.as_ptr().cast());
            let words = _mm256_cvtepu8_epi16(k_scales(head));
            let block_scales = _mm_cvtph_ps(head);
            weights.scales[r] = _mm_cvtss_f32(block_scales);
            weights.min_scales[r] = _mm_cvtss_f32(_mm_movehdup_ps(block_scales));
            let minima = _mm256_extracti128_si256::<1>(words);
            _mm_storeu_si128(weights.minima[r].as_mut_ptr().cast(), minima);
            words
        }

        /// 32 bytes, twice.
        fn twice(self, bytes: &[u8; 32]) -> __m512i {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.as_ptr().cast()))
        }

        /// Shifts the words of the lower half by `low` to the right, of the upper half by `high`.
        fn shift_halves(self, v: __m512i, low: i16, high: i16) -> __m512i {
            let low = _mm512_castsi256_si512(_mm256_set1_epi16(low));
            _mm512_srlv_epi16(v, _mm512_inserti64x4::<1>(low, _mm256_set1_epi16(high)))
        }

        /// Weights `64 c` to `64 c + 63` of a `Q4_K` or `Q5_K` block, but for their fifth bits.
        fn k_nibbles(self, bytes: &[u8; 32]) -> __m512i {
            _mm512_and_si512(self.shift_halves(self.twice(bytes), 0, 4), _mm512_set1_epi8(15))
        }

        pub(super) fn q4_k(self, block: &[u8; 144], r: usize, weights: &mut KWeights) {
            let words = self.k_scales(at(block, 0), r, weights);
            for c in 0..4 {
                let q = self.k_nibbles(at(block, 16 + 32 * c));
                self.store_products(q, self.spread(words, c, 32), 0, r, c, weights);
            }
        }

        pub(super) fn q5_k(self, block: &[u8; 176], r: usize, weights: &mut KWeights) {
            let words = self.k_scales(at(block, 0), r, weights);
            // Bit s of byte k is the fifth bit of weight 32 s + k.
            let fifth = self.twice(at(block, 16));
            for c in 0..4 {
                let q = self.k_nibbles(at(block, 48 + 32 * c));
                let low = _mm512_castsi256_si512(_mm256_set1_epi8(1 << (2 * c)));
                let high = _mm256_set1_epi8((2u8 << (2 * c)).cast_signed());
                let set = _mm512_test_epi8_mask(fifth, _mm512_inserti64x4::<1>(low, high));
                let q = _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(16));
                self.store_products(q, self.spread(words, c, 32), 0, r, c, weights);
            }
        }

        pub(super) fn q6_k(self, block: &[u8; 210], r: usize, weights: &mut KWeights) {
            let words = _mm256_cvtepi8_epi16(_mm_loadu_si128(block[192..].as_ptr().cast()));
            weights.scales[r] = half(*at(block, 208));
            for c in 0..4 {
                // The low halves of 64 bytes belong to 64 weights, the high halves to the next 64.
                let four: &[u8; 64] = at(block, 64 * (c / 2));
                let four = _mm512_loadu_si512(four.as_ptr().cast());
                let four = match c % 2 {
                    0 => four,
                    _ => _mm512_srli_epi16::<4>(four),
                };
                let four = _mm512_and_si512(four, _mm512_set1_epi8(15));
                // Bits 2 g and 2 g + 1 of byte 32 h + k belong to weight 128 h + 32 g + k.
                let two = self.twice(at(block, 128 + 32 * (c / 2)));
                let shift = 4 * (c % 2) as i16;
                let two = _mm512_and_si512(self.shift_halves(two, shift, shift + 2), _mm512_set1_epi8(3));
                let q = _mm512_or_si512(four, _mm512_slli_epi16::<4>(two));
                self.store_products(q, self.spread(words, c, 16), zero_point(Q6_K) as i16, r, c, weights);
            }
        }

        /// Unpacks eight groups of 32 weights to row `r`: the scale of each as a 16-bit float, its
        /// offset if the type has minima, 32 fifth bits if it has five, and the weights.
        pub(super) fn unpack_groups<const T: u32>(self, block: &[u8], r: usize, weights: &mut GroupWeights) {
            let size = block_bytes(T) / 8;
            for g in 0..8 {
                let block = &block[g * size..];
                weights.scales[g][r] = half(*at(block, 0));
                let mut start = 2;
                if !has_zero_point(T) {
                    weights.offsets[g][r] = half(*at(block, 2));
                    start = 4;
                }
                let bytes = match T {
                    Q8_0 => {
                        let bytes: &[u8; 32] = at(block, start);
                        _mm256_loadu_si256(bytes.as_ptr().cast())
                    }
                    Q5_0 | Q5_1 => {
                        let fifth = u32::from_le_bytes(*at(block, start));
                        let bytes = self.nibbles(at(block, start + 4));
                        _mm256_mask_add_epi8(bytes, fifth, bytes, _mm256_set1_epi8(16))
                    }
                    _ => self.nibbles(at(block, start)),
                };
                // The bytes of Q8_0 have a sign.
                let zero_point = if T == Q8_0 { 0 } else { zero_point(T) };
                let bytes = _mm256_sub_epi8(bytes, _mm256_set1_epi8(zero_point as i8));
                _mm256_storeu_si256(weights.bytes[g][r].as_mut_ptr().cast(), bytes);
            }
        }

        /// 32 weights: the low halves of the bytes, then the high halves.
        fn nibbles(self, bytes: &[u8; 16]) -> __m256i {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
            _mm256_and_si256(both, _mm256_set1_epi8(15))
        }
    }
}
