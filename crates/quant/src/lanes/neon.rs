//! Four lanes: NEON, which every aarch64 has.

use super::{ROUNDER, Simd, Task, by_intrinsics, operator};
use std::arch::aarch64::*;

/// A value exists only if the CPU has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Runs `task` compiled for NEON.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(crate) fn run<T: Task>(task: T) -> T::Output {
    task.run(Neon(()))
}

/// Four f32.
#[derive(Clone, Copy)]
pub(crate) struct F(float32x4_t);
/// Four i32.
#[derive(Clone, Copy)]
pub(crate) struct I(int32x4_t);
/// Four truth values, all ones or all zeros.
#[derive(Clone, Copy)]
pub(crate) struct M(uint32x4_t);

operator!(Add, add, F, vaddq_f32);
operator!(Sub, sub, F, vsubq_f32);
operator!(Mul, mul, F, vmulq_f32);
operator!(Div, div, F, vdivq_f32);
operator!(Add, add, I, vaddq_s32);
operator!(BitAnd, bitand, I, vandq_s32);
operator!(BitOr, bitor, I, vorrq_s32);
operator!(BitAnd, bitand, M, vandq_u32);
operator!(BitOr, bitor, M, vorrq_u32);

impl Simd for Neon {
    const LANES: usize = 4;
    const TILE: usize = 4;
    type F = F;
    type I = I;
    type M = M;

    by_intrinsics! {
        splat(value: f32) -> F = F(vdupq_n_f32(value));
        int(value: i32) -> I = I(vdupq_n_s32(value));
        abs(v: F) -> F = F(vabsq_f32(v.0));
        sqrt(v: F) -> F = F(vsqrtq_f32(v.0));
        max(a: F, b: F) -> F = F(vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0));
        min(a: F, b: F) -> F = F(vbslq_f32(vcltq_f32(a.0, b.0), a.0, b.0));
        round(v: F) -> F = F(vrndnq_f32(v.0));
        lt(a: F, b: F) -> M = M(vcltq_f32(a.0, b.0));
        ne(a: F, b: F) -> M = M(vmvnq_u32(vceqq_f32(a.0, b.0)));
        select(m: M, a: F, b: F) -> F = F(vbslq_f32(m.0, a.0, b.0));
        any(m: M) -> bool = vmaxvq_u32(m.0) != 0;
        all(m: M) -> bool = vminvq_u32(m.0) != 0;
        nearest(v: F) -> I = {
            let sum = vreinterpretq_s32_f32(vaddq_f32(v.0, vdupq_n_f32(ROUNDER)));
            let mantissa = vandq_s32(sum, vdupq_n_s32(0x007f_ffff));
            I(vsubq_s32(mantissa, vdupq_n_s32(0x0040_0000)))
        };
        truncate_byte(v: F) -> I =
            I(vshrq_n_s32::<24>(vshlq_n_s32::<24>(vcvtq_s32_f32(v.0))));
        truncate(v: F) -> I = I(vcvtq_s32_f32(v.0));
        round_away(v: F) -> I = I(vcvtaq_s32_f32(v.0));
        bits(v: F) -> I = I(vreinterpretq_s32_f32(v.0));
        of_bits(v: I) -> F = F(vreinterpretq_f32_s32(v.0));
        times16(v: I) -> I = I(vshlq_n_s32::<4>(v.0));
        float(v: I) -> F = F(vcvtq_f32_s32(v.0));
        imax(a: I, b: I) -> I = I(vmaxq_s32(a.0, b.0));
        imin(a: I, b: I) -> I = I(vminq_s32(a.0, b.0));
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> F {
        let from: &[f32; 4] = from.first_chunk().expect("a float per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 16 bytes.
        unsafe { F(vld1q_f32(from.as_ptr())) }
    }
    #[inline(always)]
    fn store(self, v: F, to: &mut [f32]) {
        let to: &mut [f32; 4] = to.first_chunk_mut().expect("a float per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 16 bytes.
        unsafe { vst1q_f32(to.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8]) -> F {
        let from: &[u8; 8] = from.first_chunk().expect("two bytes per lane");
        self.load(&std::array::from_fn::<f32, 4, _>(|i| {
            crate::float16::f16_to_f32(u16::from_le_bytes([from[2 * i], from[2 * i + 1]]))
        }))
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u8]) -> F {
        let from: &[u8; 8] = from.first_chunk().expect("two bytes per lane");
        // SAFETY: `self` exists, so the CPU has the instructions; the reference spans 8 bytes.
        unsafe {
            F(vreinterpretq_f32_u32(vshll_n_u16::<16>(
                vreinterpret_u16_u8(vld1_u8(from.as_ptr())),
            )))
        }
    }
    #[inline(always)]
    fn store_bytes(self, v: I, to: &mut [u8]) {
        let to: &mut [u8; 4] = to.first_chunk_mut().expect("a byte per lane");
        // SAFETY: `self` exists only if the CPU has the instructions.
        unsafe {
            let words = vmovn_s32(v.0);
            let bytes = vmovn_u16(vreinterpretq_u16_s16(vcombine_s16(words, words)));
            *to = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)).to_le_bytes();
        }
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 32], index: I) -> F {
        let (low, high) = table.split_at(16);
        // SAFETY: `self` exists, so the CPU has the instructions; each half is 16 bytes.
        unsafe {
            let table = int8x16x2_t(vld1q_s8(low.as_ptr()), vld1q_s8(high.as_ptr()));
            // The entry becomes the top byte of its lane; index 255 is out of range, which gives 0.
            let top = vshlq_n_s32::<24>(vandq_s32(index.0, vdupq_n_s32(31)));
            let control = vorrq_s32(top, vdupq_n_s32(0x00ff_ffff));
            let entry = vqtbl2q_s8(table, vreinterpretq_u8_s32(control));
            F(vcvtq_f32_s32(vshrq_n_s32::<24>(vreinterpretq_s32_s8(
                entry,
            ))))
        }
    }
    #[inline(always)]
    fn tile(self, from: &[f32], stride: usize, to: &mut [F]) {
        let (a, b) = (self.load(from).0, self.load(&from[stride..]).0);
        let (c, d) = (
            self.load(&from[2 * stride..]).0,
            self.load(&from[3 * stride..]).0,
        );
        let to: &mut [F; 4] = to.first_chunk_mut().expect("a column per lane");
        // SAFETY: `self` exists only if the CPU has the instructions.
        unsafe {
            let (ab_even, ab_odd) = (vtrn1q_f32(a, b), vtrn2q_f32(a, b));
            let (cd_even, cd_odd) = (vtrn1q_f32(c, d), vtrn2q_f32(c, d));
            let (ab_even, ab_odd) = (
                vreinterpretq_f64_f32(ab_even),
                vreinterpretq_f64_f32(ab_odd),
            );
            let (cd_even, cd_odd) = (
                vreinterpretq_f64_f32(cd_even),
                vreinterpretq_f64_f32(cd_odd),
            );
            to[0] = F(vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)));
            to[1] = F(vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)));
            to[2] = F(vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)));
            to[3] = F(vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)));
        }
    }
}
