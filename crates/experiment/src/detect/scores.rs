//! The scores of heads on repeated random tokens.
//!
//! In the second copy every token has occurred before. An *induction* head then attends to the
//! token that followed it there (Olsson et al., "In-context learning and induction heads", 2022,
//! where this weight is the prefix-matching score), a *duplicate-token* head to the earlier
//! occurrence of the token itself, and a *previous-token* head to the token just before. These are
//! the detection patterns of TransformerLens' `detect_head`. A score is the mean weight on the
//! pattern over the tokens for which the pattern exists, so a head that does nothing else scores 1.
//! `detect_head` with its `mul` divides by the number of all tokens: for N tokens twice after a BOS
//! token its induction and duplicate scores are these times N / (2N + 1), and its previous-token
//! score is this times 2N / (2N + 1).

use std::ops::ControlFlow;

use serde::Serialize;

use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{Error as RuntimeError, Session, Token, WantLogits};

use super::Table;
use crate::error::Result;

/// Sums of weights over the attending tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// Number of tokens from the second on.
    tokens: usize,
    /// Number of tokens in the second copy.
    repeated: usize,
    induction: f64,
    duplicate: f64,
    previous: f64,
    first: f64,
    entropy: f64,
}

impl Sums {
    /// Adds the row of weights of the token at `position`. If the position is at least `second`,
    /// the same token also occurred `period` tokens earlier.
    fn add(&mut self, position: usize, row: &[f32], second: usize, period: usize) {
        let weight = |at: usize| row.get(at).map_or(0.0, |&weight| f64::from(weight));
        if position >= second {
            self.repeated += 1;
            self.induction += weight(position - period + 1);
            self.duplicate += weight(position - period);
        }
        if position == 0 {
            return;
        }
        self.tokens += 1;
        self.previous += weight(position - 1);
        self.first += weight(0);
        for &weight in row.iter().filter(|&&weight| weight > 0.0) {
            let weight = f64::from(weight);
            self.entropy -= weight * weight.log2();
        }
    }
}

/// Mean scores of all heads on repeated tokens.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Scores {
    /// Weight on the token that followed the earlier occurrence of the same token, averaged over
    /// the second copy: the prefix-matching score of Olsson et al.
    pub induction: Table,
    /// Weight on the previous token, averaged over the tokens from the second on.
    pub previous: Table,
    /// Weight on the same token in the first copy, averaged over the second copy.
    pub duplicate: Table,
    /// Weight on the first token, averaged over the tokens from the second on.
    pub first: Table,
    /// Entropy of the weights in bits, averaged likewise: log2 of the number of tokens that the
    /// attention could be spread over evenly.
    pub entropy_bits: Table,
}

struct Watch {
    /// Number of tokens before the current batch.
    start: usize,
    /// Position at which the second copy begins.
    second: usize,
    period: usize,
    /// `[layer][head]`
    sums: Vec<Vec<Sums>>,
}

fn layer_of(role: Option<Role>) -> Option<usize> {
    match role {
        Some(Role::Pattern(layer)) => Some(layer),
        _ => None,
    }
}

impl Hook for Watch {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        layer_of(node.role).is_some()
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        let [_, n_tokens, n_head, _] = info.shape;
        let Some(layer) = layer_of(info.role) else {
            return Ok(ControlFlow::Continue(()));
        };
        let values = node.read()?;
        self.sums[layer].resize(n_head, Sums::default());
        for (head, sums) in self.sums[layer].iter_mut().enumerate() {
            for token in 0..n_tokens {
                let position = self.start + token;
                let row = &values[info.row(head * n_tokens + token)];
                // The only sequence fills the cells in order; those after its last token are empty.
                let row = &row[..row.len().min(position + 1)];
                sums.add(position, row, self.second, self.period);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Computes `texts`, each of which ends in `length` tokens and the same tokens again, and averages
/// the scores over all. The session must have been made with [`settings`](super::settings);
/// `on_progress` gets the number of tokens done. Also returns the number of texts that were
/// computed to their end, which is smaller than the number of texts when the session's
/// [`Cancel`](modelve_runtime::Cancel) was set.
///
/// # Errors
/// The errors of the session.
pub fn scores(
    session: &mut Session,
    texts: &[Vec<Token>],
    length: usize,
    on_progress: &mut dyn FnMut(usize),
) -> Result<(Scores, usize)> {
    let n_layer = session.model().facts().n_layer as usize;
    let mut watch = Watch {
        start: 0,
        second: 0,
        period: length,
        sums: vec![Vec::new(); n_layer],
    };
    let mut done = 0;
    let mut finished = 0;
    'texts: for text in texts {
        watch.second = text.len().saturating_sub(length);
        let seq = session.open()?;
        let n_batch = session.settings().n_batch as usize;
        watch.start = 0;
        for chunk in text.chunks(n_batch) {
            // A cancelled pass may have shown a part of its batch to some layers; the sums are
            // reset to these.
            let before = watch.sums.clone();
            match session.feed_hooked(&seq, chunk, WantLogits::All, &mut watch, &mut |_, _| {}) {
                Err(RuntimeError::Cancelled) => {
                    watch.sums = before;
                    break 'texts;
                }
                // The hook never stops a pass.
                pass => {
                    let _: Pass = pass?;
                }
            }
            watch.start += chunk.len();
            done += chunk.len();
            on_progress(done);
        }
        session.close(seq);
        finished += 1;
    }
    let table = |of: &dyn Fn(&Sums) -> (f64, usize)| -> Table {
        let mean = |sums: &Sums| {
            let (sum, n) = of(sums);
            // Nothing was read before the cancellation.
            if n == 0 { f64::NAN } else { sum / n as f64 }
        };
        let layers = watch.sums.iter();
        Table(
            layers
                .map(|heads| heads.iter().map(mean).collect())
                .collect(),
        )
    };
    let scores = Scores {
        induction: table(&|s| (s.induction, s.repeated)),
        previous: table(&|s| (s.previous, s.tokens)),
        duplicate: table(&|s| (s.duplicate, s.repeated)),
        first: table(&|s| (s.first, s.tokens)),
        entropy_bits: table(&|s| (s.entropy.max(0.0), s.tokens)),
    };
    Ok((scores, finished))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BOS, a b c, a b c, and a head that attends to one position.
    #[test]
    fn weights_count_where_the_patterns_are() {
        let (second, period) = (4, 3);
        let sums = |target: &dyn Fn(usize) -> usize| {
            let mut sums = Sums::default();
            for position in 0..7 {
                let mut row = vec![0.0; position + 1];
                row[target(position).min(position)] = 1.0;
                sums.add(position, &row, second, period);
            }
            sums
        };
        let induction = sums(&|p| if p >= second { p - period + 1 } else { 0 });
        assert_eq!((induction.induction, induction.repeated), (3.0, 3));
        assert_eq!(induction.duplicate, 0.0);
        let duplicate = sums(&|p| if p >= second { p - period } else { 0 });
        assert_eq!((duplicate.duplicate, duplicate.induction), (3.0, 0.0));
        let previous = sums(&|p| p.saturating_sub(1));
        assert_eq!((previous.previous, previous.tokens), (6.0, 6));
        let first = sums(&|_| 0);
        assert_eq!((first.first, first.entropy), (6.0, 0.0));
    }
}
