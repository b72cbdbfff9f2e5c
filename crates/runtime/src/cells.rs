//! Counts which cells of a KV cache are in use, and by how many sequences.
//!
//! llama.cpp has no interface for that. A cell holds one token of one or more sequences: sequences
//! share the cells of their common prefix after a fork. The cell numbers are this module's own;
//! llama.cpp chooses the actual cell of each token.

/// The cells of a cache and the sequences in them.
#[derive(Debug, Default)]
pub(super) struct Cells {
    /// The number of sequences that hold each cell.
    holders: Vec<u32>,
    /// The cells that no sequence holds.
    free: Vec<u32>,
    /// The cells of each sequence, in the order of positions.
    of: Vec<Vec<u32>>,
}

impl Cells {
    pub fn new(n_seq: u32) -> Self {
        Cells {
            of: vec![Vec::new(); n_seq as usize],
            ..Cells::default()
        }
    }

    /// The number of cells in use.
    pub fn taken(&self) -> usize {
        self.holders.len() - self.free.len()
    }

    /// Adds a cell for one more token of a sequence.
    pub fn push(&mut self, seq: usize) {
        let cell = self.free.pop().unwrap_or_else(|| {
            self.holders.push(0);
            self.holders.len() as u32 - 1
        });
        self.holders[cell as usize] += 1;
        self.of[seq].push(cell);
    }

    /// Releases the cells of a sequence after its first `length` tokens.
    pub fn truncate(&mut self, seq: usize, length: usize) {
        let of = &mut self.of[seq];
        for cell in of.drain(length.min(of.len())..) {
            self.holders[cell as usize] -= 1;
            if self.holders[cell as usize] == 0 {
                self.free.push(cell);
            }
        }
    }

    /// Makes the empty sequence `to` share the first `length` cells of `from`.
    pub fn share(&mut self, from: usize, to: usize, length: usize) {
        let shared = self.of[from][..length].to_vec();
        for &cell in &shared {
            self.holders[cell as usize] += 1;
        }
        self.of[to] = shared;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_cell_is_taken_until_the_last_lets_go() {
        let mut cells = Cells::new(3);
        (0..5).for_each(|_| cells.push(0));
        cells.share(0, 1, 3);
        cells.share(1, 2, 2);
        assert_eq!(cells.taken(), 5);
        cells.push(1);
        cells.push(2);
        assert_eq!(cells.taken(), 7);
        cells.truncate(0, 0);
        assert_eq!(cells.taken(), 5, "three of 1 and 2, and one each");
        cells.truncate(1, 0);
        assert_eq!(cells.taken(), 3);
        cells.truncate(2, 1);
        cells.truncate(2, 9);
        assert_eq!(cells.taken(), 1);
        cells.truncate(2, 0);
        assert_eq!(cells.taken(), 0);
    }
}
