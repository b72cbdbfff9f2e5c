//! What AVX-512 computes beside the tiles: activations are quantized, sums scaled, results transposed.

#![allow(unsafe_code)]

use super::unpack::{GroupWeights, KWeights};
use super::{Amx, Floats, Panel, SIDE, Sums};
use crate::BLOCK;
use crate::columns::group;
use crate::formats::has_zero_point;
use crate::x86::{by_intrinsics, transpose};
use bytemuck::cast;
use modelve_gguf::GgmlType;
use std::arch::asm;
use std::arch::x86_64::*;

impl Amx {
    by_intrinsics! {
        /// Quantizes 256 activations to column `c` of a panel.
        pub(super) fn pack_column(self, ty: GgmlType, numbers: &[f32; BLOCK], c: usize, panel: &mut Panel) {
            let (vectors, _) = numbers.as_chunks::<16>();
            let mut bytes = [0i8; BLOCK];
            let (parts, _) = bytes.as_chunks_mut::<16>();
            let in_group = group(ty) / 16;
            for (g, (vectors, parts)) in vectors.chunks(in_group).zip(parts.chunks_mut(in_group)).enumerate() {
                let mut all = _mm512_setzero_ps();
                for numbers in vectors {
                    all = _mm512_max_ps(all, _mm512_abs_ps(self.floats(numbers)));
                }
                let largest = _mm512_reduce_max_ps(all);
                // Where all numbers are zero, the inverse is zero, too.
                let inverse = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
                for (numbers, part) in vectors.iter().zip(parts) {
                    let scaled = _mm512_mul_ps(self.floats(numbers), inverse);
                    let rounded = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
                    _mm_storeu_si128(part.as_mut_ptr().cast(), rounded);
                }
                panel.scales[g][c] = largest / 127.0;
            }
            let (groups, _) = bytes.as_chunks::<32>();
            let mut sums = [0i32; 8];
            for (sum, group) in sums.iter_mut().zip(groups) {
                for byte in group {
                    *sum += i32::from(*byte);
                }
            }
            if group(ty) == BLOCK {
                for j in 0..4 {
                    panel.sums[j][c] = sums[2 * j] & 0xffff | sums[2 * j + 1] << 16;
                }
            } else {
                for (g, sum) in sums.into_iter().enumerate() {
                    panel.sums[g][c] = cast(sum as f32 * panel.scales[g][c]);
                }
            }
            let (words, _) = bytes.as_chunks::<4>();
            for (row, word) in panel.bytes.iter_mut().zip(words) {
                row[c] = *word;
            }
        }

        fn floats(self, numbers: &[f32; 16]) -> __m512 {
            _mm512_loadu_ps(numbers.as_ptr())
        }

        fn integers(self, numbers: &[i32; 16]) -> __m512i {
            _mm512_loadu_si512(numbers.as_ptr().cast())
        }

        /// Adds scale × (64 × high + low) − minimum scale × minima × sums of activations, all times
        /// the scale of the activations.
        pub(super) fn accumulate_block<const T: u32, const P: usize>(
            self,
            weights: &KWeights,
            quarter: usize,
            x: [&Panel; P],
            sums: &Sums,
            results: &mut [Floats; P]
        ) {
            let mut scales = [_mm512_setzero_ps(); P];
            let mut activations = [[_mm512_setzero_si512(); 4]; P];
            for p in 0..P {
                scales[p] = self.floats(&x[p].scales[0]);
                for (to, sums) in activations[p].iter_mut().zip(&x[p].sums) {
                    *to = self.integers(sums);
                }
            }
            for r in 4 * quarter..4 * quarter + 4 {
                let scale = _mm512_set1_ps(weights.scales[r]);
                for p in 0..P {
                    let high = self.integers(&sums.0[2 * p][r]);
                    let low = self.integers(&sums.0[2 * p + 1][r]);
                    let sum = _mm512_add_epi32(_mm512_slli_epi32::<6>(high), low);
                    let mut sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                    if !has_zero_point(T) {
                        let minima = self.dot(&weights.minima[r], &activations[p]);
                        let min_scale = _mm512_set1_ps(weights.min_scales[r]);
                        sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima), min_scale, sum);
                    }
                    let result = &mut results[p].0[r];
                    let sum = _mm512_fmadd_ps(sum, scales[p], self.floats(result));
                    _mm512_storeu_ps(result.as_mut_ptr(), sum);
                }
            }
        }

        /// The products of pairs of 16-bit integers, added up. The compiler would make two instructions
        /// of each.
        fn dot(self, pairs: &[i32; 4], x: &[__m512i; 4]) -> __m512i {
            let mut sum = _mm512_setzero_si512();
            asm!(
                "vpdpwssd {s}, {a}, dword ptr [{m}]{{1to16}}",
                "vpdpwssd {s}, {b}, dword ptr [{m} + 4]{{1to16}}",
                "vpdpwssd {s}, {c}, dword ptr [{m} + 8]{{1to16}}",
                "vpdpwssd {s}, {d}, dword ptr [{m} + 12]{{1to16}}",
                s = inout(zmm_reg) sum,
                a = in(zmm_reg) x[0], b = in(zmm_reg) x[1], c = in(zmm_reg) x[2], d = in(zmm_reg) x[3],
                m = in(reg) pairs.as_ptr(),
                options(nostack, readonly, pure, preserves_flags),
            );
            sum
        }

        /// Adds the sums of four groups, each times the scales of weights and activations, and the
        /// offsets times the sums of activations.
        pub(super) fn accumulate_groups<const T: u32, const P: usize>(
            self,
            weights: &GroupWeights,
            step: usize,
            quarter: usize,
            x: [&Panel; P],
            sums: &Sums,
            results: &mut [Floats; P]
        ) {
            for r in 4 * quarter..4 * quarter + 4 {
                for p in 0..P {
                    let result = &mut results[p].0[r];
                    let mut total = self.floats(result);
                    for i in 0..4 {
                        let g = 4 * step + i;
                        let sum = _mm512_cvtepi32_ps(self.integers(&sums.0[4 * p + i][r]));
                        let scale = _mm512_set1_ps(weights.scales[g][r]);
                        let scale = _mm512_mul_ps(scale, self.floats(&x[p].scales[g]));
                        total = _mm512_fmadd_ps(sum, scale, total);
                        if !has_zero_point(T) {
                            let offset = _mm512_set1_ps(weights.offsets[g][r]);
                            let sum = _mm512_castsi512_ps(self.integers(&x[p].sums[g]));
                            total = _mm512_fmadd_ps(offset, sum, total);
                        }
                    }
                    _mm512_storeu_ps(result.as_mut_ptr(), total);
                }
            }
        }

        pub(super) fn transpose(self, tile: &Floats) -> Floats {
            let mut rows = [_mm512_setzero_ps(); SIDE];
            for (row, numbers) in rows.iter_mut().zip(&tile.0) {
                *row = self.floats(numbers);
            }
            cast(transpose(rows))
        }
    }
}
