//! Conversions between f32 and the bits of f16 and bf16, and ggml's rounding to integers.
//!
//! They have no branches on the value and no library calls, so that the compiler vectorizes loops
//! over them.

use super::lanes::ROUNDER;

/// 2¹¹²: the exponent biases of f32 (127) and f16 (15) differ by 112.
const REBIAS: f32 = 5.192_297e33;

/// Converts the bits of an f16 to the same number as f32.
#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff) << 13;
    let sign = u32::from(h & 0x8000) << 16;
    // Read as an f32, the fields are right except for the exponent's bias, also for subnormals.
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(
        sign | if h & 0x7c00 == 0x7c00 {
            special
        } else {
            finite
        },
    )
}

/// The bits of the nearest f16, ties to even; NaN becomes the quiet NaN with the same sign.
#[inline(always)]
pub(super) fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // 13 mantissa bits are dropped. Adding half of the last kept bit, less one unit if that bit
    // is even, makes the sum carry exactly when rounding to even rounds up.
    let normal =
        (magnitude.wrapping_sub(112 << 23)).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Below 2⁻¹⁴: f32 values just above ½ are 2⁻²⁴ apart, like subnormal f16, so adding ½ rounds
    // correctly and leaves the bits of the subnormal f16 in the mantissa.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let nonsign = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    (sign | nonsign) as u16
}

/// The bits of the nearest bf16, ties to even; NaN stays NaN, made quiet.
#[inline(always)]
pub(super) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let quiet = (bits >> 16) as u16 | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        quiet
    } else {
        rounded
    }
}

/// One lane of [`super::lanes::Simd::nearest`].
#[inline(always)]
pub(super) fn nearest(v: f32) -> i32 {
    ((v + ROUNDER).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_as_the_half_crate_says() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{h:#x}"
            );
        }
    }

    #[test]
    fn narrowing_rounds_as_the_half_crate_does() {
        // Every exponent and sign, mantissas around each rounding boundary.
        for high in 0..=u16::MAX {
            for low in [
                0u32, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff,
            ] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                if x.is_nan() {
                    assert!(half::f16::from_bits(f32_to_f16(x)).is_nan());
                    assert!(half::bf16::from_bits(f32_to_bf16(x)).is_nan());
                } else {
                    assert_eq!(f32_to_f16(x), half::f16::from_f32(x).to_bits(), "{x:e}");
                    assert_eq!(f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
                }
            }
        }
    }

    #[test]
    fn nearest_rounds_ties_to_even() {
        for (v, expected) in [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (7.49, 7),
            (1e6, 1_000_000),
        ] {
            assert_eq!(nearest(v), expected);
        }
        assert_eq!(nearest(f32::NAN), 0);
    }
}
