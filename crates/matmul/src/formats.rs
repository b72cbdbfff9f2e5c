//! The types of weights as numbers that generic code can be compiled for, and their zero-points.

use modelve_gguf::GgmlType;

pub(super) const Q4_0: u32 = GgmlType::Q4_0.0;
pub(super) const Q8_0: u32 = GgmlType::Q8_0.0;
pub(super) const Q4_K: u32 = GgmlType::Q4_K.0;
pub(super) const Q5_K: u32 = GgmlType::Q5_K.0;
pub(super) const Q6_K: u32 = GgmlType::Q6_K.0;
/// Unpacked weights (`Simd::Weights`) as they are, with minima.
pub(super) const UNPACKED: u32 = u32::MAX;
/// Unpacked weights (`Simd::Weights`) as they are, around a centre.
pub(super) const UNPACKED_CENTRED: u32 = u32::MAX - 1;

/// What is subtracted from the bytes of weights of a type, where that is always the same.
pub(super) const fn centre(ty: u32) -> i32 {
    match ty {
        Q4_0 => 8,
        Q6_K | UNPACKED_CENTRED => 32,
        Q8_0 => 128,
        _ => 0,
    }
}

/// Returns whether weights of this type have a constant zero-point (`centre`) instead of minima.
pub(super) const fn is_centred(ty: u32) -> bool {
    centre(ty) != 0
}
