//! How much each column of the matrices of a model matters: the squares of what enters it, added up
//! over a text. `modelve_quant` weighs the errors of columns by the mean.
//!
//! As in llama.cpp's `llama-imatrix`, the text is cut into chunks that are read on their own, whose
//! first token is replaced by BOS where the model wants one, and what remains after the last whole
//! chunk is left out. The products with matrices of blocks are measured; the output matrix is not.
//! Nothing behind the last block is computed: the pass ends there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Error, Result};
use modelve_quant::imatrix::{Entry, Imatrix};
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{Error as RuntimeError, Session, Settings, Token, WantLogits};

/// Inputs of a dense product with fewer rows are no states of a text's tokens, and are left out as
/// in llama.cpp.
const LEAST_ROWS: usize = 16;

/// Settings for a session that [`Measurement::read`] reads chunks of `window` tokens with.
pub fn settings(window: usize, base: Settings) -> Settings {
    let n_batch = u32::try_from(window).unwrap_or(u32::MAX);
    Settings {
        // The pass over a chunk is one batch, so that it can end before the output matrix.
        n_batch,
        // Within the last block llama.cpp drops the tokens without logits.
        n_outputs: n_batch,
        hooks: true,
        ..base
    }
}

/// Sums over what was read of the inputs of one matrix, or of the matrices of all experts.
#[derive(Debug, Clone, PartialEq)]
struct Sums {
    /// One for each column, of experts one after another.
    squares: Vec<f32>,
    /// The number of inputs, one for each matrix.
    counts: Vec<f32>,
}

impl Sums {
    fn new(columns: usize, matrices: usize, counts: usize) -> Self {
        Sums {
            squares: vec![0.0; columns * matrices],
            counts: vec![0.0; counts],
        }
    }

    fn add(&mut self, at: usize, row: &[f32]) {
        let squares = self.squares[at * row.len()..][..row.len()].iter_mut();
        squares.zip(row).for_each(|(sum, x)| *sum += x * x);
    }

    fn add_all(&mut self, other: &Sums) {
        let add = |to: &mut [f32], from: &[f32]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        add(&mut self.squares, &other.squares);
        add(&mut self.counts, &other.counts);
    }
}

/// What was measured so far.
#[derive(Debug, Clone)]
pub struct Measurement {
    window: usize,
    chunks: usize,
    sums: BTreeMap<String, Sums>,
}

impl Measurement {
    /// Starts a measurement over chunks of `window` tokens.
    pub fn new(window: usize) -> Self {
        Measurement {
            window: window.max(1),
            chunks: 0,
            sums: BTreeMap::new(),
        }
    }

    /// Continues the measurement that `file` holds.
    pub fn resumed(file: &Imatrix) -> Self {
        let sums = file.entries().iter().map(|(name, entry)| {
            let sums = Sums {
                squares: entry.sums().to_vec(),
                counts: entry.counts().to_vec(),
            };
            (name.clone(), sums)
        });
        Measurement {
            window: (file.chunk_size() as usize).max(1),
            chunks: file.chunks() as usize,
            sums: sums.collect(),
        }
    }

    /// The number of chunks that were read.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Reads the chunks of a text that were not read yet. `on_chunk` is called after each. Returns
    /// false if the session's [`Cancel`](modelve_runtime::Cancel) is set before the end: the chunks
    /// that were read in full count.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no product with a matrix was found; values that are not finite;
    /// a window that does not fit the session.
    pub fn read(
        &mut self,
        session: &mut Session,
        ids: &[Token],
        on_chunk: &mut dyn FnMut(),
    ) -> Result<bool> {
        let model = session.model().clone();
        let vocab = model.vocab();
        let bos = vocab.bos().filter(|_| vocab.adds_bos());
        for chunk in ids.chunks_exact(self.window).skip(self.chunks) {
            let mut chunk = chunk.to_vec();
            if let Some(bos) = bos {
                chunk[0] = bos;
            }
            let mut of_chunk = Products {
                whole: session.settings().n_batch as usize >= chunk.len(),
                sums: BTreeMap::new(),
            };
            let seq = session.open()?;
            let mut ignore = |_: usize, _: &[f32]| {};
            let pass =
                session.feed_hooked(&seq, &chunk, WantLogits::All, &mut of_chunk, &mut ignore);
            match pass {
                Ok(Pass::Complete | Pass::Stopped) => {}
                Err(RuntimeError::Cancelled) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            session.close(seq);
            if of_chunk.sums.is_empty() {
                return Err(Error::Unsupported {
                    arch: model.facts().arch.clone(),
                    what: "no product with the matrix of a block was found".to_owned(),
                });
            }
            for (name, sums) in of_chunk.sums {
                let finite = sums.squares.iter().all(|x| x.is_finite());
                match self.sums.get_mut(&name) {
                    _ if !finite => return Err(RuntimeError::NotANumber { what: name }.into()),
                    Some(all) => all.add_all(&sums),
                    None => drop(self.sums.insert(name, sums)),
                }
            }
            self.chunks += 1;
            on_chunk();
        }
        Ok(true)
    }

    /// The entries of an importance matrix.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the name of a matrix whose sums have grown too large.
    pub fn entries(&self, arch: &str) -> Result<BTreeMap<String, Entry>> {
        let entries = self.sums.iter().map(|(name, sums)| {
            let entry = Entry::new(name, sums.squares.clone(), sums.counts.clone());
            entry.map(|entry| (name.clone(), entry))
        });
        let entries: std::result::Result<_, String> = entries.collect();
        entries.map_err(|what| Error::Unsupported {
            arch: arch.to_owned(),
            what,
        })
    }
}

/// The hook that adds up the inputs of products during the passes over one chunk.
struct Products {
    /// Whether the chunk is one pass, which can end before the output matrix.
    whole: bool,
    sums: BTreeMap<String, Sums>,
}

impl Products {
    /// The sums of the matrix of a product, made where there are none yet.
    fn sums(
        &mut self,
        name: &str,
        columns: usize,
        matrices: usize,
        counts: usize,
    ) -> Result<&mut Sums, RuntimeError> {
        let sums = self.sums.entry(name.to_owned());
        let sums = sums.or_insert_with(|| Sums::new(columns, matrices, counts));
        match (
            sums.squares.len() == columns * matrices,
            sums.counts.len() == counts,
        ) {
            (true, true) => Ok(sums),
            _ => Err(RuntimeError::NodeLength {
                node: name.to_owned(),
                have: sums.squares.len(),
                given: columns * matrices,
            }),
        }
    }

    /// Adds the inputs of a product whose every row is multiplied with the same matrix, or, where
    /// there are several, with that of its place.
    fn add_dense(&mut self, name: &str, node: &mut Node<'_>) -> Result<(), RuntimeError> {
        let [_, _, n2, n3] = node.weights_shape()?;
        let (values, [columns, rows, m2, m3]) = node.read_activations()?;
        if rows < LEAST_ROWS || columns == 0 {
            return Ok(());
        }
        let matrices = n2 * n3;
        let sums = self.sums(name, columns, matrices, 1)?;
        for (i, row) in values.chunks_exact(columns).enumerate() {
            let (i2, i3) = (i / rows % m2, i / rows / m2);
            sums.add(i3 % n3 * n2 + i2 % n2, row);
        }
        sums.counts[0] += (rows * m2 * m3 / matrices) as f32;
        Ok(())
    }

    /// Adds the inputs of a product with experts, each to the expert that the router chose.
    fn add_experts(&mut self, name: &str, node: &mut Node<'_>) -> Result<(), RuntimeError> {
        let [_, _, experts, _] = node.weights_shape()?;
        let (chosen, used) = node.read_experts()?;
        let (values, [columns, inputs, ..]) = node.read_activations()?;
        if used == 0 || columns == 0 || inputs == 0 {
            return Ok(());
        }
        let sums = self.sums(name, columns, experts, experts)?;
        let rows: Vec<&[f32]> = values.chunks_exact(columns).collect();
        for (i, &expert) in chosen.iter().enumerate() {
            let (token, slot) = (i / used, i % used);
            // Experts of one token share its input, or have one each.
            let row = rows.get(token * inputs + slot % inputs);
            let (Some(row), true) = (row, expert < experts) else {
                return Err(RuntimeError::NodeLength {
                    node: name.to_owned(),
                    have: experts,
                    given: expert,
                });
            };
            sums.add(expert, row);
            sums.counts[expert] += 1.0;
        }
        Ok(())
    }
}

/// The name of the matrix of a product that is measured.
fn matrix<'a>(node: &NodeInfo<'a>) -> Option<&'a str> {
    let name = node.inputs.first()?.as_str();
    match node.op {
        "MUL_MAT_ID" => Some(name),
        "MUL_MAT" if name.starts_with("blk.") => Some(name),
        _ => None,
    }
}

impl Hook for Products {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        (self.whole && node.role == Some(Role::FinalNorm)) || matrix(node).is_some()
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        let Some(name) = matrix(&info) else {
            return Ok(ControlFlow::Break(()));
        };
        match info.op {
            "MUL_MAT_ID" => self.add_experts(name, node)?,
            _ => self.add_dense(name, node)?,
        }
        Ok(ControlFlow::Continue(()))
    }
}
