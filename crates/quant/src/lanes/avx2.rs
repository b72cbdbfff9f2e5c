//! Eight lanes: AVX2 with F16C.

use super::{ROUNDER, Simd, Task, by_intrinsics, operator};
use std::arch::x86_64::*;

/// A value exists only if the CPU has AVX2 and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs `task` compiled for AVX2.
///
/// # Safety
/// The CPU has AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx2(()))
}

/// Eight f32.
#[derive(Clone, Copy)]
pub(crate) struct F(__m256);
/// Eight i32.
#[derive(Clone, Copy)]
pub(crate) struct I(__m256i);
/// Eight truth values, all ones or all zeros.
#[derive(Clone, Copy)]
pub(crate) struct M(__m256);

operator!(Add, add, F, _mm256_add_ps);
operator!(Sub, sub, F, _mm256_sub_ps);
operator!(Mul, mul, F, _mm256_mul_ps);
operator!(Div, div, F, _mm256_div_ps);
operator!(Add, add, I, _mm256_add_epi32);
operator!(BitAnd, bitand, I, _mm256_and_si256);
operator!(BitOr, bitor, I, _mm256_or_si256);
operator!(BitAnd, bitand, M, _mm256_and_ps);
operator!(BitOr, bitor, M, _mm256_or_ps);

/// Round to nearest, ties to even, without floating-point exceptions.
const EVEN: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Simd for Avx2 {
    const LANES: usize = 8;
    const TILE: usize = 8;
    type F = F;
    type I = I;
    type M = M;

    by_intrinsics! {
        splat(value: f32) -> F = F(_mm256_set1_ps(value));
        int(value: i32) -> I = I(_mm256_set1_epi32(value));
        abs(v: F) -> F = F(_mm256_andnot_ps(_mm256_set1_ps(-0.0), v.0));
        sqrt(v: F) -> F = F(_mm256_sqrt_ps(v.0));
        max(a: F, b: F) -> F = F(_mm256_max_ps(a.0, b.0));
        min(a: F, b: F) -> F = F(_mm256_min_ps(a.0, b.0));
        round(v: F) -> F = F(_mm256_round_ps::<EVEN>(v.0));
        lt(a: F, b: F) -> M = M(_mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0));
        ne(a: F, b: F) -> M = M(_mm256_cmp_ps::<_CMP_NEQ_UQ>(a.0, b.0));
        select(m: M, a: F, b: F) -> F = F(_mm256_blendv_ps(b.0, a.0, m.0));
        any(m: M) -> bool = _mm256_movemask_ps(m.0) != 0;
        all(m: M) -> bool = _mm256_movemask_ps(m.0) == 0xff;
        nearest(v: F) -> I = {
            let sum = _mm256_castps_si256(_mm256_add_ps(v.0, _mm256_set1_ps(ROUNDER)));
            let mantissa = _mm256_and_si256(sum, _mm256_set1_epi32(0x007f_ffff));
            I(_mm256_sub_epi32(mantissa, _mm256_set1_epi32(0x0040_0000)))
        };
        truncate_byte(v: F) -> I = I(_mm256_and_si256(_mm256_cvttps_epi32(v.0), _mm256_set1_epi32(0xff)));
        truncate(v: F) -> I = I(_mm256_cvttps_epi32(v.0));
        round_away(v: F) -> I = {
            // Adding the largest f32 below ½ reaches the next integer from x.5 but from nothing
            // smaller.
            let sign = _mm256_and_ps(v.0, _mm256_set1_ps(-0.0));
            let half = _mm256_or_ps(sign, _mm256_set1_ps(0.499_999_97));
            I(_mm256_cvttps_epi32(_mm256_add_ps(v.0, half)))
        };
        bits(v: F) -> I = I(_mm256_castps_si256(v.0));
        of_bits(v: I) -> F = F(_mm256_castsi256_ps(v.0));
        times16(v: I) -> I = I(_mm256_slli_epi32::<4>(v.0));
        float(v: I) -> F = F(_mm256_cvtepi32_ps(v.0));
        imax(a: I, b: I) -> I = I(_mm256_max_epi32(a.0, b.0));
        imin(a: I, b: I) -> I = I(_mm256_min_epi32(a.0, b.0));
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        let from: &[f32; 8] = from.first_chunk().expect("a float per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 32 bytes.
        unsafe { F(from.as_ptr().cast::<__m256>().read_unaligned()) }
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut [f32]) {
        let to: &mut [f32; 8] = to.first_chunk_mut().expect("a float per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 32 bytes.
        unsafe { to.as_mut_ptr().cast::<__m256>().write_unaligned(v.0) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> F {
        let from: &[u8; 16] = from.first_chunk().expect("two bytes per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 16 bytes.
        unsafe { F(_mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> F {
        let from: &[u8; 16] = from.first_chunk().expect("two bytes per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 16 bytes.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            F(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8]) {
        let to: &mut [u8; 8] = to.first_chunk_mut().expect("a byte per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 8 bytes.
        unsafe {
            let bytes = _mm256_and_si256(v.0, _mm256_set1_epi32(0xff));
            let words = _mm_packus_epi32(
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            _mm_storel_epi64(to.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 32], index: I) -> F {
        let (low, high) = table.split_at(16);
        // SAFETY: `self` exists, so the CPU has the instructions; each half is 16 bytes.
        unsafe {
            let low = _mm256_broadcastsi128_si256(_mm_loadu_si128(low.as_ptr().cast()));
            let high = _mm256_broadcastsi128_si256(_mm_loadu_si128(high.as_ptr().cast()));
            // The entry becomes the top byte of its lane; the other bytes become 0.
            let top = _mm256_and_si256(
                _mm256_slli_epi32::<24>(index.0),
                _mm256_set1_epi32(0x0f00_0000),
            );
            let control = _mm256_or_si256(top, _mm256_set1_epi32(0x0080_8080));
            let entry = _mm256_blendv_ps(
                _mm256_castsi256_ps(_mm256_shuffle_epi8(low, control)),
                _mm256_castsi256_ps(_mm256_shuffle_epi8(high, control)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<27>(index.0)),
            );
            let entry = _mm256_srai_epi32::<24>(_mm256_castps_si256(entry));
            F(_mm256_cvtepi32_ps(entry))
        }
    }
    #[inline(always)]
    fn tile(self, from: &[f32], stride: usize, to: &mut [F]) {
        let mut rows = [self.splat(0.0).0; 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = self.load(&from[i * stride..]).0;
        }
        let to: &mut [F; 8] = to.first_chunk_mut().expect("a column per lane");
        // SAFETY: `self` exists only if the CPU has the instructions.
        unsafe {
            // quad[4g + c] holds rows 4g..4g+4 of columns c and c + 4, one column per 128-bit half.
            let mut quad = rows;
            for g in 0..2 {
                let r = &rows[4 * g..];
                let low01 = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1]));
                let high01 = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
                let low23 = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3]));
                let high23 = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
                quad[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
                quad[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
                quad[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
                quad[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
            }
            for c in 0..4 {
                to[c] = F(_mm256_permute2f128_ps::<0x20>(quad[c], quad[4 + c]));
                to[c + 4] = F(_mm256_permute2f128_ps::<0x31>(quad[c], quad[4 + c]));
            }
        }
    }
}
