//! Multiplication of tiles, by inline assembly: the intrinsics are not stable, and the compiler never
//! allocates the tile registers.

#![allow(unsafe_code)]

use super::unpack::{GroupWeights, KWeights};
use super::{Amx, Floats, Panel, Sums, Weights};
use crate::formats::{Q4_K, Q5_K};
use crate::x86::at;
use std::arch::asm;

/// Configures the tile registers: 0 to 3 are sums, 4 and 5 weights, 6 and 7 activations. They all
/// have 16 rows of 64 bytes, but for weights with `row_bytes`, and a fourth as many rows of
/// activations.
///
/// # Safety
/// The CPU has AMX.
pub(super) unsafe fn configure(row_bytes: u8) {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut tiles = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    for i in 0..8 {
        let weights = i == 4 || i == 5;
        let activations = i >= 6;
        tiles.row_bytes[i] = if weights { row_bytes.into() } else { 64 };
        tiles.rows[i] = if activations { row_bytes / 4 } else { 16 };
    }
    // SAFETY: the configuration is valid: 16 rows of 64 bytes at most.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const tiles, options(nostack, readonly)) };
}

impl Weights for KWeights {
    const STEPS: usize = 1;
    const ROW_BYTES: u8 = 64;

    #[inline(always)]
    fn unpack<const T: u32>(&mut self, s: Amx, r: usize, block: &[u8]) {
        match T {
            Q4_K => s.q4_k(at(block, 0), r, self),
            Q5_K => s.q5_k(at(block, 0), r, self),
            _ => s.q6_k(at(block, 0), r, self),
        }
    }

    #[inline(always)]
    unsafe fn products<const P: usize>(
        &self,
        _: usize,
        quarter: usize,
        x: [&Panel; P],
        _: &mut Sums,
    ) {
        let high = &raw const self.high[quarter];
        let low = &raw const self.low[quarter];
        let first = &raw const x[0].bytes[16 * quarter];
        let last = &raw const x[P - 1].bytes[16 * quarter];
        // SAFETY: at all four addresses there is a tile of 16 rows of 64 bytes.
        unsafe {
            if quarter == 0 {
                asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem));
                if P == 2 {
                    asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
                }
            }
            match P {
                1 => asm!(
                    "tileloadd tmm6, [{x} + {row}]",
                    "tileloadd tmm4, [{high} + {row}]",
                    "tdpbssd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{low} + {row}]",
                    "tdpbssd tmm1, tmm5, tmm6",
                    high = in(reg) high, low = in(reg) low, x = in(reg) first,
                    row = in(reg) 64usize,
                    options(nostack, readonly),
                ),
                _ => asm!(
                    "tileloadd tmm6, [{x} + {row}]",
                    "tileloadd tmm4, [{high} + {row}]",
                    "tdpbssd tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{y} + {row}]",
                    "tdpbssd tmm2, tmm4, tmm7",
                    "tileloadd tmm5, [{low} + {row}]",
                    "tdpbssd tmm1, tmm5, tmm6",
                    "tdpbssd tmm3, tmm5, tmm7",
                    high = in(reg) high, low = in(reg) low, x = in(reg) first, y = in(reg) last,
                    row = in(reg) 64usize,
                    options(nostack, readonly),
                ),
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<const P: usize>(sums: &mut Sums) {
        // SAFETY: there is room for eight tiles.
        unsafe {
            asm!(
                "tilestored [{s} + {row}], tmm0",
                "tilestored [{s} + {row} + 1024], tmm1",
                s = in(reg) &raw mut *sums, row = in(reg) 64usize,
                options(nostack),
            );
            if P == 2 {
                asm!(
                    "tilestored [{s} + {row} + 2048], tmm2",
                    "tilestored [{s} + {row} + 3072], tmm3",
                    s = in(reg) &raw mut *sums, row = in(reg) 64usize,
                    options(nostack),
                );
            }
        }
    }

    #[inline(always)]
    fn accumulate<const T: u32, const P: usize>(
        &self,
        s: Amx,
        _: usize,
        quarter: usize,
        x: [&Panel; P],
        sums: &Sums,
        results: &mut [Floats; P],
    ) {
        s.accumulate_block::<T, P>(self, quarter, x, sums, results);
    }
}

impl Weights for GroupWeights {
    const STEPS: usize = 2;
    const ROW_BYTES: u8 = 32;

    #[inline(always)]
    fn unpack<const T: u32>(&mut self, s: Amx, r: usize, block: &[u8]) {
        s.unpack_groups::<T>(block, r, self);
    }

    #[inline(always)]
    unsafe fn products<const P: usize>(
        &self,
        step: usize,
        quarter: usize,
        x: [&Panel; P],
        sums: &mut Sums,
    ) {
        let group = 4 * step + quarter;
        let weights = &raw const self.bytes[group];
        let first = &raw const x[0].bytes[8 * group];
        let last = &raw const x[P - 1].bytes[8 * group];
        // The registers of this group's sums are those of the group before the last, whose sums have
        // been stored; those of the last group are ready now.
        macro_rules! multiply {
            ($first:literal, $last:literal) => {
                // SAFETY: there are a tile of 16 rows of 32 bytes of weights and tiles of 8 rows of
                // 64 bytes of activations.
                unsafe {
                    asm!(
                        concat!("tilezero ", $first),
                        "tileloadd tmm4, [{w} + {half}]",
                        "tileloadd tmm6, [{x} + {row}]",
                        concat!("tdpbssd ", $first, ", tmm4, tmm6"),
                        w = in(reg) weights, x = in(reg) first,
                        row = in(reg) 64usize, half = in(reg) 32usize,
                        options(nostack, readonly),
                    );
                    if P == 2 {
                        asm!(
                            concat!("tilezero ", $last),
                            "tileloadd tmm7, [{x} + {row}]",
                            concat!("tdpbssd ", $last, ", tmm4, tmm7"),
                            x = in(reg) last, row = in(reg) 64usize,
                            options(nostack, readonly),
                        );
                    }
                }
            };
        }
        if quarter.is_multiple_of(2) {
            multiply!("tmm0", "tmm1");
        } else {
            multiply!("tmm2", "tmm3");
        }
        if quarter > 0 {
            // SAFETY: the caller's.
            unsafe { store_group::<P>(quarter - 1, sums) };
        }
    }

    #[inline(always)]
    unsafe fn finish<const P: usize>(sums: &mut Sums) {
        // SAFETY: the caller's.
        unsafe { store_group::<P>(3, sums) };
    }

    #[inline(always)]
    fn accumulate<const T: u32, const P: usize>(
        &self,
        s: Amx,
        step: usize,
        quarter: usize,
        x: [&Panel; P],
        sums: &Sums,
        results: &mut [Floats; P],
    ) {
        s.accumulate_groups::<T, P>(self, step, quarter, x, sums, results);
    }
}

/// Stores the sums of one of the four groups of a step.
///
/// # Safety
/// The CPU has AMX, and its tiles are configured.
#[inline(always)]
unsafe fn store_group<const P: usize>(group: usize, sums: &mut Sums) {
    let first = &raw mut sums.0[group];
    let last = &raw mut sums.0[group + 4];
    macro_rules! store {
        ($first:literal, $last:literal) => {
            // SAFETY: both addresses have room for a tile.
            unsafe {
                asm!(
                    concat!("tilestored [{s} + {row}], ", $first),
                    s = in(reg) first, row = in(reg) 64usize, options(nostack),
                );
                if P == 2 {
                    asm!(
                        concat!("tilestored [{s} + {row}], ", $last),
                        s = in(reg) last, row = in(reg) 64usize, options(nostack),
                    );
                }
            }
        };
    }
    if group.is_multiple_of(2) {
        store!("tmm0", "tmm1");
    } else {
        store!("tmm2", "tmm3");
    }
}

/// Releases the tile registers. Tiles that are not in use cost nothing when the system switches
/// threads.
///
/// # Safety
/// The CPU has AMX.
pub(super) unsafe fn release() {
    // SAFETY: the caller's.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}
