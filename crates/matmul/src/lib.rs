//! CPU kernels that multiply quantized matrices, in the layout of the file, with columns of
//! activations, and one for the attention of many queries.
//!
//! A forward pass over several sequences reads every weight once but multiplies it once per
//! sequence. ggml unpacks a quantized row again for every column, so from two columns on,
//! unpacking, not memory bandwidth, limits the pass. These kernels unpack a block of weights once
//! and multiply it with all columns. With AMX they multiply many columns, those of a prompt, several
//! times as fast as instructions for vectors can.
//!
//! - Activations are packed to blocks of 256 numbers in 8 bits, rounded as ggml rounds them: one
//!   scale for 256 where the weights come in blocks of 256, one for 32 where they come in blocks of
//!   32. Where rows are not a multiple of 256 wide, the last block is filled up with zeros.
//! - A block of weights of any type is unpacked to bytes, scales and minima: weight = scale × byte
//!   − minimum. Where the minimum is a constant multiple of the scale, weight = scale × (byte −
//!   zero-point). The in-memory layout depends on the instruction set.
//! - A table in `choice` says which kernel multiplies a type with a number of columns.
//!
//! A column's result does not depend on the columns beside it. With the same instruction set it is
//! identical to the bit; another number of columns may select another instruction set, which adds
//! in another order.
//!
//! ```
//! use modelve_gguf::GgmlType;
//! use modelve_matmul::{BLOCK, Kernel};
//!
//! // Eight rows of 256 weights that are all zero, times two columns of ones.
//! let Some(kernel) = Kernel::all(GgmlType::Q8_0, BLOCK).next() else {
//!     return; // This CPU has no kernels.
//! };
//! let rows = vec![0; 8 * kernel.row_bytes()];
//! let columns = kernel.pack(&[[1.0; BLOCK]; 2].concat());
//! kernel.multiply(&rows, &columns, 2, &mut |_column, _first_row, values| {
//!     assert!(values.iter().all(|&value| value == 0.0));
//! });
//! ```

use std::path::Path;

use modelve_gguf::GgmlType;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
#[cfg_attr(not(matmul), allow(dead_code))]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod choice;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod columns;
mod cpu;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod formats;
#[cfg(matmul)]
mod ggml_ffi;
// The tests call ggml's own kernels, which a portable build has in separate libraries.
#[cfg(all(test, not(feature = "portable")))]
mod tests;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

use columns::Block;
pub use columns::Line;
use cpu::Cpu;

/// The number of activations in what this crate calls a block of activations, and of weights in a
/// block of weights. For types whose own blocks have 32 weights, that is eight of them.
pub const BLOCK: usize = 256;

/// The number of rows in a tile of the kernels for vectors.
const ROWS: usize = 8;

/// Receives results: a column, the first row, and the values of some rows from there. The rows of a
/// column come in their order.
pub type Sink<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

/// Registers these kernels with ggml. Call it before a model is loaded. `library` is the file
/// that ggml's CPU backend was loaded from, if the backend is not part of the program. Returns
/// whether registration succeeded; libraries built without the hook return false.
pub fn register(library: Option<&Path>) -> bool {
    #[cfg(matmul)]
    return ggml_ffi::register(library);
    #[cfg(not(matmul))]
    let _ = library;
    #[cfg(not(matmul))]
    return false;
}

/// The types that have kernels on this CPU.
pub fn types() -> impl Iterator<Item = GgmlType> {
    let has_kernel = |ty: &GgmlType| Kernel::all(*ty, BLOCK).next().is_some();
    Kernel::TYPES.into_iter().filter(has_kernel)
}

/// The size in bytes of 256 weights of a type that has a kernel.
const fn block_bytes(ty: u32) -> usize {
    match GgmlType(ty) {
        GgmlType::Q4_0 => 8 * 18,
        GgmlType::Q4_1 => 8 * 20,
        GgmlType::Q5_0 => 8 * 22,
        GgmlType::Q5_1 => 8 * 24,
        GgmlType::Q8_0 => 8 * 34,
        GgmlType::Q4_K => 144,
        GgmlType::Q5_K => 176,
        GgmlType::Q6_K => 210,
        _ => panic!("this type has no kernel"),
    }
}

/// Rows of weights in the layout of the file.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    /// The size in bytes of a row.
    row_bytes: usize,
}

/// Returns whether rows of `width` weights consist of whole blocks of the file: of 256 weights for
/// the K types, of 32 for the others.
fn fits(ty: GgmlType, width: usize) -> bool {
    width > 0 && width.is_multiple_of(columns::group(ty))
}

/// A kernel for rows of weights of one type and width, for one instruction set of this CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    ty: GgmlType,
    /// The number of weights in a row.
    width: usize,
    cpu: Cpu,
}

impl Kernel {
    /// The types that have kernels on some CPU.
    pub const TYPES: [GgmlType; 8] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];

    /// The fastest kernel for rows of `width` weights and `n` columns, by the table in `choice`.
    /// `None` where the CPU has none for this type or width, or ggml's own is faster.
    pub fn best(ty: GgmlType, width: usize, n: usize) -> Option<Kernel> {
        let cpu = choice::best(ty, n).filter(|_| fits(ty, width))?;
        Some(Kernel { ty, width, cpu })
    }

    /// All kernels for this type and width, one for each instruction set of this CPU, the widest
    /// first.
    pub fn all(ty: GgmlType, width: usize) -> impl Iterator<Item = Kernel> {
        Cpu::available()
            .filter(move |cpu| fits(ty, width) && cpu.types().contains(&ty))
            .map(move |cpu| Kernel { ty, width, cpu })
    }

    /// The name of the instruction set, as `MODELVE_ISA` takes it.
    pub fn isa(self) -> &'static str {
        self.cpu.isa().name()
    }

    /// The size in bytes of a row of weights.
    pub fn row_bytes(self) -> usize {
        // The file's own blocks have `group` weights, and a row consists of whole ones.
        let group = columns::group(self.ty);
        self.width / group * (block_bytes(self.ty.0) / (BLOCK / group))
    }

    /// The number of blocks of activations in a column.
    pub fn blocks(self) -> usize {
        columns::blocks(self.width)
    }

    /// The number of units that `n` columns are packed in, which different threads may pack.
    pub fn units(self, n: usize) -> usize {
        n.div_ceil(self.cpu.columns_in_unit()) * self.blocks()
    }

    /// The size of a unit of packed activations.
    pub fn unit_lines(self) -> usize {
        self.cpu.unit_lines()
    }

    /// Quantizes unit `unit` of `n` columns of activations to 8 bits. `column` returns a column's
    /// activations, as many as a row has weights.
    ///
    /// # Panics
    /// If there are fewer units, `to` is not one long, or a column has another length.
    pub fn pack_unit<'a>(
        self,
        unit: usize,
        n: usize,
        column: &dyn Fn(usize) -> &'a [f32],
        to: &mut [Line],
    ) {
        let block = |c: usize, b: usize| {
            let column = column(c);
            assert_eq!(column.len(), self.width);
            &column[b * BLOCK..self.width.min((b + 1) * BLOCK)]
        };
        assert!(unit < self.units(n));
        self.cpu.pack(self.ty, unit, n, self.blocks(), &block, to);
    }

    /// Quantizes columns of activations, one after the other, to 8 bits.
    pub fn pack(self, activations: &[f32]) -> Vec<Line> {
        let n = activations.len() / self.width;
        let mut lines = vec![bytemuck::Zeroable::zeroed(); self.units(n) * self.unit_lines()];
        let column = |c: usize| &activations[c * self.width..(c + 1) * self.width];
        for (unit, to) in lines.chunks_exact_mut(self.unit_lines()).enumerate() {
            self.pack_unit(unit, n, &column, to);
        }
        lines
    }

    /// Multiplies rows of weights with `n` columns of activations and hands the products to `sink`.
    /// `rows` holds whole rows; `columns` holds all units of the columns in their order.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn multiply(self, rows: &[u8], columns: &[Line], n: usize, sink: &mut Sink<'_>) {
        assert!(n > 0 && columns.len() == self.units(n) * self.unit_lines());
        let row_bytes = self.row_bytes();
        assert!(rows.len().is_multiple_of(row_bytes));
        let weights = Rows {
            bytes: rows,
            row_bytes,
        };
        self.cpu.multiply(self.ty, weights, columns, n, sink);
    }
}
