//! What a hook is told of a node of the graph.

use std::ops::Range;

use super::role::Role;
use super::seq::{Position, SeqId};
use modelve_gguf::GgmlType;

/// Whose values a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// The sequence.
    pub seq: SeqId,
    /// The place in it.
    pub position: Position,
}

/// The tokens along one dimension of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows<'a> {
    /// The dimension that counts tokens: 1 for states, 2 for what is apart by head.
    pub dimension: usize,
    /// The token at each index of that dimension.
    pub of: &'a [Row],
}

/// A node of the graph.
#[derive(Debug, Clone, Copy)]
pub struct NodeInfo<'a> {
    /// llama.cpp's name, such as `l_out-3`; ggml's (`node_17`) where it gave none. Not unique.
    pub name: &'a str,
    /// The operation that computes it, such as `MUL_MAT`.
    pub op: &'a str,
    /// Lengths in ggml's order: the first runs fastest. A state is `[width, tokens, 1, 1]`,
    /// attention weights are `[cells, tokens, heads, 1]`.
    pub shape: [usize; 4],
    /// The type of its values.
    pub ty: GgmlType,
    /// The names of what it is computed from: weights by their tensor's name, which of a matrix
    /// product are the first.
    pub inputs: &'a [String],
    /// What it is, if it is one of the nodes that every architecture has.
    pub role: Option<Role>,
    /// Which tokens it holds; none where that cannot be told. From the last layer's attention on
    /// only tokens whose logits are wanted are left.
    pub rows: Option<Rows<'a>>,
}

impl NodeInfo<'_> {
    /// Where the `i`-th row (of `shape[0]` values), counted over all other dimensions, lies among
    /// the values.
    pub fn row(&self, i: usize) -> Range<usize> {
        let n = self.shape[0];
        i * n..(i + 1) * n
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether it has no values: nothing is wanted of what it would tell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
