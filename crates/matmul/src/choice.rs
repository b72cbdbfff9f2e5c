//! The table that says which kernel multiplies a type of weights with a number of columns.

use super::cpu::Cpu;
use modelve_base::isa::Isa;
use modelve_gguf::GgmlType;

/// Types with scales for 32 weights inside of blocks of 256.
const K: &[GgmlType] = &[GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K];
/// Types with one scale for 32 weights.
const LEGACY: &[GgmlType] = &[
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
];
/// No upper limit.
const ANY: usize = usize::MAX;

/// A row of the table: on a CPU whose widest instruction set is `widest`, weights of `types` are
/// multiplied with `from` to `to` columns by the kernel for `kernel`.
struct Row {
    widest: Isa,
    types: &'static [GgmlType],
    from: usize,
    to: usize,
    kernel: Isa,
}

/// The number of columns from which an AMX kernel is faster than one for vectors, which does not
/// compute in whole tiles of 16 columns.
const AMX_FROM: usize = 9;

/// Numbers of columns that no row covers are left to ggml's kernels. The bounds were measured with
/// `cargo bench --profile dev --bench matmul`: repacking a block of a K type for AVX-512 pays off
/// from 4 columns, and from 33 columns ggml's tiled kernel, too, unpacks a block only once, for
/// more columns than ours.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { widest: Isa::Amx,    types: K,      from: 1, to: 3,   kernel: Isa::Avx2 },
    Row { widest: Isa::Amx,    types: K,      from: 4, to: AMX_FROM - 1, kernel: Isa::Avx512 },
    Row { widest: Isa::Amx,    types: K,      from: AMX_FROM, to: ANY, kernel: Isa::Amx },
    Row { widest: Isa::Amx,    types: LEGACY, from: 1, to: AMX_FROM - 1, kernel: Isa::Avx512 },
    Row { widest: Isa::Amx,    types: LEGACY, from: AMX_FROM, to: ANY, kernel: Isa::Amx },
    Row { widest: Isa::Avx512, types: K,      from: 1, to: 3,   kernel: Isa::Avx2 },
    Row { widest: Isa::Avx512, types: K,      from: 4, to: 32,  kernel: Isa::Avx512 },
    Row { widest: Isa::Avx512, types: LEGACY, from: 1, to: ANY, kernel: Isa::Avx512 },
    Row { widest: Isa::Avx2,   types: K,      from: 1, to: ANY, kernel: Isa::Avx2 },
];

/// The instruction set whose kernel is fastest for weights of type `ty` and `n` columns on this
/// CPU; `None` where ggml's own kernels are faster.
pub(super) fn best(ty: GgmlType, n: usize) -> Option<Cpu> {
    let widest = Cpu::available().next()?.isa();
    let row = TABLE.iter().find(|row| {
        row.widest == widest && row.types.contains(&ty) && (row.from..=row.to).contains(&n)
    })?;
    Cpu::available().find(|cpu| cpu.isa() == row.kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_kernel_and_no_two_rows_overlap() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(row.from >= 1 && row.from <= row.to);
            for other in &TABLE[i + 1..] {
                let same = row.widest == other.widest && row.types == other.types;
                assert!(!same || row.to < other.from || other.to < row.from);
            }
            for cpu in Cpu::available().filter(|cpu| cpu.isa() == row.kernel) {
                assert!(row.types.iter().all(|ty| cpu.types().contains(ty)));
            }
        }
    }
}
