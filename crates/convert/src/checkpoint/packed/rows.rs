//! The packed format of compressed-tensors: the matrix in its usual orientation, with several
//! weights of a row in a 32-bit word, the lowest bits first.
//!
//! A weight is `scale × (code - zero)`. Without zero-points, `zero` is the middle of the codes.
//! There is a scale for each row and group of columns; zero-points are packed along the rows.

use std::ops::Range;

use safetensors::Dtype;

use super::columns::Groups;
use super::{Packed, Parts, SCALES, check_scales};
use crate::checkpoint::{Error, Shards, SourceTensor};

/// The layout of the words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bits of a weight: 4 or 8.
    pub(super) bits: u32,
    /// Number of columns that share scale and zero-point; `None` means all.
    pub(super) group_size: Option<u64>,
}

/// A matrix in this format.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    bits: u32,
    codes: SourceTensor,
    /// The tensor with the shape of the matrix. Opening a checkpoint reads headers only, so it is
    /// compared with the shape of the codes when rows are read.
    stated: SourceTensor,
    scales: SourceTensor,
    zeros: Option<SourceTensor>,
    groups: Groups,
    columns: u64,
}

/// Replaces the parts of a matrix, if `name` is that of its codes.
pub(super) fn find(parts: &mut Parts<'_>, name: &str, layout: &Layout) -> Result<(), Error> {
    let Some(weight) = name.strip_suffix("_packed") else {
        return Ok(());
    };
    let Some(codes) = parts.take(name) else {
        return Ok(());
    };
    let scales = parts.need(format!("{weight}_scale"), &codes)?;
    let stated = parts.need(format!("{weight}_shape"), &codes)?;
    let zeros = parts.take(&format!("{weight}_zero_point"));
    let index = parts.take(&format!("{weight}_g_idx"));

    let n = u64::from(32 / layout.bits);
    let [rows, wide] = parts.matrix(&codes)?;
    parts.expect(&codes, &[Dtype::I32], &[rows, wide])?;
    parts.expect(&stated, &[Dtype::I64, Dtype::I32], &[2])?;
    let columns = wide.checked_mul(n);
    let columns =
        columns.ok_or_else(|| parts.error(&codes, "has more values than 64 bits can count"))?;
    let size = layout.group_size.unwrap_or(columns);
    let count = columns.div_ceil(size);
    parts.expect(&scales, SCALES, &[rows, count])?;
    if let Some(zeros) = &zeros {
        parts.expect(zeros, &[Dtype::I32], &[rows.div_ceil(n), count])?;
    }
    let groups = match index {
        Some(index) => Groups::index(parts, index, columns)?,
        None => Groups::Size(size),
    };
    let packed = Rows {
        bits: layout.bits,
        codes,
        stated,
        scales,
        zeros,
        groups,
        columns,
    };
    parts.put(weight.to_owned(), [rows, columns], Packed::Rows(packed))
}

impl Rows {
    pub(super) fn parts(&self) -> Vec<&SourceTensor> {
        let mut parts = vec![&self.codes, &self.stated, &self.scales];
        parts.extend(&self.zeros);
        parts.extend(self.groups.part());
        parts
    }

    pub(super) fn form(&self) -> String {
        format!("packed-{}", self.bits)
    }

    /// Compares the stated shape with that of the codes. Rows that end inside a word are not known
    /// to exist and are refused.
    fn check_shape(&self, shards: &Shards) -> Result<(), Error> {
        let shape = shards.read_integers(&self.stated)?;
        let held = [self.codes.shape[0], self.columns];
        match shape.iter().map(|n| u64::try_from(*n)).eq(held.map(Ok)) {
            true => Ok(()),
            false => {
                let problem = format!("says {shape:?}; the packed matrix holds {held:?}");
                Err(shards.error(&self.stated, problem))
            }
        }
    }

    pub(super) fn read(&self, shards: &Shards, rows: Range<u64>) -> Result<Vec<f32>, Error> {
        self.check_shape(shards)?;
        let n = u64::from(32 / self.bits);
        let mask = u32::MAX >> (32 - self.bits);
        let count = self.scales.columns();
        let groups = self.groups.read(shards, self.columns, count)?;
        let scales = shards.read_numbers(&self.scales, rows.clone(), 0..count)?;
        let count = count as usize;
        check_scales(shards, &self.scales, &scales, (rows.start, 0), count)?;
        let first = rows.start / n;
        let zeros = match &self.zeros {
            Some(zeros) => {
                let words = first..rows.end.div_ceil(n);
                shards.read_words(zeros, words, 0..zeros.columns())?
            }
            None => Vec::new(),
        };
        let wide = self.codes.columns();
        let codes = shards.read_words(&self.codes, rows.clone(), 0..wide)?;

        let columns = self.columns as usize;
        let mut values = vec![0.0; columns * (rows.end - rows.start) as usize];
        let rows = rows.zip(values.chunks_exact_mut(columns));
        let parts = codes
            .chunks_exact(wide as usize)
            .zip(scales.chunks_exact(count));
        for ((row, values), (codes, scales)) in rows.zip(parts) {
            let zero = |group: usize| match zeros.is_empty() {
                true => 1 << (self.bits - 1),
                false => {
                    let word = zeros[(row / n - first) as usize * count + group];
                    (word >> ((row % n) as u32 * self.bits)) & mask
                }
            };
            let values = values.chunks_mut(n as usize).zip(groups.chunks(n as usize));
            for ((values, groups), code) in values.zip(codes) {
                for (i, (value, group)) in values.iter_mut().zip(groups).enumerate() {
                    let code = code >> (i as u32 * self.bits) & mask;
                    *value = (code as f32 - zero(*group) as f32) * scales[*group];
                }
            }
        }
        Ok(values)
    }
}
