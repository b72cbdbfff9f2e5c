//! The likeliest continuations as a tree.

use serde::Serialize;

use super::math::Distribution;
use super::{Choice, Error, Result};
use modelve_runtime::{Entry, Seq, Session, Vocab};

/// A token of the tree and its continuations.
#[derive(Debug, Clone, Serialize)]
pub struct Branch {
    /// The token, with its probability after those above it.
    #[serde(flatten)]
    pub choice: Choice,
    /// Natural logarithm of the joint probability of all tokens from the root to this one.
    pub joint_logprob: f64,
    /// The continuations, likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
}

/// Maximum number of nodes in a tree.
pub const MOST_NODES: usize = 4096;

/// Depth and width of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of tokens from the root to a leaf.
    pub depth: usize,
    /// Number of branches of each node.
    pub width: usize,
}

impl Shape {
    /// Returns what a tree needs in a session in addition to the prompt: `(sequences, tokens)`.
    pub fn room(self) -> (u32, u32) {
        let room = (self.depth.saturating_sub(1)).saturating_mul(self.width);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        (room.saturating_add(1), room)
    }

    /// Checks the number of nodes.
    ///
    /// # Errors
    /// [`Error::Tree`] if there are no nodes, or more than [`MOST_NODES`].
    pub fn check(self) -> Result<()> {
        let mut nodes = 0usize;
        let mut level = 1usize;
        for _ in 0..self.depth.min(64) {
            level = level.saturating_mul(self.width);
            nodes = nodes.saturating_add(level);
        }
        let (sequences, _) = self.room();
        if nodes == 0 || nodes > MOST_NODES || self.depth > 64 || sequences > 256 {
            return Err(Error::Tree {
                depth: self.depth,
                width: self.width,
                nodes,
                most: MOST_NODES,
            });
        }
        Ok(())
    }
}

/// Computes the branches of the node at the end of sequence `seq`, which is `above` tokens below
/// the root: the `width` likeliest tokens at every node down to `depth`. The branches of a node are
/// computed in one batch and share the KV cache of the tokens above them.
pub(super) fn grow(
    session: &mut Session,
    vocab: &Vocab,
    shape: Shape,
    above: usize,
    seq: &Seq,
    joint: f64,
    logits: &[f32],
) -> Result<Vec<Branch>> {
    let choices = Choice::top(vocab, &Distribution::new(logits), shape.width);
    let mut branches: Vec<Branch> = choices
        .into_iter()
        .map(|choice| Branch {
            joint_logprob: joint + choice.logprob,
            choice,
            branches: Vec::new(),
        })
        .collect();
    if above + 1 == shape.depth {
        return Ok(branches);
    }
    // Nothing follows an end-of-text token.
    let open: Vec<usize> = (0..branches.len())
        .filter(|&i| !vocab.is_end(branches[i].choice.id))
        .collect();
    if open.is_empty() {
        return Ok(branches);
    }
    let length = session.len(seq)?;
    let forks = open.iter().map(|_| session.fork(seq, length));
    let forks: Vec<Seq> = forks.collect::<Result<_, _>>()?;
    let entries: Vec<Entry<'_>> = (forks.iter().zip(&open))
        .map(|(seq, &i)| Entry {
            seq,
            token: branches[i].choice.id,
            output: true,
        })
        .collect();
    let mut rows = vec![Vec::new(); entries.len()];
    session.step(&entries, &mut |i, logits| rows[i] = logits.to_vec())?;
    for ((i, fork), row) in open.into_iter().zip(forks).zip(rows) {
        let joint = branches[i].joint_logprob;
        branches[i].branches = grow(session, vocab, shape, above + 1, &fork, joint, &row)?;
        session.close(fork);
    }
    Ok(branches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_without_end_are_refused() {
        let check = |depth, width| Shape { depth, width }.check().is_ok();
        assert!(check(1, 1) && check(3, 5) && check(6, 3) && check(1, 200));
        assert!(!check(0, 3) && !check(3, 0) && !check(12, 3) && !check(usize::MAX, 1));
        assert_eq!(Shape { depth: 3, width: 4 }.room(), (9, 8));
    }
}
