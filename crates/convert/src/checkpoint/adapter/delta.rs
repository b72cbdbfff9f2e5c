//! A matrix to which a LoRA is added.

use std::ops::Range;

use crate::checkpoint::{Error, Shards, SourceTensor};

/// `base + scale × B · A`, or its transpose where the base is transposed or an embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    pub(super) base: SourceTensor,
    /// [rank, inputs].
    pub(super) a: SourceTensor,
    /// [outputs, rank].
    pub(super) b: SourceTensor,
    pub(super) scale: f32,
    /// Whether the base has inputs as rows.
    pub(super) is_turned: bool,
}

/// Number of columns computed at once: with the matching part of the right matrix they stay in the
/// caches.
const TILE: u64 = 512;

impl Merged {
    pub(in crate::checkpoint) fn parts(&self) -> Vec<&SourceTensor> {
        vec![&self.base, &self.a, &self.b]
    }

    pub(in crate::checkpoint) fn form(&self) -> String {
        format!("{} + LoRA", self.base.form())
    }

    /// The products of a weight are added up in order of rank in 32 bits, scaled, and added to the
    /// base. PEFT does the same in an order that depends on its library and machine; two orders
    /// differ by at most `2 · rank · 2^-24` of the sum of the products' sizes.
    pub(in crate::checkpoint) fn read(
        &self,
        shards: &Shards,
        rows: Range<u64>,
        columns: Range<u64>,
    ) -> Result<Vec<f32>, Error> {
        let mut values = match &self.base.packed {
            Some(packed) => packed.read(shards, rows.clone(), columns.clone())?,
            None => shards.read_numbers(&self.base, rows.clone(), columns.clone())?,
        };
        let rank = self.b.columns();
        let across = (columns.end - columns.start) as usize;
        let height = (rows.end - rows.start) as usize;
        let left = match self.is_turned {
            true => {
                let read = shards.read_numbers(&self.a, 0..rank, rows)?;
                transposed(&read, height)
            }
            false => shards.read_numbers(&self.b, rows, 0..rank)?,
        };
        let mut sums = Vec::new();
        for start in columns.clone().step_by(TILE as usize) {
            let tile = start..columns.end.min(start + TILE);
            let at = (start - columns.start) as usize;
            let width = (tile.end - tile.start) as usize;
            let right = match self.is_turned {
                true => {
                    let read = shards.read_numbers(&self.b, tile, 0..rank)?;
                    transposed(&read, rank as usize)
                }
                false => shards.read_numbers(&self.a, 0..rank, tile)?,
            };
            let rows = values.chunks_exact_mut(across);
            for (row, factors) in rows.zip(left.chunks_exact(rank as usize)) {
                sums.clear();
                sums.resize(width, 0.0f32);
                for (factor, right) in factors.iter().zip(right.chunks_exact(width)) {
                    for (sum, value) in sums.iter_mut().zip(right) {
                        *sum += factor * value;
                    }
                }
                for (value, sum) in row[at..][..width].iter_mut().zip(&sums) {
                    *value += sum * self.scale;
                }
            }
        }
        Ok(values)
    }
}

/// Transposes a matrix with this number of columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let column = |i: usize| values[i..].iter().step_by(columns).copied();
    (0..columns).flat_map(column).collect()
}
