//! The instruction sets there are kernels for.

use super::{BLOCK, Block, Kernel, Sink};
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

    /// The one that is fastest with `n` columns; none: ggml's own kernels are.
    pub fn best(ty: GgmlType, n: usize) -> Option<Cpu> {
        let mut known = Self::available().filter(|cpu| cpu.types().contains(&ty));
        let (first, next) = (known.next()?, known.next());
        match next {
            // Rearranging a block for AVX-512 is worth it from so many columns on.
            Some(avx2) if n < 4 => Some(avx2),
            // ggml does so, too, and for more columns at once.
            Some(_) if n > 32 => None,
            _ => Some(first),
        }
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
            Cpu::Avx512(_) => &Kernel::TYPES,
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2(_) => &Avx2::TYPES,
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
