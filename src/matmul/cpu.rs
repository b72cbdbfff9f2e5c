//! The instruction sets there are kernels for.

use super::{BLOCK, Block, Sink};
use crate::gguf::GgmlType;

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
    /// Those of this CPU that `MODELVE_ISA` lets be used, the fastest first.
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

    /// As `MODELVE_ISA` calls it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => "avx2",
        }
    }

    /// The types there are kernels for.
    pub fn types(self) -> &'static [GgmlType] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => &Avx512::TYPES,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => &Avx2::TYPES,
        }
    }

    /// See [`super::Kernel::pays`].
    pub fn pays(self, ty: GgmlType, n: usize) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(_) => n <= 32 || matches!(ty, GgmlType::Q4_0 | GgmlType::Q8_0),
            #[cfg(target_arch = "x86_64")]
            // A column alone waits for memory, whoever computes.
            Cpu::Avx2(_) => n > 1,
        }
    }

    /// See [`super::Kernel::pack`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn pack(self, ty: GgmlType, numbers: &[f32; BLOCK]) -> Block {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(cpu) => cpu.pack(ty, numbers),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(cpu) => cpu.pack(numbers),
        }
    }

    /// See [`super::Kernel::multiply`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    pub fn multiply(self, ty: GgmlType, rows: &[u8], x: &[Block], n: usize, sink: &mut Sink<'_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512(cpu) => cpu.multiply(ty, rows, x, n, sink),
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(cpu) => cpu.multiply(ty, rows, x, n, sink),
        }
    }
}
