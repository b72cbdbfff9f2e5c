//! The tensor types of ggml: one table holds every fact about them.
//!
//! Source: `enum ggml_type` in ggml.h and the block structures of ggml-common.h. A row of a
//! tensor is a whole number of blocks; a block holds `block_size` weights in `block_bytes` bytes.

use std::borrow::Cow;
use std::fmt;

/// A tensor type as the file states it: any number, known or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GgmlType(pub u32);

/// What is known about a [`GgmlType`].
#[derive(Debug, PartialEq, Eq)]
pub struct TypeInfo {
    /// The number in the file.
    pub ty: GgmlType,
    /// ggml's name, in capitals: `Q4_K`.
    pub name: &'static str,
    /// Weights per block.
    pub block_size: u64,
    /// Bytes per block.
    pub block_bytes: u64,
}

macro_rules! types {
    ($($name:ident = $id:literal: $block_size:literal weights in $block_bytes:literal bytes,)*) => {
        #[allow(missing_docs)]
        impl GgmlType {
            $(pub const $name: GgmlType = GgmlType($id);)*
        }

        static TYPES: &[TypeInfo] = &[
            $(TypeInfo {
                ty: GgmlType($id),
                name: stringify!($name),
                block_size: $block_size,
                block_bytes: $block_bytes,
            },)*
        ];
    };
}

types! {
    F32     =  0:   1 weights in   4 bytes,
    F16     =  1:   1 weights in   2 bytes,
    Q4_0    =  2:  32 weights in  18 bytes,
    Q4_1    =  3:  32 weights in  20 bytes,
    Q5_0    =  6:  32 weights in  22 bytes,
    Q5_1    =  7:  32 weights in  24 bytes,
    Q8_0    =  8:  32 weights in  34 bytes,
    Q8_1    =  9:  32 weights in  36 bytes,
    Q2_K    = 10: 256 weights in  84 bytes,
    Q3_K    = 11: 256 weights in 110 bytes,
    Q4_K    = 12: 256 weights in 144 bytes,
    Q5_K    = 13: 256 weights in 176 bytes,
    Q6_K    = 14: 256 weights in 210 bytes,
    Q8_K    = 15: 256 weights in 292 bytes,
    IQ2_XXS = 16: 256 weights in  66 bytes,
    IQ2_XS  = 17: 256 weights in  74 bytes,
    IQ3_XXS = 18: 256 weights in  98 bytes,
    IQ1_S   = 19: 256 weights in  50 bytes,
    IQ4_NL  = 20:  32 weights in  18 bytes,
    IQ3_S   = 21: 256 weights in 110 bytes,
    IQ2_S   = 22: 256 weights in  82 bytes,
    IQ4_XS  = 23: 256 weights in 136 bytes,
    I8      = 24:   1 weights in   1 bytes,
    I16     = 25:   1 weights in   2 bytes,
    I32     = 26:   1 weights in   4 bytes,
    I64     = 27:   1 weights in   8 bytes,
    F64     = 28:   1 weights in   8 bytes,
    IQ1_M   = 29: 256 weights in  56 bytes,
    BF16    = 30:   1 weights in   2 bytes,
    TQ1_0   = 34: 256 weights in  54 bytes,
    TQ2_0   = 35: 256 weights in  66 bytes,
    MXFP4   = 39:  32 weights in  17 bytes,
    NVFP4   = 40:  64 weights in  36 bytes,
    Q1_0    = 41: 128 weights in  18 bytes,
    Q2_0    = 42:  64 weights in  18 bytes,
}

impl GgmlType {
    /// Every known type, by number.
    pub fn all() -> &'static [TypeInfo] {
        TYPES
    }

    /// What is known about this type; `None` for a number that this version does not know.
    pub fn info(self) -> Option<&'static TypeInfo> {
        let index = TYPES.binary_search_by_key(&self, |info| info.ty).ok()?;
        Some(&TYPES[index])
    }

    /// The name, such as `Q4_K`; `type 99` for a number that this version does not know.
    pub fn name(self) -> Cow<'static, str> {
        match self.info() {
            Some(info) => Cow::Borrowed(info.name),
            None => Cow::Owned(format!("type {}", self.0)),
        }
    }

    /// The type of that name, in capitals or in small letters.
    pub fn from_name(name: &str) -> Option<Self> {
        let info = TYPES
            .iter()
            .find(|info| info.name.eq_ignore_ascii_case(name))?;
        Some(info.ty)
    }

    /// Weights per block.
    pub fn block_size(self) -> Option<u64> {
        Some(self.info()?.block_size)
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> Option<u64> {
        Some(self.info()?.block_bytes)
    }

    /// Bytes of a row of `n` weights; `None` when the type is unknown, `n` is no whole number
    /// of blocks or the product overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let info = self.info()?;
        if !n.is_multiple_of(info.block_size) {
            return None;
        }
        (n / info.block_size).checked_mul(info.block_bytes)
    }

    /// Bits that one weight takes, block scales included.
    pub fn bits_per_weight(self) -> Option<f64> {
        let info = self.info()?;
        Some(info.block_bytes as f64 * 8.0 / info.block_size as f64)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl fmt::Debug for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_every_type_is_found() {
        assert!(TYPES.windows(2).all(|pair| pair[0].ty < pair[1].ty));
        for info in TYPES {
            assert_eq!(info.ty.info(), Some(info));
            assert_eq!(
                GgmlType::from_name(&info.name.to_lowercase()),
                Some(info.ty)
            );
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4_K.row_bytes(300), None);
        assert_eq!(GgmlType::F64.row_bytes(u64::MAX), None);
        assert_eq!(GgmlType(99).row_bytes(1), None);
        assert_eq!(GgmlType(99).to_string(), "type 99");
    }
}
