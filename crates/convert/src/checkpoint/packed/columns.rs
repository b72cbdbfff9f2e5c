//! GPTQ and AWQ: the transposed matrix with several weights in a 32-bit word, and a scale and a
//! zero-point for each output and group of inputs.
//!
//! A weight is `scale × (code - zero)`, with an exact difference and one multiplication in 32 bits.
//! A row of the GGUF is a column here, so a piece of rows is a rectangle as high as the matrix.
//!
//! | | codes | zeros | scales |
//! |---|---|---|---|
//! | GPTQ | `qweight` [inputs / n, outputs], the lowest bits first | `qzeros` [groups, outputs / n] | [groups, outputs] |
//! | AWQ (gemm) | `qweight` [inputs, outputs / 8], in an order of its own | `qzeros` [groups, outputs / 8] in that order | [groups, outputs] |
//!
//! The first version of GPTQ's format stores the zero-point minus one. The corrected zero-point can
//! be 16, as in llama.cpp's converter and the kernels of exllama.

use std::ops::Range;

use safetensors::Dtype;

use super::{Packed, Parts, SCALES, check_scales};
use crate::checkpoint::{Error, Shards, SourceTensor};

/// The layout of the words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bits of a weight: 2, 4 or 8.
    pub(super) bits: u32,
    /// Number of inputs that share scale and zero-point, unless an index assigns them to groups;
    /// `None` means all.
    pub(super) group_size: Option<u64>,
    /// What is added to a stored zero-point.
    pub(super) zero_offset: u32,
    /// Whether the layout is AWQ's instead of GPTQ's.
    pub(super) is_awq: bool,
}

/// The first bit of output `i` of eight in a word of AWQ.
const AWQ_SHIFTS: [u32; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

impl Layout {
    /// Number of weights in a word.
    fn per_word(&self) -> u64 {
        u64::from(32 / self.bits)
    }

    /// Returns the first bit of the `i`th output in its word.
    fn shift(&self, i: u64) -> u32 {
        match self.is_awq {
            true => AWQ_SHIFTS[i as usize],
            false => i as u32 * self.bits,
        }
    }
}

/// A matrix in one of these formats.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    layout: Layout,
    codes: SourceTensor,
    zeros: SourceTensor,
    scales: SourceTensor,
    groups: Groups,
    inputs: u64,
}

/// The assignment of inputs to groups.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Groups {
    /// Groups of this many consecutive inputs.
    Size(u64),
    /// A tensor with the group of each input, as after reordering by activation (`desc_act`).
    Index(SourceTensor),
}

impl Groups {
    /// Makes groups from a tensor with one entry for each of `inputs`.
    pub(super) fn index(
        parts: &Parts<'_>,
        index: SourceTensor,
        inputs: u64,
    ) -> Result<Self, Error> {
        parts.expect(&index, &[Dtype::I32, Dtype::I64], &[inputs])?;
        Ok(Self::Index(index))
    }

    /// Returns the tensor that has to be read, if there is one.
    pub(super) fn part(&self) -> Option<&SourceTensor> {
        match self {
            Self::Size(_) => None,
            Self::Index(index) => Some(index),
        }
    }

    /// Reads the group of each of `inputs`; all are below `count`.
    pub(super) fn read(
        &self,
        shards: &Shards,
        inputs: u64,
        count: u64,
    ) -> Result<Vec<usize>, Error> {
        let index = match self {
            Self::Size(size) => return Ok((0..inputs).map(|i| (i / size) as usize).collect()),
            Self::Index(index) => index,
        };
        let groups = shards.read_integers(index)?;
        match groups.iter().position(|g| !(0..count as i64).contains(g)) {
            None => Ok(groups.into_iter().map(|g| g as usize).collect()),
            Some(at) => {
                let group = groups[at];
                let problem = format!("sends input {at} to group {group}; there are {count}");
                Err(shards.error(index, problem))
            }
        }
    }
}

/// Replaces the parts of a matrix, if `name` is that of its codes.
pub(super) fn find(parts: &mut Parts<'_>, name: &str, layout: &Layout) -> Result<(), Error> {
    let Some(module) = name.strip_suffix(".qweight") else {
        return Ok(());
    };
    let Some(codes) = parts.take(name) else {
        return Ok(());
    };
    let zeros = parts.need(format!("{module}.qzeros"), &codes)?;
    let scales = parts.need(format!("{module}.scales"), &codes)?;
    let index = parts.take(&format!("{module}.g_idx"));
    let n = layout.per_word();

    let [high, wide] = parts.matrix(&codes)?;
    parts.expect(&codes, &[Dtype::I32], &[high, wide])?;
    let too_large = || parts.error(&codes, "has more values than 64 bits can count");
    let (inputs, outputs) = match layout.is_awq {
        true => (high, wide.checked_mul(n).ok_or_else(too_large)?),
        false => (high.checked_mul(n).ok_or_else(too_large)?, wide),
    };
    let [count, _] = parts.matrix(&scales)?;
    parts.expect(&scales, SCALES, &[count, outputs])?;
    parts.expect(&zeros, &[Dtype::I32], &[count, outputs.div_ceil(n)])?;
    let groups = match index {
        Some(index) => Groups::index(parts, index, inputs)?,
        None => {
            let size = layout.group_size.unwrap_or(inputs);
            let needed = inputs.div_ceil(size);
            if count != needed {
                let problem = format!(
                    "has {count} group(s) where {inputs} inputs in groups of {size} need {needed}"
                );
                return Err(parts.error(&scales, problem));
            }
            Groups::Size(size)
        }
    };
    let columns = Columns {
        layout: layout.clone(),
        codes,
        zeros,
        scales,
        groups,
        inputs,
    };
    let shape = [outputs, inputs];
    parts.put(format!("{module}.weight"), shape, Packed::Columns(columns))
}

impl Columns {
    pub(super) fn parts(&self) -> Vec<&SourceTensor> {
        let mut parts = vec![&self.codes, &self.zeros, &self.scales];
        parts.extend(self.groups.part());
        parts
    }

    pub(super) fn form(&self) -> String {
        let name = if self.layout.is_awq { "AWQ" } else { "GPTQ" };
        format!("{name}-{}", self.layout.bits)
    }

    pub(super) fn read(&self, shards: &Shards, rows: Range<u64>) -> Result<Vec<f32>, Error> {
        let n = self.layout.per_word();
        let mask = u32::MAX >> (32 - self.layout.bits);
        let count = self.scales.shape[0];
        let groups = self.groups.read(shards, self.inputs, count)?;
        let words = rows.start / n..rows.end.div_ceil(n);

        let scales = shards.read_numbers(&self.scales, 0..count, rows.clone())?;
        let width = (rows.end - rows.start) as usize;
        check_scales(shards, &self.scales, &scales, (0, rows.start), width)?;
        let zeros = shards.read_words(&self.zeros, 0..count, words.clone())?;
        let codes = match self.layout.is_awq {
            true => shards.read_words(&self.codes, 0..self.inputs, words.clone())?,
            false => shards.read_words(&self.codes, 0..self.inputs / n, rows.clone())?,
        };

        let in_words = (words.end - words.start) as usize;
        let mut values = vec![0.0; width * self.inputs as usize];
        let mut of_group = vec![(0.0, 0.0); count as usize];
        let outputs = values.chunks_exact_mut(self.inputs as usize);
        for (i, (output, values)) in rows.zip(outputs).enumerate() {
            let (word, shift) = (
                (output / n - words.start) as usize,
                self.layout.shift(output % n),
            );
            for (group, (scale, zero)) in of_group.iter_mut().enumerate() {
                let stored = zeros[group * in_words + word] >> shift & mask;
                *zero = (stored + self.layout.zero_offset) as f32;
                *scale = scales[group * width + i];
            }
            let weight = |code: u32, group: &usize| {
                let (scale, zero) = of_group[*group];
                (code as f32 - zero) * scale
            };
            if self.layout.is_awq {
                let codes = codes[word..].iter().step_by(in_words);
                for ((value, code), group) in values.iter_mut().zip(codes).zip(&groups) {
                    *value = weight(code >> shift & mask, group);
                }
            } else {
                let codes = codes[i..].iter().step_by(width);
                let (values, groups) = (
                    values.chunks_exact_mut(n as usize),
                    groups.chunks_exact(n as usize),
                );
                for ((values, code), groups) in values.zip(codes).zip(groups) {
                    let mut rest = *code;
                    for (value, group) in values.iter_mut().zip(groups) {
                        *value = weight(rest & mask, group);
                        rest = rest.checked_shr(self.layout.bits).unwrap_or(0);
                    }
                }
            }
        }
        Ok(values)
    }
}
