//! 8-bit numbers with scales: float8 and int8 weights.
//!
//! A weight is `number × scale`, with one multiplication in 32 bits. There is one scale for the
//! whole matrix, one for each row, or one for each block of rows and columns (`weight_scale_inv` of
//! DeepSeek and Qwen, which is multiplied in spite of its name). Blocks at the edges may be
//! incomplete.

use std::ops::Range;

use safetensors::Dtype;

use super::{Packed, Parts, SCALES, check_scales};
use crate::checkpoint::{Error, Shards, SourceTensor};

/// A matrix of 8-bit numbers and its scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    values: SourceTensor,
    scales: SourceTensor,
    /// Number of rows and columns that share a scale.
    block: [u64; 2],
}

/// Endings that turn the name of the weights into that of the scales.
const ENDINGS: [&str; 2] = ["_scale_inv", "_scale"];

/// Replaces the matrix of this name, if it consists of 8-bit numbers.
pub(super) fn find(
    parts: &mut Parts<'_>,
    name: &str,
    block: Option<[u64; 2]>,
) -> Result<(), Error> {
    let types = [Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::I8];
    let is_one = |tensor: &SourceTensor| types.contains(&tensor.dtype);
    let Some(values) = parts.tensors.get(name).filter(|t| is_one(t)).cloned() else {
        return Ok(());
    };
    let shape @ [rows, columns] = parts.matrix(&values)?;
    let mut scales = ENDINGS
        .iter()
        .filter_map(|end| parts.take(&format!("{name}{end}")));
    let (first, second) = (scales.next(), scales.next());
    drop(scales);
    let scales = match (first, second) {
        (Some(scales), None) => scales,
        (Some(_), Some(_)) => return Err(parts.error(&values, "has two tensors of scales")),
        (None, _) => {
            let problem = format!("its scales are missing: `{name}_scale_inv` or `{name}_scale`");
            return Err(parts.error(&values, problem));
        }
    };
    let block = match (&scales.shape[..], block) {
        ([] | [1] | [1, 1], None) => [rows, columns],
        ([n] | [n, 1], None) if *n == rows => [1, columns],
        (_, Some([a, b])) if a > 0 && b > 0 => {
            let shape = [rows.div_ceil(a), columns.div_ceil(b)];
            parts.expect(&scales, SCALES, &shape)?;
            [a, b]
        }
        (shape, _) => {
            let problem = format!(
                "has shape {shape:?}, which is neither one scale nor one for each of {rows} rows; \
                 the size of blocks (`weight_block_size`) is not stated"
            );
            return Err(parts.error(&scales, problem));
        }
    };
    let as_stated = scales.shape.clone();
    parts.expect(&scales, SCALES, &as_stated)?;
    parts.take(name);
    let scaled = Scaled {
        values,
        scales,
        block,
    };
    parts.put(name.to_owned(), shape, Packed::Scaled(scaled))
}

impl Scaled {
    pub(super) fn parts(&self) -> Vec<&SourceTensor> {
        vec![&self.values, &self.scales]
    }

    pub(super) fn form(&self) -> String {
        format!("{:?}", self.values.dtype)
    }

    pub(super) fn read(&self, shards: &Shards, rows: Range<u64>) -> Result<Vec<f32>, Error> {
        let columns = self.values.columns();
        let [high, wide] = self.block;
        let across = columns.div_ceil(wide);
        // The scales are consecutive numbers, whether their shape is [n], [n, 1] or a matrix.
        let first = rows.start / high;
        let wanted = first * across..rows.end.div_ceil(high) * across;
        let scales = shards.read_run(&self.scales, wanted)?;
        check_scales(shards, &self.scales, &scales, (first, 0), across as usize)?;

        let mut values = shards.read_numbers(&self.values, rows.clone(), 0..columns)?;
        for (row, values) in rows.zip(values.chunks_exact_mut(columns as usize)) {
            let at = ((row / high - first) * across) as usize;
            for (scale, block) in scales[at..].iter().zip(values.chunks_mut(wide as usize)) {
                block.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok(values)
    }
}
