//! The tokens of one decode call, and the limits of a context.

use super::error::{Error, Result};
use super::node::Row;
use super::seq::{Position, SeqId};
use super::token::Token;

/// The tokens of one decode call, as parallel arrays with one entry per token.
#[derive(Debug, Default, Clone)]
pub(super) struct Batch {
    pub tokens: Vec<Token>,
    pub positions: Vec<i32>,
    pub sequences: Vec<i32>,
    pub outputs: Vec<i8>,
}

/// The sizes that a context was made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum number of tokens in a batch.
    pub n_batch: u32,
    /// Maximum number of sequences.
    pub n_seq: u32,
    /// Maximum number of tokens of a batch that have logits.
    pub n_outputs: u32,
    /// The number of entries of the vocabulary.
    pub n_vocab: u32,
}

impl Batch {
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    /// Adds a token of sequence `seq` at position `pos`.
    pub fn push(&mut self, token: Token, pos: usize, seq: u32, output: bool) {
        self.tokens.push(token);
        self.positions.push(i32::try_from(pos).unwrap_or(-1));
        self.sequences.push(i32::try_from(seq).unwrap_or(-1));
        self.outputs.push(i8::from(output));
    }

    /// The sequence and position of every token, and of those with logits.
    pub fn rows(&self) -> (Vec<Row>, Vec<Row>) {
        let row = |(&seq, &position): (&i32, &i32)| Row {
            seq: SeqId(seq.unsigned_abs()),
            position: Position::new(position.unsigned_abs() as usize),
        };
        let rows: Vec<Row> = self
            .sequences
            .iter()
            .zip(&self.positions)
            .map(row)
            .collect();
        let outputs = rows.iter().zip(&self.outputs);
        let outputs = outputs.filter(|(_, output)| **output != 0);
        let outputs = outputs.map(|(row, _)| *row).collect();
        (rows, outputs)
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Checks everything that llama.cpp would assert about the batch.
    pub fn check(&self, limits: Limits) -> Result<()> {
        let n = self.len();
        let arrays = [
            self.positions.len(),
            self.sequences.len(),
            self.outputs.len(),
        ];
        if n == 0 || n > limits.n_batch as usize || arrays != [n; 3] {
            return Err(Error::BatchSize {
                n,
                most: limits.n_batch,
            });
        }
        let outputs = self.outputs.iter().filter(|&&output| output != 0).count();
        if outputs > limits.n_outputs as usize {
            return Err(Error::TooManyOutputs {
                n: outputs,
                most: limits.n_outputs,
            });
        }
        let places = self.positions.iter().zip(&self.sequences);
        for (&token, (&pos, &seq)) in self.tokens.iter().zip(places) {
            if token.index() >= limits.n_vocab as usize {
                return Err(Error::TokenRange {
                    token,
                    n_vocab: limits.n_vocab,
                });
            }
            if pos < 0 || seq < 0 || seq as u32 >= limits.n_seq {
                return Err(Error::OutOfContext {
                    seq,
                    position: pos,
                    n_seq: limits.n_seq,
                });
            }
        }
        Ok(())
    }
}
