//! The hook of experiments: edits of values during a pass, and values read from it.

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use modelve_runtime::graph::{Hook, Node, NodeInfo, Role};
use modelve_runtime::{Result, SeqId};

/// Positions whose rows are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// All positions.
    All,
    /// This position, from 0.
    One(usize),
}

impl At {
    fn has(self, position: usize) -> bool {
        match self {
            At::All => true,
            At::One(one) => one == position,
        }
    }

    /// Returns the first position that is edited.
    pub fn first(self) -> usize {
        match self {
            At::All => 0,
            At::One(one) => one,
        }
    }
}

/// The values of a row that are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// All values.
    Whole,
    /// The `index`-th of `of` equal parts: the values of one head among those of all heads.
    Share {
        /// Which one, from 0.
        index: usize,
        /// Number of parts.
        of: usize,
    },
}

impl Slice {
    /// Returns its range in a row of `width` values.
    pub fn range(self, width: usize) -> Range<usize> {
        match self {
            Slice::Whole => 0..width,
            Slice::Share { index, of } => {
                let n = width / of.max(1);
                index * n..((index + 1) * n).min(width)
            }
        }
    }
}

/// The new values. Vectors are as long as a whole row, whatever the slice.
#[derive(Debug, Clone)]
pub enum To {
    /// Zeros.
    Zero,
    /// These values.
    Vector(Arc<[f32]>),
    /// The old values plus these.
    Plus(Arc<[f32]>),
}

/// An edit of one node's values in one sequence.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The node of the graph.
    pub role: Role,
    /// The rows to edit.
    pub at: At,
    /// The values of these rows to edit.
    pub slice: Slice,
    /// Their new values.
    pub to: To,
}

impl Edit {
    /// Edits a row of `width` values. Values beyond the end of a shorter vector do not change.
    fn apply(&self, row: &mut [f32]) {
        let range = self.slice.range(row.len());
        match &self.to {
            To::Zero => row[range].fill(0.0),
            To::Vector(vector) => {
                let values = vector.get(range.clone()).unwrap_or(&[]);
                row[range].iter_mut().zip(values).for_each(|(x, v)| *x = *v);
            }
            To::Plus(vector) => {
                let values = vector.get(range.clone()).unwrap_or(&[]);
                row[range]
                    .iter_mut()
                    .zip(values)
                    .for_each(|(x, v)| *x += *v);
            }
        }
    }
}

/// The rows of a node that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The rows of these positions.
    Rows(Vec<usize>),
    /// The mean of all rows.
    Mean,
}

/// Values read during a pass: rows by node and position, and means by node.
#[derive(Debug, Clone, Default)]
pub struct States {
    wanted: HashMap<Role, Keep>,
    rows: HashMap<Role, BTreeMap<usize, Arc<[f32]>>>,
    sums: HashMap<Role, (usize, Vec<f64>)>,
}

impl States {
    /// Reads nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the wanted rows and means.
    pub fn of(wanted: impl IntoIterator<Item = (Role, Keep)>) -> Self {
        States {
            wanted: wanted.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Returns the row of a node at a position. Nodes of the last layer only have rows for tokens
    /// whose logits were wanted.
    pub fn row(&self, role: Role, position: usize) -> Option<&Arc<[f32]>> {
        self.rows.get(&role)?.get(&position)
    }

    /// Returns the mean row of a node.
    pub fn mean(&self, role: Role) -> Option<Arc<[f32]>> {
        let (n, sums) = self.sums.get(&role)?;
        let n = *n as f64;
        Some(sums.iter().map(|sum| (sum / n) as f32).collect())
    }

    /// Returns whether a mean is wanted, which needs every row of every layer.
    pub fn wants_all(&self) -> bool {
        self.wanted.values().any(|keep| *keep == Keep::Mean)
    }

    fn note(&mut self, role: Role, position: usize, row: &[f32]) {
        match self.wanted.get(&role) {
            Some(Keep::Rows(positions)) if positions.contains(&position) => {
                let rows = self.rows.entry(role).or_default();
                rows.insert(position, row.into());
            }
            Some(Keep::Mean) => {
                let (n, sums) = self.sums.entry(role).or_default();
                sums.resize(row.len(), 0.0);
                *n += 1;
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += f64::from(*x));
            }
            _ => {}
        }
    }
}

/// The hook of every experiment: edits of several sequences, and values read from one of them after
/// its edits.
pub struct Editing<'a> {
    edits: HashMap<Role, Vec<(SeqId, &'a Edit)>>,
    read: Option<(SeqId, &'a mut States)>,
}

impl<'a> Editing<'a> {
    /// Makes a hook with the edits of some sequences.
    pub fn new(edits: impl IntoIterator<Item = (SeqId, &'a [Edit])>) -> Self {
        let mut by_role: HashMap<Role, Vec<(SeqId, &'a Edit)>> = HashMap::new();
        for (seq, edits) in edits {
            for edit in edits {
                by_role.entry(edit.role).or_default().push((seq, edit));
            }
        }
        Editing {
            edits: by_role,
            read: None,
        }
    }

    /// Reads values of one sequence in addition.
    pub fn reading(mut self, seq: SeqId, states: &'a mut States) -> Self {
        self.read = Some((seq, states));
        self
    }
}

impl Hook for Editing<'_> {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        let reads = |role| {
            let read = self.read.as_ref();
            read.is_some_and(|(_, states)| states.wanted.contains_key(role))
        };
        node.role
            .as_ref()
            .is_some_and(|role| self.edits.contains_key(role) || reads(role))
    }

    fn node(&mut self, node: &mut Node<'_>) -> Result<ControlFlow<()>> {
        let info = node.info();
        let (Some(role), Some(rows)) = (info.role, info.rows) else {
            return Ok(ControlFlow::Continue(()));
        };
        // The rows of attention weights are in another dimension; no experiment edits them.
        if rows.dimension != 1 || info.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let edits = self.edits.get(&role).map_or(&[][..], Vec::as_slice);
        let mut values = node.read()?.to_vec();
        let mut changed = false;
        for (i, row) in rows.of.iter().enumerate() {
            for (seq, edit) in edits {
                if *seq == row.seq && edit.at.has(row.position.index()) {
                    edit.apply(&mut values[info.row(i)]);
                    changed = true;
                }
            }
        }
        if changed {
            node.write(&values)?;
        }
        if let Some((seq, states)) = &mut self.read {
            for (i, row) in rows.of.iter().enumerate() {
                if *seq == row.seq {
                    states.note(role, row.position.index(), &values[info.row(i)]);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_a_share_of_its_row() {
        let mut row = [1.0f32; 8];
        let edit = |slice, to| Edit {
            role: Role::HeadOutput(0),
            at: At::All,
            slice,
            to,
        };
        let head = Slice::Share { index: 2, of: 4 };
        edit(head, To::Zero).apply(&mut row);
        assert_eq!(row, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        let vector: Arc<[f32]> = (0..8u8).map(f32::from).collect();
        edit(head, To::Vector(Arc::clone(&vector))).apply(&mut row);
        assert_eq!(row, [1.0, 1.0, 1.0, 1.0, 4.0, 5.0, 1.0, 1.0]);
        edit(Slice::Whole, To::Plus(vector)).apply(&mut row);
        assert_eq!(row, [1.0, 2.0, 3.0, 4.0, 8.0, 10.0, 7.0, 8.0]);
    }

    #[test]
    fn means_are_over_all_rows() {
        let mut states = States::of([(Role::Mlp(0), Keep::Mean)]);
        states.note(Role::Mlp(0), 0, &[1.0, 2.0]);
        states.note(Role::Mlp(0), 1, &[3.0, 6.0]);
        states.note(Role::Mlp(1), 1, &[9.0, 9.0]);
        assert_eq!(states.mean(Role::Mlp(0)).unwrap()[..], [2.0, 4.0]);
        assert!(states.mean(Role::Mlp(1)).is_none());
    }
}
