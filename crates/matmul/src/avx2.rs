//! AVX2 kernels: products of bytes are added in pairs and multiplied with the scales as integers.

#![allow(unsafe_code)]

use super::columns::Block;
use super::formats::{Q4_K, Q5_K, Q6_K, UNPACKED, UNPACKED_WITH_ZERO_POINT, has_zero_point};
use super::tiles::{self, Simd};
use super::x86::{self, at, by_intrinsics, half, k_scales};
use super::{BLOCK, Rows, Sink};
use bytemuck::{Pod, Zeroable, cast, cast_ref};
use modelve_base::isa::Isa;
use modelve_gguf::GgmlType;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// A value exists only if the CPU has the instructions that [`Avx2::detect`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The types that have kernels. Types with one scale for 32 weights would gain nothing: for
    /// them, unpacking is cheap compared with converting the sums of every 32 products to floats.
    pub const TYPES: [GgmlType; 3] = [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K];

    /// Returns a value if this CPU has the instructions and `MODELVE_ISA` allows them.
    pub fn detect() -> Option<Self> {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        let available = AVAILABLE.get_or_init(|| {
            matches!(Isa::detect().vectors(), Isa::Avx512 | Isa::Avx2)
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("fma")
        });
        available.then_some(Avx2(()))
    }

    /// Implements [`super::Kernel::pack`].
    pub fn pack(self, numbers: &[f32; BLOCK]) -> Block {
        // SAFETY: a value of this type exists only if the CPU has the instructions.
        unsafe { pack(numbers) }
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

/// Quantizes 256 activations. The [`Block`] holds the bytes in order, one scale for all of them in
/// `scales[0]`, and the sums of the groups of 16 as 16-bit integers, even groups before odd ones.
#[target_feature(enable = "avx2,f16c,fma")]
fn pack(numbers: &[f32; BLOCK]) -> Block {
    let largest = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
    // If all numbers are zero, the inverse is zero, too.
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let bytes = numbers.map(|x| (x * inverse).round_ties_even() as i8);
    let mut sums = [0i16; 32];
    for (i, bytes) in bytes.chunks(16).enumerate() {
        sums[i % 2 * 8 + i / 2] = bytes.iter().map(|&byte| i16::from(byte)).sum();
    }
    let mut scales = [0.0; 16];
    scales[0] = largest / 127.0;
    Block {
        bytes: cast(bytes),
        scales,
        sums: cast(sums),
    }
}

#[target_feature(enable = "avx2,f16c,fma")]
fn multiply(s: Avx2, ty: GgmlType, rows: Rows<'_>, x: &[Block], n: usize, sink: &mut Sink<'_>) {
    match ty.0 {
        Q4_K => tiles::multiply::<Avx2, Q4_K>(s, rows, x, n, sink),
        Q5_K => tiles::multiply::<Avx2, Q5_K>(s, rows, x, n, sink),
        _ => tiles::multiply::<Avx2, Q6_K>(s, rows, x, n, sink),
    }
}

#[target_feature(enable = "avx2,f16c,fma")]
fn multiply_unpacked(
    s: Avx2,
    zero_point: bool,
    rows: Rows<'_>,
    x: &[Block],
    n: usize,
    sink: &mut dyn FnMut(usize, &[f32]),
) {
    match zero_point {
        true => tiles::multiply_tile::<Avx2, UNPACKED_WITH_ZERO_POINT>(s, rows, x, n, sink),
        false => tiles::multiply_tile::<Avx2, UNPACKED>(s, rows, x, n, sink),
    }
}

/// 256 unpacked weights. Types with minima: weight = d × scale × byte − dmin × minimum. Types with
/// a constant zero-point: weight = d × (scale × byte + minimum), where the minimum is
/// −zero-point × scale.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Weights {
    /// The bytes of the weights, in order.
    bytes: [__m256i; 8],
    /// The scales of the groups of 16 as 16-bit integers, even groups before odd ones.
    scales: __m256i,
    /// The minima, in the same layout.
    minima: __m256i,
    /// The block's `d` and `dmin`; the rest is padding.
    block_scales: [f32; 8],
}

impl Simd for Avx2 {
    type Weights = Weights;
    type Sum = __m256;

    /// Never: there are not enough registers for a second row.
    const TWO_ROWS_FROM: usize = usize::MAX;

    by_intrinsics! {
        fn zero(self) -> __m256 {
            _mm256_setzero_ps()
        }

        fn total(self, sum: __m256) -> f32 {
            let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
            _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
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
        sums: &mut [[__m256; C]; R],
    ) {
        for r in 0..R {
            match has_zero_point(T) {
                true => self.add_with_zero_point(&weights[r], x, &mut sums[r]),
                false => self.add_with_minima(&weights[r], x, &mut sums[r]),
            }
        }
    }

    #[inline(always)]
    fn unpack<const T: u32>(self, block: &[u8]) -> Weights {
        match T {
            Q4_K => self.q4_k(at(block, 0)),
            Q5_K => self.q5_k(at(block, 0)),
            Q6_K => self.q6_k(at(block, 0)),
            _ => self.weights(at(block, 0)),
        }
    }
}

impl Avx2 {
    by_intrinsics! {
        fn add_with_zero_point<const C: usize>(self, weights: &Weights, x: &[Block; C], sums: &mut [__m256; C]) {
            let mut products = [_mm256_setzero_si256(); C];
            for c in 0..C {
                products[c] = _mm256_madd_epi16(weights.minima, self.block_sums(&x[c]));
            }
            self.add_scaled(weights, x, &mut products);
            for c in 0..C {
                let unit = _mm256_set1_ps(weights.block_scales[0] * x[c].scales[0]);
                sums[c] = _mm256_fmadd_ps(unit, _mm256_cvtepi32_ps(products[c]), sums[c]);
            }
        }

        fn add_with_minima<const C: usize>(self, weights: &Weights, x: &[Block; C], sums: &mut [__m256; C]) {
            let mut products = [_mm256_setzero_si256(); C];
            self.add_scaled(weights, x, &mut products);
            for c in 0..C {
                let unit = _mm256_set1_ps(weights.block_scales[0] * x[c].scales[0]);
                sums[c] = _mm256_fmadd_ps(unit, _mm256_cvtepi32_ps(products[c]), sums[c]);
                let minima = _mm256_madd_epi16(weights.minima, self.block_sums(&x[c]));
                let unit = _mm256_set1_ps(weights.block_scales[1] * x[c].scales[0]);
                sums[c] = _mm256_fnmadd_ps(unit, _mm256_cvtepi32_ps(minima), sums[c]);
            }
        }

        /// Accumulates the products of bytes, multiplied with the scales of the weights. A pair of
        /// products fits into 16 bits: at most 63 × 127 × 2.
        fn add_scaled<const C: usize>(self, weights: &Weights, x: &[Block; C], sums: &mut [__m256i; C]) {
            for j in 0..8 {
                // The two scales of vector `j`, each for 16 bytes.
                let pair = _mm256_set1_epi16((2 * j + 256 * (2 * j + 1)) as i16);
                let scales = _mm256_shuffle_epi8(weights.scales, pair);
                for c in 0..C {
                    let pairs = _mm256_maddubs_epi16(weights.bytes[j], self.bytes(&x[c], j));
                    sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(scales, pairs));
                }
            }
        }

        fn bytes(self, x: &Block, j: usize) -> __m256i {
            let bytes: &[[i8; 32]; 8] = cast_ref(&x.bytes);
            _mm256_loadu_si256(bytes[j].as_ptr().cast())
        }

        fn block_sums(self, x: &Block) -> __m256i {
            _mm256_loadu_si256(x.sums.as_ptr().cast())
        }

        fn vector(self, bytes: &[u8; 32]) -> __m256i {
            _mm256_loadu_si256(bytes.as_ptr().cast())
        }

        fn half_vector(self, bytes: &[u8; 16]) -> __m128i {
            _mm_loadu_si128(bytes.as_ptr().cast())
        }

        fn weights(self, bytes: &[u8; size_of::<Weights>()]) -> Weights {
            bytes.as_ptr().cast::<Weights>().read_unaligned()
        }

        /// Splits bytes into their low and their high four bits.
        fn nibbles(self, v: __m256i) -> [__m256i; 2] {
            let low = _mm256_set1_epi8(15);
            [_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16::<4>(v), low)]
        }

        /// Unpacks the low four bits of the weights of `Q4_K` or `Q5_K`: byte `32 c + k` holds
        /// weights `64 c + k` and `64 c + 32 + k`.
        fn k_nibbles(self, bytes: &[u8; 128]) -> [__m256i; 8] {
            let [a, b] = self.nibbles(self.vector(at(bytes, 0)));
            let [c, d] = self.nibbles(self.vector(at(bytes, 32)));
            let [e, f] = self.nibbles(self.vector(at(bytes, 64)));
            let [g, h] = self.nibbles(self.vector(at(bytes, 96)));
            [a, b, c, d, e, f, g, h]
        }

        /// The unpacked weights of a `Q4_K` or `Q5_K` block from its first 16 bytes and its
        /// unpacked bytes. The format has one scale for two groups of 16.
        fn k_weights(self, head: &[u8; 16], bytes: [__m256i; 8]) -> Weights {
            let head = self.half_vector(head);
            let all = _mm256_cvtepu8_epi16(k_scales(head));
            let block_scales: [f32; 4] = cast(_mm_cvtph_ps(head));
            Weights {
                bytes,
                scales: _mm256_permute4x64_epi64::<0b01_00_01_00>(all),
                minima: _mm256_permute4x64_epi64::<0b11_10_11_10>(all),
                block_scales: [block_scales[0], block_scales[1], 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            }
        }

        fn q4_k(self, block: &[u8; 144]) -> Weights {
            self.k_weights(at(block, 0), self.k_nibbles(at(block, 16)))
        }

        fn q5_k(self, block: &[u8; 176]) -> Weights {
            let mut bytes = self.k_nibbles(at(block, 48));
            // Bit j of byte k is the fifth bit of weight 32 j + k.
            let bits = self.vector(at(block, 16));
            for (j, bytes) in (0..).zip(&mut bytes) {
                let left = _mm256_sll_epi16(bits, _mm_cvtsi32_si128((4 - j).max(0)));
                let placed = _mm256_srl_epi16(left, _mm_cvtsi32_si128((j - 4).max(0)));
                *bytes = _mm256_or_si256(*bytes, _mm256_and_si256(placed, _mm256_set1_epi8(16)));
            }
            self.k_weights(at(block, 0), bytes)
        }

        /// Unpacks half a block of `Q6_K`. Byte `k` of `low` holds the low four bits of weights `k`
        /// and `64 + k`; byte `k` of `high` holds the high two bits of each weight `32 g + k`.
        fn q6_k_half(self, low: &[u8; 64], high: &[u8; 32]) -> [__m256i; 4] {
            let [a, c] = self.nibbles(self.vector(at(low, 0)));
            let [b, d] = self.nibbles(self.vector(at(low, 32)));
            let bits = self.vector(high);
            let two = _mm256_set1_epi8(0x30);
            [
                _mm256_or_si256(a, _mm256_and_si256(_mm256_slli_epi16::<4>(bits), two)),
                _mm256_or_si256(b, _mm256_and_si256(_mm256_slli_epi16::<2>(bits), two)),
                _mm256_or_si256(c, _mm256_and_si256(bits, two)),
                _mm256_or_si256(d, _mm256_and_si256(_mm256_srli_epi16::<2>(bits), two)),
            ]
        }

        fn q6_k(self, block: &[u8; 210]) -> Weights {
            let [a, b, c, d] = self.q6_k_half(at(block, 0), at(block, 128));
            let [e, f, g, h] = self.q6_k_half(at(block, 64), at(block, 160));
            let even_first = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            let scales = _mm_shuffle_epi8(self.half_vector(at(block, 192)), even_first);
            let scales = _mm256_cvtepi8_epi16(scales);
            Weights {
                bytes: [a, b, c, d, e, f, g, h],
                scales,
                minima: _mm256_mullo_epi16(scales, _mm256_set1_epi16(-32)),
                block_scales: [half(*at(block, 208)), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            }
        }
    }
}
