//! The description of a graph's node for hooks.

use std::ops::Range;

use super::role::Role;
use super::seq::{Position, SeqId};
use modelve_gguf::GgmlType;

/// The token whose values a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// The sequence of the token.
    pub seq: SeqId,
    /// The token's position in it.
    pub position: Position,
}

/// The tokens along one dimension of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows<'a> {
    /// The dimension that counts tokens: 1 for states, 2 for nodes with a dimension for heads
    /// before it.
    pub dimension: usize,
    /// The token at each index of that dimension.
    pub of: &'a [Row],
}

/// A node of the graph.
#[derive(Debug, Clone, Copy)]
pub struct NodeInfo<'a> {
    /// llama.cpp's name, such as `l_out-3`, or ggml's (`node_17`) where llama.cpp gives none. Names
    /// are not unique.
    pub name: &'a str,
    /// The operation that computes it, such as `MUL_MAT`.
    pub op: &'a str,
    /// Lengths in ggml's order: the first dimension is contiguous. A state is
    /// `[width, tokens, 1, 1]`, attention weights are `[cells, tokens, heads, 1]`.
    pub shape: [usize; 4],
    /// The type of its values.
    pub ty: GgmlType,
    /// The names of its inputs. Weights have the name of their tensor; they are the first input of
    /// a matrix product.
    pub inputs: &'a [String],
    /// Its role, if it is one of the nodes that every architecture has.
    pub role: Option<Role>,
    /// The tokens of its rows; `None` if they cannot be determined. From the last layer's attention
    /// on, only tokens whose logits are requested are left.
    pub rows: Option<Rows<'a>>,
}

impl NodeInfo<'_> {
    /// The range of the `i`-th row in the values. A row has `shape[0]` values, and rows are counted
    /// over all other dimensions.
    pub fn row(&self, i: usize) -> Range<usize> {
        let n = self.shape[0];
        i * n..(i + 1) * n
    }

    /// The number of values it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether it has no values, as when no logits are requested.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
