//! Conversion of the checkpoints' number types to f32.

use std::sync::LazyLock;

use half::{bf16, f16};
use safetensors::Dtype;

/// Converts numbers to f32, which represents each of them exactly. Types other than floating-point
/// numbers and I8 give an empty list.
pub(super) fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let twos = bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => {
            let fours = bytes.as_chunks::<4>().0.iter();
            fours.map(|b| f32::from_le_bytes(*b)).collect()
        }
        Dtype::F16 => twos.map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => twos.map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::I8 => bytes.iter().map(|b| f32::from(*b as i8)).collect(),
        Dtype::F8_E4M3 => bytes.iter().map(|b| E4M3[usize::from(*b)]).collect(),
        Dtype::F8_E5M2 => bytes.iter().map(|b| E5M2[usize::from(*b)]).collect(),
        _ => Vec::new(),
    }
}

/// 4 bits of exponent, 3 of mantissa, no infinities; 0x7f and 0xff are NaN. The format of
/// "FP8 Formats for Deep Learning" (arXiv 2209.05433), `float8_e4m3fn` of PyTorch.
static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| match byte & 0x7f {
        0x7f => f32::NAN,
        _ => small_float(byte as u8, 3),
    })
});

/// 5 bits of exponent, 2 of mantissa: the upper half of an f16.
static E5M2: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| f16::from_bits((byte as u16) << 8).to_f32()));

/// Decodes an 8-bit floating-point number: sign, exponent, and this number of mantissa bits.
fn small_float(byte: u8, mantissa_bits: u32) -> f32 {
    let exponent = i32::from((byte & 0x7f) >> mantissa_bits);
    let mantissa = i32::from(byte & ((1 << mantissa_bits) - 1));
    let bias = (1 << (6 - mantissa_bits)) - 1;
    // A subnormal number has the exponent of the smallest normal number, and no leading one.
    let whole = match exponent {
        0 => mantissa,
        _ => mantissa + (1 << mantissa_bits),
    };
    let scale = exponent.max(1) - bias - mantissa_bits as i32;
    let size = whole as f32 * 2f32.powi(scale);
    if byte & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that the format's paper lists in its table 1. The digits are grouped as sign,
    /// exponent and mantissa.
    #[allow(clippy::inconsistent_digit_grouping, clippy::unusual_byte_groupings)]
    #[test]
    fn the_ends_of_float8_are_those_of_the_paper() {
        let e4m3 = |byte: u8| widen(Dtype::F8_E4M3, &[byte])[0];
        assert_eq!(e4m3(0b0_1111_110), 448.0);
        assert_eq!(e4m3(0b0_0001_000), 2f32.powi(-6));
        assert_eq!(e4m3(0b0_0000_111), 0.875 * 2f32.powi(-6));
        assert_eq!(e4m3(0b1_0000_001), -2f32.powi(-9));
        assert_eq!(e4m3(0b0_0111_000), 1.0);
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let e5m2 = |byte: u8| widen(Dtype::F8_E5M2, &[byte])[0];
        assert_eq!(e5m2(0b0_11110_11), 57344.0);
        assert_eq!(e5m2(0b0_00000_01), 2f32.powi(-16));
        assert_eq!(e5m2(0b1_11111_00), f32::NEG_INFINITY);
        assert!(e5m2(0b0_11111_01).is_nan());
    }
}
