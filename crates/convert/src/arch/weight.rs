//! A tensor of the GGUF: the checkpoint tensors it is made of, and how.

use super::names;

/// A tensor that the checkpoint must hold, in one piece or in several.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Names in the checkpoint. Several tensors, such as the experts of a layer, have the same
    /// shape and follow one another in the GGUF.
    pub sources: Vec<String>,
    /// Name in the GGUF.
    pub name: String,
    /// Shape in the GGUF, slowest dimension first: `[rows, columns]`, or `[experts, rows, columns]`.
    pub shape: Vec<u64>,
    /// Whether the tensor may be missing from the checkpoint.
    pub optional: bool,
    /// What is done to the values.
    pub arrangement: Arrangement,
}

impl Weight {
    /// Makes a tensor that is used unchanged, under the name that `architecture` gives it in
    /// checkpoints.
    pub fn new(architecture: &str, name: impl Into<String>, shape: &[u64]) -> Self {
        let name = name.into();
        Self {
            sources: vec![names::in_checkpoint(architecture, &name)],
            name,
            shape: shape.to_vec(),
            optional: false,
            arrangement: Arrangement::AsIs,
        }
    }

    /// Makes a tensor of the same matrix of all `experts`; `shape` is that of one matrix.
    pub(super) fn of_experts(
        architecture: &str,
        name: String,
        experts: u64,
        shape: &[u64],
    ) -> Self {
        let mut weight = Self::new(architecture, name, &[&[experts], shape].concat());
        let joined = weight.sources.remove(0);
        let each =
            (0..experts).map(|expert| joined.replace(".experts.", &format!(".experts.{expert}.")));
        weight.sources = each.collect();
        weight
    }

    /// Returns the shape of each source, slowest dimension first.
    pub fn source_shape(&self) -> Vec<u64> {
        let shape = match self.sources.len() {
            0 | 1 => self.shape.as_slice(),
            _ => &self.shape[1..],
        };
        match (self.arrangement, shape) {
            (Arrangement::Columns { step, .. }, [outer @ .., rows, columns]) => {
                [outer, &[*columns, rows * step]].concat()
            }
            (Arrangement::Every { step, .. }, [outer @ .., columns]) => {
                [outer, &[columns * step]].concat()
            }
            _ => shape.to_vec(),
        }
    }
}

/// What is done to a checkpoint tensor on its way to the GGUF. Writing and verifying apply the same
/// description, to pieces of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Arrangement {
    /// The checkpoint's values in the checkpoint's order.
    #[default]
    AsIs,
    /// Within each head, row `i` of the first half is followed by row `i` of the second half. A
    /// rotary embedding then rotates adjacent rows, where transformers rotates rows half a head apart.
    InterleaveHalves {
        /// Number of heads, all of the same even number of rows.
        heads: u64,
    },
    /// Rows of the GGUF are columns of the checkpoint's matrix: columns `first`, `first + step` and
    /// so on.
    Columns {
        /// The first column.
        first: u64,
        /// The distance between two columns.
        step: u64,
    },
    /// Of each row, the values at `first`, `first + step` and so on.
    Every {
        /// The first value.
        first: u64,
        /// The distance between two values.
        step: u64,
    },
    /// A number that is added to each value, in 32 bits.
    Add(f32),
}

impl Arrangement {
    /// Returns the number of rows that are reordered together in a tensor of `rows` rows. A piece
    /// of the tensor must hold a whole number of such groups.
    pub fn group(self, rows: u64) -> u64 {
        match self {
            Self::InterleaveHalves { heads } => (rows / heads.max(1)).max(1),
            Self::AsIs | Self::Columns { .. } | Self::Every { .. } | Self::Add(_) => 1,
        }
    }
}

/// Interleaves the halves of each group of `group` rows of `row_bytes` bytes, in place. `spare` is
/// scratch memory.
pub(crate) fn interleave(bytes: &mut [u8], group: u64, row_bytes: usize, spare: &mut Vec<u8>) {
    let half = group as usize / 2;
    if half == 0 || row_bytes == 0 {
        return;
    }
    for head in bytes.chunks_exact_mut(2 * half * row_bytes) {
        spare.clear();
        spare.extend_from_slice(head);
        for (to, row) in head.chunks_exact_mut(row_bytes).enumerate() {
            let from = (to % 2 * half + to / 2) * row_bytes;
            row.copy_from_slice(&spare[from..from + row_bytes]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `reshape(heads, 2, rows / heads / 2).swapaxes(1, 2)` of two heads of six rows.
    #[test]
    fn the_halves_of_a_head_are_interleaved() {
        let pairs = Arrangement::InterleaveHalves { heads: 2 };
        let mut rows: Vec<u8> = (0..12).collect();
        assert_eq!(pairs.group(12), 6);
        interleave(&mut rows, 6, 1, &mut Vec::new());
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
