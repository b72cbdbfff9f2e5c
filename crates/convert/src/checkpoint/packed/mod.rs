//! Packed weights: 8-bit numbers with scales, or 4-bit codes with scales and zero-points.
//!
//! The rest of the program does not see them: [`resolve`] replaces the tensors that belong together
//! by the one tensor that an architecture expects, of type F32, whose rows are computed when they are
//! read. Only the rows asked for are read and unpacked, so memory is bounded by the size of a piece.

mod columns;
mod method;
mod rows;
mod scaled;

pub use method::{Method, Refused};
pub(super) use method::{apart, stated};

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use safetensors::Dtype;

use super::{Error, Merged, Shards, SourceTensor};

/// Endings of scales for activations or the KV cache, which a GGUF does not have.
const OF_ACTIVATIONS: &[&str] = &[
    ".activation_scale",
    ".input_scale",
    ".k_scale",
    ".output_scale",
    ".q_scale",
    ".v_scale",
];

/// What the values of a tensor are computed from.
#[derive(Clone, Debug, PartialEq)]
pub enum Packed {
    /// 8-bit numbers times scales.
    Scaled(scaled::Scaled),
    /// GPTQ and AWQ, which store the transposed matrix.
    Columns(columns::Columns),
    /// The packed format of compressed-tensors.
    Rows(rows::Rows),
    /// A matrix to which an adapter is added.
    Merged(Box<Merged>),
}

impl Packed {
    /// The tensors that it is computed from; the first is the largest.
    pub fn parts(&self) -> Vec<&SourceTensor> {
        match self {
            Self::Scaled(scaled) => scaled.parts(),
            Self::Columns(columns) => columns.parts(),
            Self::Rows(rows) => rows.parts(),
            Self::Merged(merged) => merged.parts(),
        }
    }

    /// Describes the format in a few words.
    pub(super) fn form(&self) -> String {
        match self {
            Self::Scaled(scaled) => scaled.form(),
            Self::Columns(columns) => columns.form(),
            Self::Rows(rows) => rows.form(),
            Self::Merged(merged) => merged.form(),
        }
    }

    /// Computes a rectangle of the matrix.
    ///
    /// # Errors
    /// A part cannot be read or is invalid: a scale that is not finite, or a group that does not
    /// exist.
    pub(super) fn read(
        &self,
        shards: &Shards,
        rows: Range<u64>,
        columns: Range<u64>,
    ) -> Result<Vec<f32>, Error> {
        let values = match self {
            Self::Scaled(scaled) => scaled.read(shards, rows.clone())?,
            Self::Columns(packed) => packed.read(shards, rows.clone())?,
            Self::Rows(packed) => packed.read(shards, rows.clone())?,
            Self::Merged(merged) => return merged.read(shards, rows, columns),
        };
        // Whole rows were unpacked; a narrower rectangle is cut out.
        let height = (rows.end - rows.start).max(1) as usize;
        let width = values.len() / height;
        let columns = columns.start as usize..columns.end as usize;
        if columns == (0..width) {
            return Ok(values);
        }
        let rows = values.chunks_exact(width.max(1));
        Ok(rows
            .flat_map(|row| &row[columns.clone()])
            .copied()
            .collect())
    }
}

/// The tensors of a checkpoint while the parts of packed ones are replaced.
struct Parts<'a> {
    shards: &'a Shards,
    tensors: BTreeMap<String, SourceTensor>,
}

impl Parts<'_> {
    fn error(&self, tensor: &SourceTensor, problem: impl Into<String>) -> Error {
        self.shards.error(tensor, problem)
    }

    fn take(&mut self, name: &str) -> Option<SourceTensor> {
        self.tensors.remove(name)
    }

    /// Takes a tensor that is needed to unpack `of`.
    fn need(&mut self, name: String, of: &SourceTensor) -> Result<SourceTensor, Error> {
        let found = self.take(&name);
        found.ok_or_else(|| self.error(of, format!("`{name}`, which belongs to it, is missing")))
    }

    /// Checks type and shape of a part.
    fn expect(&self, tensor: &SourceTensor, types: &[Dtype], shape: &[u64]) -> Result<(), Error> {
        if !types.contains(&tensor.dtype) {
            let problem = format!("is of type {:?}, not of {types:?}", tensor.dtype);
            return Err(self.error(tensor, problem));
        }
        if tensor.shape != shape {
            let problem = format!("has shape {:?} where {shape:?} is needed", tensor.shape);
            return Err(self.error(tensor, problem));
        }
        Ok(())
    }

    /// Returns the rows and columns of a matrix, neither of them 0.
    fn matrix(&self, tensor: &SourceTensor) -> Result<[u64; 2], Error> {
        match tensor.shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(self.error(
                tensor,
                format!("has shape {:?}; a matrix is needed", tensor.shape),
            )),
        }
    }

    /// Adds a tensor in place of its parts.
    fn put(&mut self, name: String, shape: [u64; 2], packed: Packed) -> Result<(), Error> {
        let first = packed.parts()[0].clone();
        let bytes = shape[0]
            .checked_mul(shape[1])
            .and_then(|n| n.checked_mul(4));
        let Some(bytes) = bytes else {
            return Err(self.error(&first, "has more values than 64 bits can count"));
        };
        let tensor = SourceTensor {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            shard: first.shard,
            offset: first.offset,
            bytes,
            packed: Some(Arc::new(packed)),
        };
        match self.tensors.insert(name, tensor) {
            None => Ok(()),
            Some(twice) => Err(self.error(&twice, "occurs both packed and unpacked")),
        }
    }
}

/// Floating-point types of scales.
const SCALES: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

/// Replaces the parts of packed tensors by the tensors they make up.
///
/// # Errors
/// A part is missing, or its shape or type does not fit the others.
pub(super) fn resolve(
    method: &Method,
    shards: &Shards,
    tensors: BTreeMap<String, SourceTensor>,
) -> Result<BTreeMap<String, SourceTensor>, Error> {
    let mut parts = Parts { shards, tensors };
    let names: Vec<String> = parts.tensors.keys().cloned().collect();
    for name in names {
        match method {
            Method::Scaled { block } => scaled::find(&mut parts, &name, *block)?,
            Method::Columns(layout) => columns::find(&mut parts, &name, layout)?,
            Method::Rows(layout) => rows::find(&mut parts, &name, layout)?,
        }
    }
    let of_activations = |name: &str| OF_ACTIVATIONS.iter().any(|end| name.ends_with(end));
    parts.tensors.retain(|name, _| !of_activations(name));
    Ok(parts.tensors)
}

/// Finds biases of packed matrices that are all zero. Exporters write them for every matrix, and
/// architectures without biases can leave them out.
pub(super) fn idle_biases(
    shards: &Shards,
    tensors: &BTreeMap<String, SourceTensor>,
) -> Result<BTreeSet<String>, Error> {
    let mut idle = BTreeSet::new();
    for (name, tensor) in tensors {
        let of = name.strip_suffix(".bias").map(|of| format!("{of}.weight"));
        let weight = of.and_then(|weight| tensors.get(&weight));
        let is_candidate = weight
            .is_some_and(|weight| weight.packed.is_some() && tensor.shape[..] == weight.shape[..1]);
        if is_candidate && tensor.packed.is_none() {
            let mut bytes = vec![0; tensor.bytes as usize];
            shards.read_at(tensor, 0, &mut bytes)?;
            if bytes.iter().all(|byte| *byte == 0) {
                idle.insert(name.clone());
            }
        }
    }
    Ok(idle)
}

/// Checks that scales are finite. `row` and `column` are the position of the first of them in its
/// tensor, `width` is the number of scales in a row.
fn check_scales(
    shards: &Shards,
    tensor: &SourceTensor,
    scales: &[f32],
    (row, column): (u64, u64),
    width: usize,
) -> Result<(), Error> {
    match scales.iter().position(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (row, column) = (row + (at / width) as u64, column + (at % width) as u64);
            let scale = scales[at];
            let problem = format!("holds a scale of {scale} at row {row}, column {column}");
            Err(shards.error(tensor, problem))
        }
    }
}

#[cfg(test)]
mod tests;
