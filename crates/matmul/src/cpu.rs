//! The instruction sets that have kernels, behind one interface.

use super::{BLOCK, Block, Kernel, Line, Rows, Sink, columns};
use modelve_base::isa::Isa;
use modelve_gguf::GgmlType;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::{Amx, Panel, SIDE};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cpu {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(Amx),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Cpu {
    /// The instruction sets of this CPU that `MODELVE_ISA` allows, the widest first.
    pub fn available() -> impl Iterator<Item = Cpu> {
        #[cfg(target_arch = "x86_64")]
        let all = [
            #[cfg(target_os = "linux")]
            Amx::detect().map(Cpu::Amx),
            Avx512::detect().map(Cpu::Avx512),
            Avx2::detect().map(Cpu::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let all: [Option<Cpu>; 0] = [];
        all.into_iter().flatten()
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Cpu::Amx(_) => Isa::Amx,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => Isa::Avx2,
        }
    }

    /// The types that have kernels for this instruction set.
    pub fn types(self) -> &'static [GgmlType] {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Cpu::Amx(_) => &Kernel::TYPES,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => &Kernel::TYPES,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => &Avx2::TYPES,
        }
    }

    /// The number of columns that are packed together.
    pub fn columns_in_unit(self) -> usize {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Cpu::Amx(_) => SIDE,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) | Cpu::Avx2(_) => 1,
        }
    }

    /// Implements [`super::Kernel::unit_lines`].
    pub fn unit_lines(self) -> usize {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Cpu::Amx(_) => size_of::<Panel>() / size_of::<Line>(),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) | Cpu::Avx2(_) => size_of::<Block>() / size_of::<Line>(),
        }
    }

    /// Implements [`super::Kernel::pack_unit`]. `block` returns a column's block, the last of which
    /// may be shorter than the others.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn pack<'a>(
        self,
        ty: GgmlType,
        unit: usize,
        n: usize,
        blocks: usize,
        block: &dyn Fn(usize, usize) -> &'a [f32],
        to: &mut [Line],
    ) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Cpu::Amx(cpu) = self {
            let (first, b) = (unit / blocks * SIDE, unit % blocks);
            let mut columns: [&[f32]; SIDE] = [&[]; SIDE];
            let count = SIDE.min(n - first);
            for (c, column) in columns[..count].iter_mut().enumerate() {
                *column = block(first + c, b);
            }
            let panel = cpu.pack(ty, &columns[..count]);
            bytemuck::cast_slice_mut(to).copy_from_slice(&[panel]);
            return;
        }
        let (c, b) = columns::block_at(unit, n, blocks);
        let mut padded = [0.0; BLOCK];
        let numbers = block(c, b);
        let numbers = numbers.try_into().unwrap_or_else(|_| {
            padded[..numbers.len()].copy_from_slice(numbers);
            &padded
        });
        let packed: Block = match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Cpu::Amx(_) => return,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(cpu) => cpu.pack(ty, numbers),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(cpu) => cpu.pack(numbers),
        };
        bytemuck::cast_slice_mut(to).copy_from_slice(&[packed]);
    }

    /// Implements [`super::Kernel::multiply`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn multiply(self, ty: GgmlType, rows: Rows<'_>, x: &[Line], n: usize, sink: &mut Sink<'_>) {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Cpu::Amx(cpu) => cpu.multiply(ty, rows, bytemuck::cast_slice(x), n, sink),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(cpu) => cpu.multiply(ty, rows, bytemuck::cast_slice(x), n, sink),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(cpu) => cpu.multiply(ty, rows, bytemuck::cast_slice(x), n, sink),
        }
    }
}
