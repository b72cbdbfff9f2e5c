//! The types of weights as integers, for use as const generic parameters, and their zero-points.

use modelve_gguf::GgmlType;

pub(super) const Q4_0: u32 = GgmlType::Q4_0.0;
pub(super) const Q4_1: u32 = GgmlType::Q4_1.0;
pub(super) const Q5_0: u32 = GgmlType::Q5_0.0;
pub(super) const Q5_1: u32 = GgmlType::Q5_1.0;
pub(super) const Q8_0: u32 = GgmlType::Q8_0.0;
pub(super) const Q4_K: u32 = GgmlType::Q4_K.0;
pub(super) const Q5_K: u32 = GgmlType::Q5_K.0;
pub(super) const Q6_K: u32 = GgmlType::Q6_K.0;
/// Weights that are already unpacked (`Simd::Weights`), with minima.
pub(super) const UNPACKED: u32 = u32::MAX;
/// Weights that are already unpacked (`Simd::Weights`), with a constant zero-point.
pub(super) const UNPACKED_WITH_ZERO_POINT: u32 = u32::MAX - 1;

/// The constant that is subtracted from the unpacked bytes of a type of weights; 0 for types with
/// minima.
pub(super) const fn zero_point(ty: u32) -> i32 {
    match ty {
        Q4_0 => 8,
        Q5_0 => 16,
        Q6_K | UNPACKED_WITH_ZERO_POINT => 32,
        Q8_0 => 128,
        _ => 0,
    }
}

/// Returns whether weights of this type have a constant zero-point (`zero_point`) instead of
/// minima.
pub(super) const fn has_zero_point(ty: u32) -> bool {
    zero_point(ty) != 0
}

/// Returns whether the last block of a row may have fewer than 256 weights: those types whose own
/// blocks have 32.
pub(super) const fn may_end_early(ty: u32) -> bool {
    matches!(ty, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0)
}
