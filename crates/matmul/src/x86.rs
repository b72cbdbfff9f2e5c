//! What the instruction sets of x86 share.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// Methods of a token, of whose instruction set the CPU has all, whose bodies are intrinsics.
macro_rules! by_intrinsics {
    ($($(#[$meta:meta])*
        fn $name:ident$(<$(const $n:ident: $nty:ty),+>)?($self:ident $(, $arg:ident: $ty:ty)*) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        fn $name$(<$(const $n: $nty),+>)?($self $(, $arg: $ty)*) $(-> $out)? {
            // SAFETY: `self` is a token: the CPU has the instructions.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    )*};
}
pub(super) use by_intrinsics;

/// So many bytes of a block, whose size is known.
#[inline(always)]
pub(super) fn at<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..].first_chunk().expect("it is that long")
}

/// Fetches what will be read next, or soon.
#[inline(always)]
pub(super) fn prefetch(address: *const u8, next: bool) {
    // SAFETY: nothing happens if there is nothing; every x86-64 has the instruction.
    unsafe {
        if next {
            _mm_prefetch::<_MM_HINT_NTA>(address.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
        }
    }
}

/// A number of 16 bits.
#[inline]
#[target_feature(enable = "f16c")]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    let bits = i32::from(u16::from_le_bytes(bytes));
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
}

/// The eight scales of `Q4_K` and `Q5_K`, then the eight minima, 6 bits each, from the head of the
/// block: the units of both in 16 bits, then 12 bytes of them.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn k_scales(head: __m128i) -> __m128i {
    // Whole bytes, then four low bits here and two high bits there.
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
