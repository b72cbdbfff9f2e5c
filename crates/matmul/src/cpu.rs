//! The instruction sets that have kernels, behind one interface.

use super::{BLOCK, Block, Kernel, Rows, Sink};
use modelve_base::isa::Isa;
use modelve_gguf::GgmlType;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cpu {
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
            Avx512::detect().map(Cpu::Avx512),
            Avx2::detect().map(Cpu::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [None];
        all.into_iter().flatten()
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => Isa::Avx2,
        }
    }

    /// The types that have kernels for this instruction set.
    pub fn types(self) -> &'static [GgmlType] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => &Kernel::TYPES,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => &Avx2::TYPES,
        }
    }

    /// Implements [`super::Kernel::pack`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn pack(self, ty: GgmlType, numbers: &[f32; BLOCK]) -> Block {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(cpu) => cpu.pack(ty, numbers),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(cpu) => cpu.pack(numbers),
        }
    }

    /// Implements [`super::Kernel::multiply`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn multiply(
        self,
        ty: GgmlType,
        rows: Rows<'_>,
        x: &[Block],
        n: usize,
        sink: &mut Sink<'_>,
    ) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(cpu) => cpu.multiply(ty, rows, x, n, sink),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(cpu) => cpu.multiply(ty, rows, x, n, sink),
        }
    }
}
