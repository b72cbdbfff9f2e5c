//! Sixteen lanes: AVX-512 F, BW, DQ and VL.

use super::{ROUNDER, Simd, Task, by_intrinsics, operator};
use std::arch::x86_64::*;

/// A value exists only if the CPU has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Runs `task` compiled for AVX-512.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn run<T: Task>(task: T) -> T::Output {
    task.run(Avx512(()))
}

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(crate) struct F(__m512);
/// Sixteen i32.
#[derive(Clone, Copy)]
pub(crate) struct I(__m512i);
/// A bit per lane.
#[derive(Clone, Copy)]
pub(crate) struct M(__mmask16);

operator!(Add, add, F, _mm512_add_ps);
operator!(Sub, sub, F, _mm512_sub_ps);
operator!(Mul, mul, F, _mm512_mul_ps);
operator!(Div, div, F, _mm512_div_ps);
operator!(Add, add, I, _mm512_add_epi32);
operator!(BitAnd, bitand, I, _mm512_and_si512);
operator!(BitOr, bitor, I, _mm512_or_si512);
operator!(BitAnd, bitand, M, |a: __mmask16, b: __mmask16| a & b);
operator!(BitOr, bitor, M, |a: __mmask16, b: __mmask16| a | b);

/// Round to nearest, ties to even, without floating-point exceptions.
const EVEN: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TILE: usize = 16;
    type F = F;
    type I = I;
    type M = M;

    by_intrinsics! {
        splat(value: f32) -> F = F(_mm512_set1_ps(value));
        int(value: i32) -> I = I(_mm512_set1_epi32(value));
        abs(v: F) -> F = F(_mm512_abs_ps(v.0));
        sqrt(v: F) -> F = F(_mm512_sqrt_ps(v.0));
        max(a: F, b: F) -> F = F(_mm512_max_ps(a.0, b.0));
        min(a: F, b: F) -> F = F(_mm512_min_ps(a.0, b.0));
        round(v: F) -> F = F(_mm512_roundscale_ps::<EVEN>(v.0));
        lt(a: F, b: F) -> M = M(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0));
        ne(a: F, b: F) -> M = M(_mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a.0, b.0));
        select(m: M, a: F, b: F) -> F = F(_mm512_mask_blend_ps(m.0, b.0, a.0));
        any(m: M) -> bool = m.0 != 0;
        all(m: M) -> bool = m.0 == u16::MAX;
        nearest(v: F) -> I = {
            let sum = _mm512_castps_si512(_mm512_add_ps(v.0, _mm512_set1_ps(ROUNDER)));
            let mantissa = _mm512_and_si512(sum, _mm512_set1_epi32(0x007f_ffff));
            I(_mm512_sub_epi32(mantissa, _mm512_set1_epi32(0x0040_0000)))
        };
        truncate_byte(v: F) -> I = I(_mm512_and_si512(_mm512_cvttps_epi32(v.0), _mm512_set1_epi32(0xff)));
        truncate(v: F) -> I = I(_mm512_cvttps_epi32(v.0));
        round_away(v: F) -> I = {
            // Adding the largest f32 below ½ reaches the next integer from x.5 but from nothing
            // smaller.
            let sign = _mm512_and_ps(v.0, _mm512_set1_ps(-0.0));
            let half = _mm512_or_ps(sign, _mm512_set1_ps(0.499_999_97));
            I(_mm512_cvttps_epi32(_mm512_add_ps(v.0, half)))
        };
        bits(v: F) -> I = I(_mm512_castps_si512(v.0));
        of_bits(v: I) -> F = F(_mm512_castsi512_ps(v.0));
        times16(v: I) -> I = I(_mm512_slli_epi32::<4>(v.0));
        float(v: I) -> F = F(_mm512_cvtepi32_ps(v.0));
        imax(a: I, b: I) -> I = I(_mm512_max_epi32(a.0, b.0));
        imin(a: I, b: I) -> I = I(_mm512_min_epi32(a.0, b.0));
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        let from: &[f32; 16] = from.first_chunk().expect("a float per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 64 bytes.
        unsafe { F(from.as_ptr().cast::<__m512>().read_unaligned()) }
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut [f32]) {
        let to: &mut [f32; 16] = to.first_chunk_mut().expect("a float per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 64 bytes.
        unsafe { to.as_mut_ptr().cast::<__m512>().write_unaligned(v.0) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> F {
        let from: &[u8; 32] = from.first_chunk().expect("two bytes per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 32 bytes.
        unsafe { F(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> F {
        let from: &[u8; 32] = from.first_chunk().expect("two bytes per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            F(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8]) {
        let to: &mut [u8; 16] = to.first_chunk_mut().expect("a byte per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 16 bytes.
        unsafe {
            to.as_mut_ptr()
                .cast::<__m128i>()
                .write_unaligned(_mm512_cvtepi32_epi8(v.0));
        }
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 32], index: I) -> F {
        let (low, high) = table.split_at(16);
        // SAFETY: `self` exists, so the CPU has the instructions; each half is 16 bytes.
        unsafe {
            let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(low.as_ptr().cast()));
            let high = _mm512_cvtepi8_epi32(_mm_loadu_si128(high.as_ptr().cast()));
            F(_mm512_permutex2var_ps(
                _mm512_cvtepi32_ps(low),
                index.0,
                _mm512_cvtepi32_ps(high),
            ))
        }
    }
    #[inline(always)]
    fn tile(self, from: &[f32], stride: usize, to: &mut [F]) {
        let mut rows = [self.splat(0.0).0; 16];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = self.load(&from[i * stride..]).0;
        }
        let to: &mut [F; 16] = to.first_chunk_mut().expect("a column per lane");
        // SAFETY: `self` exists only if the CPU has the instructions.
        unsafe {
            // Within each 128-bit quarter, interleave pairs of rows, then groups of four: quad[4g +
            // c] holds rows 4g..4g+4 of columns c, c + 4, c + 8 and c + 12, one column per quarter.
            let mut quad = rows;
            for g in 0..4 {
                let r = &rows[4 * g..];
                let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
                let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
                let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
                let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
                quad[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
                quad[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
                quad[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
                quad[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
            }
            // Then, for each c, transpose the 4 × 4 matrix of quarters.
            for c in 0..4 {
                let q = [quad[c], quad[4 + c], quad[8 + c], quad[12 + c]];
                let even01 = _mm512_shuffle_f32x4::<0b10_00_10_00>(q[0], q[1]);
                let odd01 = _mm512_shuffle_f32x4::<0b11_01_11_01>(q[0], q[1]);
                let even23 = _mm512_shuffle_f32x4::<0b10_00_10_00>(q[2], q[3]);
                let odd23 = _mm512_shuffle_f32x4::<0b11_01_11_01>(q[2], q[3]);
                to[c] = F(_mm512_shuffle_f32x4::<0b10_00_10_00>(even01, even23));
                to[c + 8] = F(_mm512_shuffle_f32x4::<0b11_01_11_01>(even01, even23));
                to[c + 4] = F(_mm512_shuffle_f32x4::<0b10_00_10_00>(odd01, odd23));
                to[c + 12] = F(_mm512_shuffle_f32x4::<0b11_01_11_01>(odd01, odd23));
            }
        }
    }
}
