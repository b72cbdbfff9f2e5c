//! ggml's own quantizer and dequantizer: the reference, and the encoder of types that this crate
//! does not encode itself.
//!
//! ggml aborts the process on a failed assertion. Everything that it would assert is checked here
//! before the call.

#![allow(unsafe_code)]

use super::Error;
use llama_cpp_sys_2 as sys;
use modelve_gguf::GgmlType;
use std::ffi::c_void;

/// The types that `ggml_quantize_chunk` takes, except f32, f16 and bf16.
const QUANTIZED: &[GgmlType] = &[
    GgmlType::Q1_0,
    GgmlType::Q2_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::TQ1_0,
    GgmlType::TQ2_0,
    GgmlType::IQ2_XXS,
    GgmlType::IQ2_XS,
    GgmlType::IQ3_XXS,
    GgmlType::IQ3_S,
    GgmlType::IQ2_S,
    GgmlType::IQ1_S,
    GgmlType::IQ1_M,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
];

/// Returns whether ggml can encode rows to `ty`.
pub(super) fn encodes(ty: GgmlType) -> bool {
    QUANTIZED.contains(&ty)
}

/// Returns whether ggml can encode to `ty` only with an importance matrix.
pub(super) fn requires_imatrix(ty: GgmlType) -> bool {
    // SAFETY: the function compares its argument with constants and reads nothing.
    encodes(ty) && unsafe { sys::ggml_quantize_requires_imatrix(ty.0 as sys::ggml_type) }
}

/// Encodes rows of `n_per_row` weights with `ggml_quantize_chunk`.
///
/// `src` holds whole rows, `dst` has exactly the length of their blocks, and `imatrix`, if any, has
/// `n_per_row` importances.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::RowLength`], [`Error::NeedsImatrix`], [`Error::Length`].
pub(super) fn quantize(
    ty: GgmlType,
    src: &[f32],
    n_per_row: usize,
    imatrix: Option<&[f32]>,
    dst: &mut [u8],
) -> Result<(), Error> {
    if !encodes(ty) {
        return Err(Error::Unsupported(ty));
    }
    if imatrix.is_none() && requires_imatrix(ty) {
        return Err(Error::NeedsImatrix(ty));
    }
    let row_bytes = super::row_bytes(ty, n_per_row)?;
    let rows = src.len() / n_per_row;
    super::expect_length("the weights", src.len(), rows * n_per_row)?;
    super::expect_length("the blocks", dst.len(), rows * row_bytes)?;
    if let Some(imatrix) = imatrix {
        super::expect_length("the importance matrix", imatrix.len(), n_per_row)?;
    }
    // SAFETY: `src` has rows × n_per_row floats; `dst` has the bytes of as many rows of blocks
    // (a test compares the block sizes with ggml's own table); `imatrix` has n_per_row floats or is
    // null, which is refused above for the types that do not accept it; n_per_row is a positive
    // multiple of the block size. ggml reads and writes within these bounds and keeps no pointer;
    // it guards its lazily built tables by a lock of its own.
    unsafe {
        sys::ggml_quantize_chunk(
            ty.0 as sys::ggml_type,
            src.as_ptr(),
            dst.as_mut_ptr().cast::<c_void>(),
            0,
            rows as i64,
            n_per_row as i64,
            imatrix.map_or(std::ptr::null(), <[f32]>::as_ptr),
        );
    }
    Ok(())
}

/// Decodes blocks to weights with ggml's `to_float`.
///
/// # Errors
/// [`Error::Unsupported`] for a type without one, [`Error::RowLength`], [`Error::Length`].
pub(super) fn dequantize(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), Error> {
    let Some(info) = ty.info() else {
        return Err(Error::Unsupported(ty));
    };
    if dst.is_empty() {
        return super::expect_length("the blocks", src.len(), 0);
    }
    super::expect_length("the blocks", src.len(), super::row_bytes(ty, dst.len())?)?;
    // SAFETY: `info()` knows the number, so it is one of ggml's types and in its traits table; the
    // returned pointer is to a static.
    let traits = unsafe { sys::ggml_get_type_traits(info.ty.0 as sys::ggml_type).as_ref() };
    let Some(to_float) = traits.and_then(|traits| traits.to_float) else {
        return Err(Error::Unsupported(ty));
    };
    // SAFETY: `src` holds exactly the blocks of `dst.len()` weights, a multiple of the block
    // size. ggml reads block fields through structures with an alignment of at most 2, and `src`
    // may start at an odd address; x86 and aarch64 load from any address, and the compiler emits no
    // aligned vector access for types with an alignment of 2.
    unsafe {
        to_float(
            src.as_ptr().cast::<c_void>(),
            dst.as_mut_ptr(),
            dst.len() as i64,
        )
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_ggmls() {
        for &ty in QUANTIZED {
            let info = ty.info().expect("a known type");
            // SAFETY: the type is one of ggml's.
            let (size, bytes) = unsafe {
                (
                    sys::ggml_blck_size(ty.0 as sys::ggml_type),
                    sys::ggml_type_size(ty.0 as sys::ggml_type),
                )
            };
            assert_eq!(
                (size as u64, bytes as u64),
                (info.block_size, info.block_bytes),
                "{ty}"
            );
        }
    }

    #[test]
    fn rejects_what_ggml_would_assert_on() {
        let weights = [0.5; 256];
        let mut blocks = [0u8; 144];
        let quantize = |ty, n, dst: &mut [u8]| quantize(ty, &weights, n, None, dst);
        assert!(matches!(
            quantize(GgmlType::I8, 256, &mut blocks),
            Err(Error::Unsupported(_))
        ));
        assert!(matches!(
            quantize(GgmlType::IQ2_XXS, 256, &mut blocks),
            Err(Error::NeedsImatrix(_))
        ));
        assert!(matches!(
            quantize(GgmlType::Q4_K, 128, &mut blocks),
            Err(Error::RowLength { .. })
        ));
        assert!(matches!(
            quantize(GgmlType::Q4_K, 0, &mut blocks),
            Err(Error::RowLength { .. })
        ));
        assert!(matches!(
            quantize(GgmlType::Q4_K, 256, &mut blocks[1..]),
            Err(Error::Length { .. })
        ));
        assert!(quantize(GgmlType::Q4_K, 256, &mut blocks).is_ok());
    }
}
