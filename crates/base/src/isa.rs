//! The instruction sets that encoders and kernels are compiled for, and the choice among them.

use std::fmt;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::{fs::File, io::Read, sync::OnceLock};

/// The environment variable that bounds the instruction set.
const VARIABLE: &str = "MODELVE_ISA";

/// The error that `MODELVE_ISA` names no instruction set of this CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownIsa {
    name: String,
}

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = Isa::available().map(Isa::name).collect();
        write!(
            f,
            "{VARIABLE}={} names no instruction set that this CPU has; there are {}",
            self.name,
            known.join(", ")
        )
    }
}

impl std::error::Error for UnknownIsa {}

/// An instruction set, with its number of 32-bit lanes per vector. Each one includes those below it
/// of the same architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// x86-64 with AMX-INT8, which multiplies tiles of 8-bit numbers, beside AVX-512: 16 lanes.
    Amx,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 lanes.
    Avx512,
    /// x86-64 with AVX2 and F16C: 8 lanes.
    Avx2,
    /// aarch64: 4 lanes.
    Neon,
    /// Portable code for any CPU, which the compiler may vectorize.
    Plain,
}

impl Isa {
    /// All instruction sets, the fastest first.
    pub const ALL: [Isa; 5] = [Isa::Amx, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Plain];

    /// Returns whether this CPU has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512.is_available() && linux_has_amx(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Isa::Plain => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The instruction sets that this CPU has, the fastest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The best instruction set that modelve's own code may use: the one that `MODELVE_ISA` names,
    /// else the fastest of this CPU. A value that [`Isa::requested`] refuses is ignored.
    ///
    /// The variable has one meaning for all of modelve's own code: nothing beyond the named
    /// instruction set is used. Encoders are compiled for all sets of vectors, matrix products for
    /// `amx`, `avx512` and `avx2`; where modelve has no code for a set, ggml's runs instead, so
    /// with `plain` ggml multiplies the matrices.
    pub fn detect() -> Isa {
        let requested = Self::requested().ok().flatten();
        requested
            .or_else(|| Self::available().next())
            .unwrap_or(Isa::Plain)
    }

    /// The instruction set that `MODELVE_ISA` names (`amx`, `avx512`, `avx2`, `neon`, `plain`); `None`
    /// where it is unset or empty.
    ///
    /// # Errors
    /// The variable has another value, or names an instruction set that this CPU lacks.
    pub fn requested() -> Result<Option<Isa>, UnknownIsa> {
        match std::env::var_os(VARIABLE) {
            Some(name) if !name.is_empty() => {
                let name = name.to_string_lossy();
                let found = Self::available().find(|isa| isa.name() == name);
                found.map(Some).ok_or_else(|| UnknownIsa {
                    name: name.into_owned(),
                })
            }
            _ => Ok(None),
        }
    }

    /// The instructions for vectors that belong to this instruction set: AVX-512 for AMX, itself for
    /// the others.
    #[must_use]
    pub fn vectors(self) -> Isa {
        match self {
            Isa::Amx => Isa::Avx512,
            other => other,
        }
    }

    /// The name as `MODELVE_ISA` takes it: `amx`, `avx512`, `avx2`, `neon` or `plain`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Plain => "plain",
        }
    }
}

/// Returns whether the CPU has AMX-INT8 and the kernel switches its registers, which is when Linux
/// lists it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn linux_has_amx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        // The flags of the first CPU are in the first kilobytes.
        let mut text = Vec::new();
        let read =
            File::open("/proc/cpuinfo").and_then(|file| file.take(1 << 14).read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let mut flags = text.lines().filter(|line| line.starts_with("flags"));
        let flags = flags.next().unwrap_or_default();
        read.is_ok() && flags.split_whitespace().any(|flag| flag == "amx_int8")
    })
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
