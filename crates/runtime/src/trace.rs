//! Finds the tokens that the rows of a node belong to. ggml's graph does not record them, so they
//! are derived from the operations, starting at the lookup of token embeddings.

use std::collections::HashMap;

use modelve_gguf::GgmlType;

/// ggml's description of a node, without its values.
#[derive(Debug, Clone)]
pub(super) struct RawNode {
    /// Unique within a pass.
    pub id: usize,
    pub name: String,
    pub op: String,
    pub op_params: [i32; 4],
    pub shape: [usize; 4],
    pub ty: GgmlType,
    pub inputs: Vec<RawInput>,
}

/// An input of a node.
#[derive(Debug, Clone)]
pub(super) struct RawInput {
    pub id: usize,
    pub name: String,
    /// Whether the graph does not compute it: weights, the cache, and the inputs of a pass.
    pub leaf: bool,
    pub shape: [usize; 4],
}

/// The tokens that rows belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// All tokens of the batch.
    Tokens,
    /// The tokens whose logits are requested.
    Outputs,
}

/// The dimension of a node that counts tokens, and which tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Along {
    pub whose: Whose,
    pub dimension: usize,
}

/// The tokens of the nodes of a pass so far.
#[derive(Debug, Default)]
pub(super) struct Trace {
    n_tokens: usize,
    n_outputs: usize,
    known: HashMap<usize, Along>,
}

impl Trace {
    /// Starts a pass over `n_tokens` tokens, of which `n_outputs` get logits.
    pub fn new(n_tokens: usize, n_outputs: usize) -> Self {
        Trace {
            n_tokens,
            n_outputs,
            known: HashMap::new(),
        }
    }

    fn count(&self, whose: Whose) -> usize {
        match whose {
            Whose::Tokens => self.n_tokens,
            Whose::Outputs => self.n_outputs,
        }
    }

    /// Adds the next node of the graph, in the order of computation, and returns its tokens.
    pub fn note(&mut self, node: &RawNode) -> Option<Along> {
        let along = self.work_out(node);
        let along = along.filter(|a| node.shape[a.dimension] == self.count(a.whose));
        match along {
            Some(along) => self.known.insert(node.id, along),
            // ggml may reuse the id of an earlier node that is no longer needed.
            None => self.known.remove(&node.id),
        };
        along
    }

    fn work_out(&self, node: &RawNode) -> Option<Along> {
        let of = |i: usize| {
            let input = node.inputs.get(i)?;
            self.known.get(&input.id).copied()
        };
        let first = node.inputs.first()?;
        match node.op.as_str() {
            "GET_ROWS" => {
                let rows = node.inputs.get(1)?;
                let whose = match (first.leaf, rows.leaf) {
                    (true, true) => Whose::Tokens,
                    (false, true) => Whose::Outputs,
                    _ => return None,
                };
                // A lookup in a table of token types or positions also gives a row for each token.
                let dimension = 1;
                Some(Along { whose, dimension })
            }
            // The columns of the product are those of the second input.
            "MUL_MAT" => of(1).filter(|along| along.dimension > 0),
            "MUL_MAT_ID" => of(1).map(|along| Along {
                dimension: 2,
                ..along
            }),
            "FLASH_ATTN_EXT" => of(0).map(|along| Along {
                dimension: 2,
                ..along
            }),
            "PERMUTE" => {
                let along = of(0)?;
                let axis = *node.op_params.get(along.dimension)?;
                let dimension = usize::try_from(axis).ok().filter(|&axis| axis < 4)?;
                Some(Along { dimension, ..along })
            }
            "TRANSPOSE" => of(0).map(|along| Along {
                dimension: match along.dimension {
                    0 => 1,
                    1 => 0,
                    other => other,
                },
                ..along
            }),
            "RESHAPE" | "VIEW" | "CONT" => {
                let along = of(0)?;
                self.reshaped(along, first.shape, node.shape)
            }
            // Other operations work on single values or rows.
            _ => [of(0), of(1)]
                .into_iter()
                .zip(&node.inputs)
                .filter(|(_, input)| input.shape[1..] == node.shape[1..])
                .find_map(|(along, _)| along),
        }
    }

    /// The dimension of the tokens after a reshape: the one with the same number of values before
    /// it.
    fn reshaped(&self, along: Along, from: [usize; 4], to: [usize; 4]) -> Option<Along> {
        let n = self.count(along.whose);
        if to[along.dimension] == n && from[1..] == to[1..] {
            return Some(along);
        }
        let before: usize = from[..along.dimension].iter().product();
        let dimension = (1..4).find(|&d| to[d] == n && to[..d].iter().product::<usize>() == before);
        // Otherwise it is a view of a part of each row, such as the queries in a joint projection
        // of queries, keys and values.
        let dimension =
            dimension.or_else(|| (1..4).rev().find(|&d| to[d] == n && d >= along.dimension));
        dimension.map(|dimension| Along { dimension, ..along })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(
        id: usize,
        op: &str,
        shape: [usize; 4],
        inputs: &[(usize, [usize; 4], bool)],
    ) -> RawNode {
        let inputs = inputs.iter().map(|&(id, shape, leaf)| RawInput {
            id,
            name: String::new(),
            leaf,
            shape,
        });
        RawNode {
            id,
            name: String::new(),
            op: op.to_owned(),
            op_params: [0, 2, 1, 3],
            shape,
            ty: GgmlType::F32,
            inputs: inputs.collect(),
        }
    }

    /// There are as many heads as tokens, so that lengths alone do not identify the dimension.
    #[test]
    fn rows_are_followed_through_an_attention_block() {
        let mut trace = Trace::new(4, 2);
        let mut along = |node: &RawNode| trace.note(node).map(|a| (a.whose, a.dimension));
        let state = [64, 4, 1, 1];
        let heads = [16, 4, 4, 1];
        let tokens = Some((Whose::Tokens, 1));
        let table = [(900, [64, 99, 1, 1], true), (901, [4, 1, 1, 1], true)];
        assert_eq!(along(&node(1, "GET_ROWS", state, &table)), tokens);
        let norm = node(2, "RMS_NORM", state, &[(1, state, false)]);
        assert_eq!(along(&norm), tokens);
        let weights = (902, [64, 64, 1, 1], true);
        let product = node(3, "MUL_MAT", state, &[weights, (2, state, false)]);
        assert_eq!(along(&product), tokens);
        let reshape = node(4, "RESHAPE", heads, &[(3, state, false)]);
        assert_eq!(along(&reshape), Some((Whose::Tokens, 2)));
        let permute = node(5, "PERMUTE", heads, &[(4, heads, false)]);
        assert_eq!(along(&permute), tokens);
        let keys = (903, [16, 256, 4, 1], true);
        let pattern = [256, 4, 4, 1];
        let scores = node(6, "MUL_MAT", pattern, &[keys, (5, heads, false)]);
        assert_eq!(along(&scores), tokens);
        let picked = [64, 2, 1, 1];
        let outputs = node(
            7,
            "GET_ROWS",
            picked,
            &[(3, state, false), (904, [2, 1, 1, 1], true)],
        );
        assert_eq!(along(&outputs), Some((Whose::Outputs, 1)));
        let sum = node(
            8,
            "ADD",
            picked,
            &[(7, picked, false), (905, [64, 1, 1, 1], true)],
        );
        assert_eq!(along(&sum), Some((Whose::Outputs, 1)));
        // A lookup by computed indices, as of experts, gives no rows of tokens.
        let looked_up = node(
            9,
            "GET_ROWS",
            picked,
            &[(3, state, false), (8, picked, false)],
        );
        assert_eq!(along(&looked_up), None);
    }
}
