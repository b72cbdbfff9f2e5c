//! AVX-512 kernels with VNNI: one instruction multiplies and accumulates 64 pairs of bytes.
//!
//! A block of weights becomes 256 unsigned bytes, 16 scales and 16 minima, one of each per 16
//! weights. The bytes of weights and activations are *interleaved*: 32-bit lane `i` of vector `j`
//! holds numbers `16 i + 4 j` to `16 i + 4 j + 3`, so that VNNI adds up their products in lane `i`,
//! where their scale is.

#![allow(unsafe_code)]

use super::columns::{Block, group};
use super::formats::{
    Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, UNPACKED, UNPACKED_WITH_ZERO_POINT,
    has_zero_point, zero_point,
};
use super::tiles::{self, Simd};
use super::x86::{self, at, by_intrinsics, half, k_scales};
use super::{BLOCK, Rows, Sink};
use bytemuck::{cast, cast_ref};
use modelve_base::isa::Isa;
use modelve_gguf::GgmlType;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// A value exists only if the CPU has the instructions that [`Avx512::detect`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    /// Returns a value if this CPU has the instructions and `MODELVE_ISA` allows them.
    pub fn detect() -> Option<Self> {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        let available = AVAILABLE.get_or_init(|| {
            Isa::detect().vectors() == Isa::Avx512
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("fma")
        });
        available.then_some(Avx512(()))
    }

    /// Implements [`super::Kernel::pack`].
    pub fn pack(self, ty: GgmlType, numbers: &[f32; BLOCK]) -> Block {
        // SAFETY: a value of this type exists only if the CPU has the instructions.
        unsafe { pack(self, ty, numbers) }
    }

    /// Implements [`super::Kernel::multiply`].
    pub fn multiply(
        self,
        ty: GgmlType,
        rows: Rows<'_>,
        x: &[Block],
        n: usize,
        sink: &mut Sink<'_>,
    ) {
        // SAFETY: a value of this type exists only if the CPU has the instructions.
        unsafe { multiply(self, ty, rows, x, n, sink) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn pack(s: Avx512, ty: GgmlType, numbers: &[f32; BLOCK]) -> Block {
    s.round(group(ty), zero_point(ty.0), numbers)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn multiply(s: Avx512, ty: GgmlType, rows: Rows<'_>, x: &[Block], n: usize, sink: &mut Sink<'_>) {
    match ty.0 {
        Q4_0 => tiles::multiply::<Avx512, Q4_0>(s, rows, x, n, sink),
        Q4_1 => tiles::multiply::<Avx512, Q4_1>(s, rows, x, n, sink),
        Q5_0 => tiles::multiply::<Avx512, Q5_0>(s, rows, x, n, sink),
        Q5_1 => tiles::multiply::<Avx512, Q5_1>(s, rows, x, n, sink),
        Q8_0 => tiles::multiply::<Avx512, Q8_0>(s, rows, x, n, sink),
        Q4_K => tiles::multiply::<Avx512, Q4_K>(s, rows, x, n, sink),
        Q5_K => tiles::multiply::<Avx512, Q5_K>(s, rows, x, n, sink),
        _ => tiles::multiply::<Avx512, Q6_K>(s, rows, x, n, sink),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn multiply_unpacked(
    s: Avx512,
    zero_point: bool,
    rows: Rows<'_>,
    x: &[Block],
    n: usize,
    sink: &mut dyn FnMut(usize, &[f32]),
) {
    match zero_point {
        true => tiles::multiply_tile::<Avx512, UNPACKED_WITH_ZERO_POINT>(s, rows, x, n, sink),
        false => tiles::multiply_tile::<Avx512, UNPACKED>(s, rows, x, n, sink),
    }
}

/// 256 unpacked weights: weight = scale × byte − minimum, or scale × (byte − zero-point). The bytes
/// are interleaved; there is one scale and one minimum for each group of 16.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Weights {
    bytes: [__m512i; 4],
    scales: __m512,
    minima: __m512,
}

impl Simd for Avx512 {
    type Weights = Weights;
    type Sum = __m512;

    const TWO_ROWS_FROM: usize = 5;

    by_intrinsics! {
        fn zero(self) -> __m512 {
            _mm512_setzero_ps()
        }

        fn total(self, sum: __m512) -> f32 {
            _mm512_reduce_add_ps(sum)
        }
    }

    #[inline(always)]
    fn multiply_unpacked(
        self,
        zero_point: bool,
        rows: Rows<'_>,
        x: &[Block],
        n: usize,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) {
        // SAFETY: a value of this type exists only if the CPU has the instructions.
        unsafe { multiply_unpacked(self, zero_point, rows, x, n, sink) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8, used_next: bool) {
        x86::prefetch(address, used_next);
    }

    #[inline(always)]
    fn add_products<const T: u32, const R: usize, const C: usize>(
        self,
        weights: &[Weights; R],
        x: &[Block; C],
        sums: &mut [[__m512; C]; R],
    ) {
        for c in 0..C {
            for r in 0..R {
                sums[r][c] = match has_zero_point(T) {
                    true => self.add_with_zero_point(&weights[r], &x[c], sums[r][c]),
                    false => self.add_with_minima(&weights[r], &x[c], sums[r][c]),
                };
            }
        }
    }

    #[inline(always)]
    fn unpack<const T: u32>(self, block: &[u8]) -> Weights {
        match T {
            Q4_0 => self.q4_0(at(block, 0)),
            Q4_1 => self.q4_1(at(block, 0)),
            Q5_0 => self.q5_0(at(block, 0)),
            Q5_1 => self.q5_1(at(block, 0)),
            Q8_0 => self.q8_0(at(block, 0)),
            Q4_K => self.q4_k(at(block, 0)),
            Q5_K => self.q5_k(at(block, 0)),
            Q6_K => self.q6_k(at(block, 0)),
            _ => self.weights(at(block, 0)),
        }
    }
}

impl Avx512 {
    by_intrinsics! {
        /// Adds the products to `sum`, one lane per group of 16. `x.sums` starts each lane at the
        /// correction for the zero-point.
        fn add_with_zero_point(self, weights: &Weights, x: &Block, sum: __m512) -> __m512 {
            let start = _mm512_loadu_si512(x.sums.as_ptr().cast());
            let products = _mm512_cvtepi32_ps(self.products(weights, x, start));
            let scaled = _mm512_mul_ps(products, weights.scales);
            _mm512_fmadd_ps(scaled, self.floats(&x.scales), sum)
        }

        fn add_with_minima(self, weights: &Weights, x: &Block, sum: __m512) -> __m512 {
            let products = _mm512_cvtepi32_ps(self.products(weights, x, _mm512_setzero_si512()));
            let scaled = _mm512_mul_ps(products, weights.scales);
            let sum = _mm512_fmadd_ps(scaled, self.floats(&x.scales), sum);
            _mm512_fnmadd_ps(weights.minima, self.floats(cast_ref(&x.sums)), sum)
        }

        /// The products of bytes, accumulated per group of 16. Two accumulators shorten the chain
        /// of dependent instructions.
        fn products(self, weights: &Weights, x: &Block, start: __m512i) -> __m512i {
            let x0 = _mm512_loadu_si512(x.bytes[0].as_ptr().cast());
            let x1 = _mm512_loadu_si512(x.bytes[1].as_ptr().cast());
            let x2 = _mm512_loadu_si512(x.bytes[2].as_ptr().cast());
            let x3 = _mm512_loadu_si512(x.bytes[3].as_ptr().cast());
            let start = _mm512_dpbusd_epi32(start, weights.bytes[0], x0);
            let other = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights.bytes[1], x1);
            let start = _mm512_dpbusd_epi32(start, weights.bytes[2], x2);
            let other = _mm512_dpbusd_epi32(other, weights.bytes[3], x3);
            _mm512_add_epi32(start, other)
        }

        /// Quantizes 256 numbers, of which every `group` (32 or 256) share a scale. `zero_point` is
        /// that of the weights they are multiplied with, 0 for weights with minima.
        fn round(self, group: usize, zero_point: i32, numbers: &[f32; BLOCK]) -> Block {
            let (vectors, _) = numbers.as_chunks::<16>();
            let mut largest = [0f32; 16];
            for (largest, vectors) in largest.chunks_mut(group / 16).zip(vectors.chunks(group / 16)) {
                let mut all = _mm512_setzero_ps();
                for numbers in vectors {
                    all = _mm512_max_ps(all, _mm512_abs_ps(self.floats(numbers)));
                }
                largest.fill(_mm512_reduce_max_ps(all));
            }
            let largest = self.floats(&largest);
            let most = _mm512_set1_ps(127.0);
            // Where all numbers are zero, the inverse is zero, too.
            let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_setzero_ps());
            let inverse: [f32; 16] = cast(_mm512_maskz_div_ps(some, most, largest));
            let mut bytes = [_mm_setzero_si128(); 16];
            for i in 0..16 {
                let scaled = _mm512_mul_ps(self.floats(&vectors[i]), _mm512_set1_ps(inverse[i]));
                bytes[i] = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
            }
            let bytes = self.interleave([
                self.join(bytes[0], bytes[1], bytes[2], bytes[3]),
                self.join(bytes[4], bytes[5], bytes[6], bytes[7]),
                self.join(bytes[8], bytes[9], bytes[10], bytes[11]),
                self.join(bytes[12], bytes[13], bytes[14], bytes[15]),
            ]);
            let mut sums = _mm512_setzero_si512();
            for bytes in bytes {
                sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), bytes);
            }
            let scales = _mm512_div_ps(largest, most);
            let sums = match zero_point {
                0 => _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales)),
                _ => _mm512_mullo_epi32(sums, _mm512_set1_epi32(-zero_point)),
            };
            Block {
                bytes: cast(bytes),
                scales: cast(scales),
                sums: cast(sums),
            }
        }

        fn join(self, a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
            let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
            let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }

        /// Transposes the 32-bit words of two vectors. Word `4 i + j` is word `j` of group `i` of
        /// eight. The first result has word 0 of all groups, then word 1; the second words 2 and 3.
        fn transpose_words(self, p: __m512i, q: __m512i) -> [__m512i; 2] {
            let first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
            [_mm512_permutex2var_epi32(p, first, q), _mm512_permutex2var_epi32(p, second, q)]
        }

        /// Interleaves 256 bytes: lane `i` of vector `j` gets the four bytes from `16 i + 4 j` on.
        fn interleave(self, bytes: [__m512i; 4]) -> [__m512i; 4] {
            let [a, b, c, d] = bytes;
            let [ab, ab2] = self.transpose_words(a, b);
            let [cd, cd2] = self.transpose_words(c, d);
            [
                _mm512_shuffle_i64x2::<0x44>(ab, cd),
                _mm512_shuffle_i64x2::<0xee>(ab, cd),
                _mm512_shuffle_i64x2::<0x44>(ab2, cd2),
                _mm512_shuffle_i64x2::<0xee>(ab2, cd2),
            ]
        }

        /// Unpacks 128 bytes of 4-bit weights and interleaves them. For each group of 16 weights,
        /// `order` has the index (0 to 7) of the group of 16 bytes whose low halves are these
        /// weights, or that index plus 16 for the high halves.
        fn interleave_nibbles(self, p: __m512i, q: __m512i, order: __m512i) -> [__m512i; 4] {
            let next = _mm512_add_epi32(order, _mm512_set1_epi32(8));
            let [first, second] = self.transpose_words(p, q);
            let [low, high] = self.nibbles(first);
            let [low2, high2] = self.nibbles(second);
            [
                _mm512_permutex2var_epi32(low, order, high),
                _mm512_permutex2var_epi32(low, next, high),
                _mm512_permutex2var_epi32(low2, order, high2),
                _mm512_permutex2var_epi32(low2, next, high2),
            ]
        }

        /// Unpacks the low four bits of the weights of `Q4_K` or `Q5_K`: byte `32 c + k` holds
        /// weights `64 c + k` and `64 c + 32 + k`.
        fn k_nibbles(self, bytes: &[u8; 128]) -> [__m512i; 4] {
            let (p, q) = (self.vector(at(bytes, 0)), self.vector(at(bytes, 64)));
            let order = _mm512_setr_epi32(0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
            self.interleave_nibbles(p, q, order)
        }

        fn floats(self, numbers: &[f32; 16]) -> __m512 {
            _mm512_loadu_ps(numbers.as_ptr())
        }

        fn vector(self, bytes: &[u8; 64]) -> __m512i {
            _mm512_loadu_si512(bytes.as_ptr().cast())
        }

        fn half_vector(self, bytes: &[u8; 32]) -> __m256i {
            _mm256_loadu_si256(bytes.as_ptr().cast())
        }

        fn quarter(self, bytes: &[u8; 16]) -> __m128i {
            _mm_loadu_si128(bytes.as_ptr().cast())
        }

        fn weights(self, bytes: &[u8; size_of::<Weights>()]) -> Weights {
            bytes.as_ptr().cast::<Weights>().read_unaligned()
        }

        /// Splits bytes into their low and their high four bits.
        fn nibbles(self, v: __m512i) -> [__m512i; 2] {
            let low = _mm512_set1_epi8(15);
            [_mm512_and_si512(v, low), _mm512_and_si512(_mm512_srli_epi16::<4>(v), low)]
        }

        /// The scales and minima of a `Q4_K` or `Q5_K` block, each repeated for two groups of 16,
        /// from the first 16 bytes of the block: `d` and `dmin` as 16-bit floats, then 6 bits for
        /// each of eight scales and eight minima.
        fn k_scales(self, head: &[u8; 16]) -> (__m512, __m512) {
            let head = self.quarter(head);
            let bytes = k_scales(head);
            let scales = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
            let minima = _mm_shuffle_epi8(bytes, _mm_setr_epi8(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15));
            let block_scales = _mm_cvtph_ps(head);
            (
                _mm512_mul_ps(self.float_bytes(scales), _mm512_broadcastss_ps(block_scales)),
                _mm512_mul_ps(self.float_bytes(minima), _mm512_broadcastss_ps(_mm_movehdup_ps(block_scales))),
            )
        }

        fn float_bytes(self, bytes: __m128i) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        }

        fn q4_k(self, block: &[u8; 144]) -> Weights {
            let (scales, minima) = self.k_scales(at(block, 0));
            Weights { bytes: self.k_nibbles(at(block, 16)), scales, minima }
        }

        fn q5_k(self, block: &[u8; 176]) -> Weights {
            let (scales, minima) = self.k_scales(at(block, 0));
            let mut bytes = self.k_nibbles(at(block, 48));
            // Bit s of byte k is the fifth bit of weight 32 s + k; lane i has those with s = i / 2.
            let bits = _mm512_castsi256_si512(self.half_vector(at(block, 16)));
            let shift = _mm512_setr_epi32(4, 4, 3, 3, 2, 2, 1, 1, 0, 0, -1, -1, -2, -2, -3, -3);
            for (j, bytes) in (0..).zip(&mut bytes) {
                let lanes = _mm512_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4);
                let bits = _mm512_permutexvar_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(j)), bits);
                let fifth = _mm512_and_si512(_mm512_rolv_epi32(bits, shift), _mm512_set1_epi8(16));
                *bytes = _mm512_or_si512(*bytes, fifth);
            }
            Weights { bytes, scales, minima }
        }

        fn q6_k(self, block: &[u8; 210]) -> Weights {
            let (p, q) = (self.vector(at(block, 0)), self.vector(at(block, 64)));
            // Each half of the block has four groups in low halves of bytes, then four in high
            // halves.
            let order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
            let mut bytes = self.interleave_nibbles(p, q, order);
            // Bits 2 g and 2 g + 1 of byte 32 h + k belong to weight 128 h + 32 g + k.
            let bits = self.vector(at(block, 128));
            let shift = _mm512_setr_epi32(4, 4, 2, 2, 0, 0, -2, -2, 4, 4, 2, 2, 0, 0, -2, -2);
            for (j, bytes) in (0..).zip(&mut bytes) {
                let lanes = _mm512_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4, 8, 12, 8, 12, 8, 12, 8, 12);
                let bits = _mm512_permutexvar_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(j)), bits);
                let high = _mm512_and_si512(_mm512_rolv_epi32(bits, shift), _mm512_set1_epi8(0x30));
                *bytes = _mm512_or_si512(*bytes, high);
            }
            let scales = _mm512_cvtepi8_epi32(self.quarter(at(block, 192)));
            let scales = _mm512_mul_ps(_mm512_cvtepi32_ps(scales), _mm512_set1_ps(half(*at(block, 208))));
            Weights { bytes, scales, minima: _mm512_setzero_ps() }
        }

        /// The 4-bit weights of the eight blocks of `size` bytes of a type whose own blocks have 32
        /// weights, which end with 16 bytes of them. The low halves of the bytes are the first 16
        /// weights of a block of 32.
        fn legacy_nibbles<const SIZE: usize>(self, block: &[u8]) -> [__m512i; 4] {
            let mut bytes = [_mm_setzero_si128(); 8];
            for (i, bytes) in bytes.iter_mut().enumerate() {
                *bytes = self.quarter(at(block, i * SIZE + SIZE - 16));
            }
            let p = self.join(bytes[0], bytes[1], bytes[2], bytes[3]);
            let q = self.join(bytes[4], bytes[5], bytes[6], bytes[7]);
            let order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            self.interleave_nibbles(p, q, order)
        }

        fn q4_0(self, block: &[u8; 144]) -> Weights {
            // The scale of each block of 18 bytes, at 16-bit index 9 i, for two groups of 16.
            let at18 = [0, 0, 9, 9, 18, 18, 27, 27, 36, 36, 45, 45, 54, 54, 63, 63i16];
            let at18 = _mm512_castsi256_si512(_mm256_loadu_si256(at18.as_ptr().cast()));
            let halves = _mm512_permutex2var_epi16(self.vector(at(block, 0)), at18, self.vector(at(block, 64)));
            let scales = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
            Weights { bytes: self.legacy_nibbles::<18>(block), scales, minima: _mm512_setzero_ps() }
        }

        /// The floats of the low and of the high halves of 16 words.
        fn half_floats(self, words: __m512i) -> (__m512, __m512) {
            (
                _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
                _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words))),
            )
        }

        /// A block of 20 bytes begins with its scale and its offset, one word. Offsets are added,
        /// minima subtracted.
        fn q4_1(self, block: &[u8; 160]) -> Weights {
            // The words of blocks 0 to 3, then, 80 bytes on, those of blocks 4 to 7; each for two
            // groups of 16.
            let at20 = _mm512_setr_epi32(0, 0, 5, 5, 10, 10, 15, 15, 16, 16, 21, 21, 26, 26, 31, 31);
            let words = _mm512_permutex2var_epi32(self.vector(at(block, 0)), at20, self.vector(at(block, 80)));
            let (scales, offsets) = self.half_floats(words);
            Weights {
                bytes: self.legacy_nibbles::<20>(block),
                scales,
                minima: _mm512_sub_ps(_mm512_setzero_ps(), offsets),
            }
        }

        /// The words at byte `start` of eight blocks of `SIZE` bytes.
        fn words<const SIZE: usize>(self, block: &[u8], start: usize) -> __m256i {
            let mut words = [0u32; 8];
            for (i, word) in words.iter_mut().enumerate() {
                *word = u32::from_le_bytes(*at(block, i * SIZE + start));
            }
            _mm256_loadu_si256(words.as_ptr().cast())
        }

        /// Adds 16 to the bytes whose bit of `which` is set in `bits`.
        fn add_sixteen(self, bytes: __m512i, bits: __m512i, which: __m512i) -> __m512i {
            let set = _mm512_test_epi8_mask(bits, which);
            _mm512_mask_add_epi8(bytes, set, bytes, _mm512_set1_epi8(16))
        }

        /// Adds the fifth bits of 256 weights to their interleaved low four. Bit `k` of word `i`
        /// belongs to weight `32 i + k`.
        fn with_fifth_bits(self, bytes: [__m512i; 4], bits: __m256i) -> [__m512i; 4] {
            // Lane i has those of group i of 16.
            let lanes = _mm512_cvtepu16_epi32(bits);
            // The byte with the bits of weights 0 to 7, or 8 to 15, of a group, four times.
            let low = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
            let low = _mm512_shuffle_epi8(lanes, low);
            let high = _mm512_broadcast_i32x4(_mm_setr_epi8(1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13));
            let high = _mm512_shuffle_epi8(lanes, high);
            let first = _mm512_set1_epi32(0x0804_0201);
            let second = _mm512_set1_epi32(0x8040_2010u32.cast_signed());
            [
                self.add_sixteen(bytes[0], low, first),
                self.add_sixteen(bytes[1], low, second),
                self.add_sixteen(bytes[2], high, first),
                self.add_sixteen(bytes[3], high, second),
            ]
        }

        /// A block of 22 bytes: scale, fifth bits, low four bits.
        fn q5_0(self, block: &[u8; 176]) -> Weights {
            Weights {
                bytes: self.with_fifth_bits(self.legacy_nibbles::<22>(block), self.words::<22>(block, 2)),
                scales: self.eight_scales::<22>(block),
                minima: _mm512_setzero_ps(),
            }
        }

        /// A block of 24 bytes: scale, offset, fifth bits, low four bits.
        fn q5_1(self, block: &[u8; 192]) -> Weights {
            let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            let words = _mm512_castsi256_si512(self.words::<24>(block, 0));
            let (scales, offsets) = self.half_floats(_mm512_permutexvar_epi32(twice, words));
            Weights {
                bytes: self.with_fifth_bits(self.legacy_nibbles::<24>(block), self.words::<24>(block, 4)),
                scales,
                minima: _mm512_sub_ps(_mm512_setzero_ps(), offsets),
            }
        }

        /// The weights of two blocks of `Q8_0`, plus 128, which makes them unsigned.
        fn pair(self, blocks: &[u8; 68]) -> __m512i {
            let one = self.half_vector(at(blocks, 2));
            let other = self.half_vector(at(blocks, 36));
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), other);
            _mm512_xor_si512(both, _mm512_set1_epi8(i8::MIN))
        }

        /// The scales that eight blocks of `SIZE` bytes begin with, each repeated for two groups of
        /// 16.
        fn eight_scales<const SIZE: usize>(self, block: &[u8]) -> __m512 {
            let mut words = [0u64; 2];
            for i in 0..8 {
                words[i / 4] |= u64::from(u16::from_le_bytes(*at(block, i * SIZE))) << (16 * (i % 4));
            }
            let halves = _mm_set_epi64x(words[1].cast_signed(), words[0].cast_signed());
            let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_cvtph_ps(halves)))
        }

        fn q8_0(self, block: &[u8; 272]) -> Weights {
            let scales = self.eight_scales::<34>(block);
            Weights {
                bytes: self.interleave([
                    self.pair(at(block, 0)),
                    self.pair(at(block, 68)),
                    self.pair(at(block, 136)),
                    self.pair(at(block, 204)),
                ]),
                scales,
                minima: _mm512_setzero_ps(),
            }
        }
    }
}
