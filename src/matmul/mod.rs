//! Quantized matrices times a few columns of activations, on the weights as the file holds them.
//!
//! A pass over several sequences reads every weight once but multiplies it once per sequence.
//! ggml takes a quantized row apart anew for every column, so from two columns on the taking
//! apart, not the memory, is what a pass waits for. Here a block of weights is taken apart once
//! and multiplied with all columns.
//!
//! - Activations are [`Block`]s of 256 numbers in 8 bits, rounded as ggml rounds them: one scale
//!   for 256 where the weights come in blocks of 256, one for 32 where they come in blocks of 32.
//! - Whatever the type, a block of weights becomes the same thing: 256 unsigned bytes, 16 scales
//!   and 16 minima, one of each per 16 weights; weight = scale × byte − minimum. Where the minimum
//!   is always the same multiple of the scale, weight = scale × (byte − centre).
//! - The bytes of block and activations lie *crosswise*: lane `i` of vector `j` has numbers
//!   `16 i + 4 j …`, so that four products of bytes land in the lane of their scale.
//!
//! A column's result does not depend on the columns beside it, to the last bit.

use std::path::Path;

use crate::gguf::GgmlType;

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod columns;
#[cfg(matmul)]
mod ggml_ffi;
#[cfg(test)]
mod tests;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tiles;

#[cfg(target_arch = "x86_64")]
use avx512::Avx512 as Cpu;
pub use columns::Block;

/// Weights in a [`Block`], and in a block of weights here.
pub const BLOCK: usize = 256;

/// Rows that are worked on together, see [`Kernel::multiply`].
pub const ROWS: usize = 8;

/// Where results go: a column, the first of its rows, and their numbers, [`ROWS`] or fewer.
pub type Sink<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

/// The kernels of other processors, of which there are none.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cpu {}

#[cfg(not(target_arch = "x86_64"))]
impl Cpu {
    fn detect() -> Option<Self> {
        None
    }

    fn pack(self, _: GgmlType, _: &[f32; BLOCK]) -> Block {
        match self {}
    }

    fn multiply(self, _: GgmlType, _: &[u8], _: &[Block], _: usize, _: &mut Sink<'_>) {
        match self {}
    }
}

/// Lets ggml compute with the kernels; before a model is loaded. `library` is the file that ggml's
/// CPU backend was loaded from, if it is no part of the program. Is it so now? An older library
/// knows nothing of them.
pub fn register(library: Option<&Path>) -> bool {
    #[cfg(matmul)]
    return ggml_ffi::register(library);
    #[cfg(not(matmul))]
    let _ = library;
    #[cfg(not(matmul))]
    return false;
}

/// The types that there are kernels for on this CPU.
pub fn types() -> impl Iterator<Item = GgmlType> {
    let has_kernel = |ty: &GgmlType| Kernel::new(*ty, BLOCK).is_some();
    Kernel::TYPES.into_iter().filter(has_kernel)
}

/// Bytes of 256 weights of a type that has a kernel.
const fn block_bytes(ty: u32) -> usize {
    match GgmlType(ty) {
        GgmlType::Q4_0 => 8 * 18,
        GgmlType::Q8_0 => 8 * 34,
        GgmlType::Q4_K => 144,
        GgmlType::Q5_K => 176,
        GgmlType::Q6_K => 210,
        _ => panic!("this type has no kernel"),
    }
}

/// How to multiply with weights of one type on this CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    ty: GgmlType,
    cpu: Cpu,
}

impl Kernel {
    /// The types there are kernels for.
    pub const TYPES: [GgmlType; 5] = [
        GgmlType::Q4_0,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];

    /// The kernel for rows of `width` weights; none: the type, the width or the CPU has none.
    pub fn new(ty: GgmlType, width: usize) -> Option<Kernel> {
        let known = Self::TYPES.contains(&ty) && width > 0 && width.is_multiple_of(BLOCK);
        let cpu = Cpu::detect().filter(|_| known)?;
        Some(Kernel { ty, cpu })
    }

    /// Is it faster than ggml's own kernel for so many columns? For many columns of some types
    /// ggml has kernels that are better still.
    pub fn pays(self, n: usize) -> bool {
        n <= 32 || matches!(self.ty, GgmlType::Q4_0 | GgmlType::Q8_0)
    }

    /// Bytes of 256 weights.
    pub fn block_bytes(self) -> usize {
        block_bytes(self.ty.0)
    }

    /// Rounds 256 activations to 8 bits.
    pub fn pack(self, numbers: &[f32; BLOCK]) -> Block {
        self.cpu.pack(self.ty, numbers)
    }

    /// Where block `b` of column `c` belongs among the blocks of `n` columns of `blocks` each.
    pub fn place(c: usize, b: usize, n: usize, blocks: usize) -> usize {
        columns::place(c, b, n, blocks)
    }

    /// Rows of weights times `n` columns of activations: `rows` holds whole rows of
    /// `columns.len() / n` blocks, `columns` lie as [`Kernel::place`] says.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn multiply(self, rows: &[u8], columns: &[Block], n: usize, sink: &mut Sink<'_>) {
        assert!(n > 0 && !columns.is_empty() && columns.len().is_multiple_of(n));
        let row_bytes = columns.len() / n * self.block_bytes();
        assert!(rows.len().is_multiple_of(row_bytes));
        self.cpu.multiply(self.ty, rows, columns, n, sink);
    }
}
