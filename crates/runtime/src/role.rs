//! The roles that nodes have in the graphs of all architectures.

use std::fmt;

/// The role of a node, with its shape. Layers are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The input of the first block: the token embeddings, scaled, and with position embeddings
    /// added if the model does so. `[width, tokens]`.
    Embedding,
    /// The residual stream after a block. `[width, tokens]`.
    Residual(usize),
    /// The concatenated outputs of a block's heads, before the output projection.
    /// `[heads · values, tokens]`.
    HeadOutput(usize),
    /// What a block's attention adds to the residual stream. `[width, tokens]`.
    Attention(usize),
    /// What a block's MLP, or its experts, add to the residual stream. `[width, tokens]`.
    Mlp(usize),
    /// A block's attention weights, which exist only without fused attention.
    /// `[cells, tokens, heads]`.
    Pattern(usize),
    /// The normalized last state, which the output matrix maps to logits. `[width, outputs]`.
    FinalNorm,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Embedding => write!(f, "embedding"),
            Role::Residual(layer) => write!(f, "state after layer {layer}"),
            Role::HeadOutput(layer) => write!(f, "output of the heads of layer {layer}"),
            Role::Attention(layer) => write!(f, "attention output of layer {layer}"),
            Role::Mlp(layer) => write!(f, "MLP output of layer {layer}"),
            Role::Pattern(layer) => write!(f, "attention weights of layer {layer}"),
            Role::FinalNorm => write!(f, "normed last state"),
        }
    }
}
