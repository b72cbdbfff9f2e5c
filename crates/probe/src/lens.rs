//! The logit lens: what the model would predict if it stopped after a layer.
//!
//! The state after each block goes through the final norm and the output matrix, as the last one
//! does (nostalgebraist, "interpreting GPT: the logit lens", 2020). States are reduced as they
//! come, so memory depends on the size of a batch and not on the length of the prompt.

use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::Serialize;

use super::math::{Distribution, Reference};
use super::readout::factor;
use super::readout::{open, unsupported};
use super::unembed_ffi::Unembed;
use super::{Choice, Error, Piece, Prompt, Result, piece};
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{
    Error as RuntimeError, Model, Seq, Session, Settings, Token, Vocab, WantLogits, host,
};

/// Options of [`lens`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The layers to look at, from 0; `None` means all.
    pub layers: Option<Vec<usize>>,
    /// The positions to look at, from 0; `None` means all.
    pub positions: Option<Vec<usize>>,
    /// Number of likeliest tokens to keep for each cell.
    pub top: usize,
    /// A token whose rank and probability each cell reports.
    pub token: Option<Token>,
}

/// The predictions of a model after each layer.
#[derive(Debug, Clone, Serialize)]
pub struct Lens {
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// The text of each token.
    pub pieces: Vec<Piece>,
    /// Number of layers in the model.
    pub n_layers: usize,
    /// The token whose rank each cell reports, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Followed>,
    /// The model's final prediction at each position, in order of position.
    pub answers: Vec<Answer>,
    /// One cell for each position and layer: all layers of the first position, then of the next.
    pub cells: Vec<Cell>,
    /// Whether all positions were computed.
    pub complete: bool,
}

/// A token whose rank and probability are reported for every layer.
#[derive(Debug, Clone, Serialize)]
pub struct Followed {
    /// The token.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
}

/// The model's final prediction at a position.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// The position, from 0.
    pub position: usize,
    /// The likeliest token.
    #[serde(flatten)]
    pub choice: Choice,
    /// The first layer after which this token ranks first, among those looked at; `None` if there
    /// is none.
    pub first_layer: Option<usize>,
    /// The first layer from which on this token ranks first after every layer looked at.
    pub settled_layer: Option<usize>,
}

/// The prediction after one layer at one position.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// The layer, from 0; the state is the one after its block.
    pub layer: usize,
    /// The position of the token, from 0.
    pub position: usize,
    /// Entropy of the prediction in bits.
    #[serde(serialize_with = "super::digits")]
    pub entropy_bits: f64,
    /// D(final ‖ this layer) in nats, as in [`compare`](crate::compare).
    #[serde(serialize_with = "super::digits")]
    pub kl_to_final: f64,
    /// Natural logarithm of the probability that this layer gives to the model's final answer.
    #[serde(serialize_with = "super::digits")]
    pub answer_logprob: f64,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<Choice>,
    /// Rank of the followed token, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_rank: Option<usize>,
    /// Natural logarithm of the followed token's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_logprob: Option<f64>,
}

/// Approximate limit in bytes of the states and logits held at once.
const HELD: usize = 96 << 20;
/// Approximate limit in bytes of the layers' logits computed at once.
const ROWS_HELD: usize = 32 << 20;

/// Returns the settings of a session for [`lens`]: with hooks, and with a batch small enough that
/// the states of all layers can be held.
pub fn settings(model: &Model, base: Settings) -> Settings {
    let facts = model.facts();
    let states = facts.n_layer as usize * facts.n_embd as usize * 4;
    // The final logits take 4 bytes each, and their probabilities 8.
    let logits = model.vocab().len() as usize * 12;
    let n_batch = (HELD / (states + logits).max(1)).clamp(1, 256) as u32;
    Settings {
        n_batch,
        n_outputs: n_batch,
        hooks: true,
        ..base
    }
}

/// The hook that collects the states after the wanted layers of one batch.
struct States<'a> {
    layers: &'a [usize],
    /// Rows of the batch that are wanted.
    rows: Vec<usize>,
    /// For each wanted layer, the wanted rows one after another.
    states: Vec<Vec<f32>>,
}

impl States<'_> {
    fn index(&self, role: Option<Role>) -> Option<usize> {
        match role {
            Some(Role::Residual(layer)) => self.layers.iter().position(|&wanted| wanted == layer),
            _ => None,
        }
    }
}

impl Hook for States<'_> {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        self.index(node.role).is_some()
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        if let Some(at) = self.index(info.role) {
            let values = node.read()?;
            let rows = self
                .rows
                .iter()
                .filter_map(|&row| values.get(info.row(row)));
            self.states[at] = rows.flatten().copied().collect();
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Computes the lens at every layer and position asked for. The session must have been made with
/// [`settings`] and have room for the prompt; `on_progress` gets the number of tokens done. When
/// the session's [`Cancel`](modelve_runtime::Cancel) is set, the positions computed so far are
/// returned and [`Lens::complete`] is false.
///
/// # Errors
/// [`Error::NoLayer`], [`Error::NoPosition`]; [`Error::Unsupported`] for a model whose logits are
/// not a norm and a matrix applied to the last state.
pub fn lens(
    session: &mut Session,
    prompt: &Prompt,
    options: &Options,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Lens> {
    let model = session.model().clone();
    let n_layer = model.facts().n_layer as usize;
    let n = prompt.ids.len();
    let layers = options.layers.clone();
    let mut layers = layers.unwrap_or_else(|| (0..n_layer).collect());
    layers.sort_unstable();
    layers.dedup();
    if let Some(&layer) = layers.iter().find(|&&layer| layer >= n_layer) {
        return Err(Error::NoLayer { layer, n_layer });
    }
    let positions = options.positions.clone();
    let mut positions = positions.unwrap_or_else(|| (0..n).collect());
    positions.sort_unstable();
    positions.dedup();
    if let Some(&position) = positions.iter().find(|&&position| position >= n) {
        return Err(Error::NoPosition { position, len: n });
    }
    if let Some(token) = options.token {
        model.vocab().check(token)?;
    }

    let mut looking = Looking::new(&model, session.settings().threads, options, &layers)?;
    let mut complete = true;
    let seq = session.open()?;
    let n_batch = session.settings().n_batch as usize;
    for (number, chunk) in prompt.ids.chunks(n_batch).enumerate() {
        let start = number * n_batch;
        let here = positions.iter().map(|&p| p.wrapping_sub(start));
        let here: Vec<usize> = here.filter(|&row| row < chunk.len()).collect();
        match looking.batch(session, &seq, start, chunk, here) {
            Err(Error::Runtime(RuntimeError::Cancelled)) => {
                complete = false;
                break;
            }
            result => result?,
        }
        on_progress(start + chunk.len());
    }
    let vocab = model.vocab();
    let Looking {
        answers, mut cells, ..
    } = looking;
    cells.sort_by_key(|cell| (cell.position, cell.layer));
    let answers = answers
        .into_iter()
        .map(|(position, choice)| answer(position, choice, &cells))
        .collect();
    Ok(Lens {
        prompt: prompt.text.clone(),
        pieces: prompt.pieces(vocab),
        ids: prompt.ids.clone(),
        n_layers: n_layer,
        token: options.token.map(|id| Followed {
            id,
            piece: piece(vocab, id),
        }),
        answers,
        cells,
        complete,
    })
}

fn answer(position: usize, choice: Choice, cells: &[Cell]) -> Answer {
    let from = cells.partition_point(|cell| cell.position < position);
    let to = cells.partition_point(|cell| cell.position <= position);
    let column = &cells[from..to];
    let leads = |cell: &&Cell| cell.top.first().is_some_and(|top| top.id == choice.id);
    let first = column.iter().find(leads);
    let settled = column.iter().rev().take_while(leads).last();
    Answer {
        position,
        first_layer: first.map(|cell| cell.layer),
        settled_layer: settled.map(|cell| cell.layer),
        choice,
    }
}

/// What is kept from batch to batch.
struct Looking<'a> {
    model: &'a Model,
    unembed: Unembed,
    /// The factor in logit = cap · tanh(scale · row / cap), or in logit = scale · row without a
    /// cap. `None` until the first batch has been checked.
    scale: Option<f32>,
    cap: Option<f32>,
    options: &'a Options,
    layers: &'a [usize],
    n_layer: usize,
    answers: Vec<(usize, Choice)>,
    cells: Vec<Cell>,
    rows: Vec<f32>,
    /// A pool of as many threads as the session may use.
    pool: rayon::ThreadPool,
}

impl<'a> Looking<'a> {
    fn new(
        model: &'a Model,
        threads: Option<u32>,
        options: &'a Options,
        layers: &'a [usize],
    ) -> Result<Self> {
        let threads = threads.unwrap_or_else(host::threads);
        let (unembed, cap) = open(model, threads)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
        let pool = pool
            .build()
            .map_err(|error| Error::Threads(error.to_string()))?;
        Ok(Looking {
            model,
            unembed,
            scale: None,
            cap,
            options,
            layers,
            n_layer: model.facts().n_layer as usize,
            answers: Vec::new(),
            cells: Vec::new(),
            rows: Vec::new(),
            pool,
        })
    }

    /// Computes one batch and reduces its wanted `rows`.
    fn batch(
        &mut self,
        session: &mut Session,
        seq: &Seq,
        start: usize,
        tokens: &[Token],
        rows: Vec<usize>,
    ) -> Result<()> {
        let n_embd = self.unembed.n_embd();
        let last = self.n_layer - 1;
        // The prediction after the last layer is the model's own. Its state only serves to check
        // the computation of the logits.
        let mut watched: Vec<usize> = self.layers.iter().copied().filter(|&l| l != last).collect();
        watched.push(last);
        let mut states = States {
            layers: &watched,
            rows,
            states: vec![Vec::new(); watched.len()],
        };
        let mut finals: Vec<Vec<f32>> = Vec::with_capacity(states.rows.len());
        let wanted = states.rows.clone();
        let mut keep = |i: usize, logits: &[f32]| {
            if wanted.binary_search(&i).is_ok() {
                finals.push(logits.to_vec());
            }
        };
        // The hook never stops a pass.
        let _: Pass = session.feed_hooked(seq, tokens, WantLogits::All, &mut states, &mut keep)?;
        let States { states, .. } = states;
        if wanted.is_empty() {
            return Ok(());
        }
        if let Some(at) = states
            .iter()
            .position(|rows| rows.len() != wanted.len() * n_embd)
        {
            let what = format!("its graph has no state after layer {}", watched[at]);
            return Err(unsupported(self.model, &what));
        }
        self.prove(&states[watched.len() - 1][..n_embd], &finals[0])?;

        let (model, options) = (self.model, self.options);
        let vocab = model.vocab();
        let references: Vec<Reference> = self.pool.install(|| {
            let rows = finals.par_iter();
            rows.map(|row| Distribution::new(row).reference()).collect()
        });
        let mut ends = Vec::with_capacity(wanted.len());
        for ((&row, logits), reference) in wanted.iter().zip(&finals).zip(references) {
            let distribution = Distribution::new(logits);
            let best = distribution.best();
            let choice = Choice::new(vocab, &distribution, best);
            self.answers.push((start + row, choice));
            ends.push(End { reference, best });
        }
        let place = |layer: usize, i: usize| (layer, start + wanted[i]);
        if self.layers.contains(&last) {
            let done: Vec<Cell> = self.pool.install(|| {
                let rows = finals.par_iter().zip(&ends).enumerate();
                rows.map(|(i, (logits, end))| cell(vocab, options, place(last, i), logits, end))
                    .collect()
            });
            self.cells.extend(done);
        }
        let n_vocab = self.unembed.n_vocab();
        let others = 0..watched.len() - 1;
        let rows: Vec<(usize, usize)> = others
            .flat_map(|at| (0..wanted.len()).map(move |i| (at, i)))
            .collect();
        // Rows of many layers are computed together, so that the output matrix is unpacked once for
        // all.
        for part in rows.chunks((ROWS_HELD / (4 * n_vocab)).clamp(16, 1024)) {
            let mut chunk = Vec::with_capacity(part.len() * n_embd);
            for &(at, i) in part {
                chunk.extend_from_slice(&states[at][i * n_embd..][..n_embd]);
            }
            self.unembed(&mut chunk)?;
            let done: Vec<Cell> = self.pool.install(|| {
                let rows = self.rows.par_chunks_exact(n_vocab).zip(part);
                rows.map(|(logits, &(at, i))| {
                    cell(vocab, options, place(watched[at], i), logits, &ends[i])
                })
                .collect()
            });
            self.cells.extend(done);
        }
        Ok(())
    }

    /// Computes the logits of `states` into `self.rows`.
    fn unembed(&mut self, states: &mut [f32]) -> Result<()> {
        if !self.unembed.rows(states, &mut self.rows) {
            return Err(unsupported(
                self.model,
                "ggml cannot compute its output matrix",
            ));
        }
        let scale = self.scale.unwrap_or(1.0);
        if scale != 1.0 {
            let rows = &mut self.rows;
            self.pool
                .install(|| rows.par_iter_mut().for_each(|x| *x *= scale));
        }
        if let Some(cap) = self.cap {
            let rows = &mut self.rows;
            let capped = |x: &mut f32| *x = cap * (*x / cap).tanh();
            self.pool.install(|| rows.par_iter_mut().for_each(capped));
        }
        Ok(())
    }

    /// Checks that norm and output matrix turn the last state into the model's logits, up to a
    /// constant factor that some architectures have, and finds that factor.
    fn prove(&mut self, state: &[f32], logits: &[f32]) -> Result<()> {
        if self.scale.is_none() {
            let cap = self.cap.take();
            self.unembed(&mut state.to_vec())?;
            self.cap = cap;
            self.scale = Some(factor(&self.rows, logits, cap));
        }
        self.unembed(&mut state.to_vec())?;
        let (mut difference, mut square) = (0.0, 0.0);
        for (&x, &y) in self.rows.iter().zip(logits) {
            difference += f64::from(x - y).powi(2);
            square += f64::from(y).powi(2);
        }
        if difference <= 4e-4 * square {
            return Ok(());
        }
        let what = "its logits do not follow from its last state by a norm and a matrix, so there is no lens for it";
        Err(unsupported(self.model, what))
    }
}

/// The model's final prediction at one position.
struct End {
    reference: Reference,
    best: Token,
}

fn cell(
    vocab: &Vocab,
    options: &Options,
    (layer, position): (usize, usize),
    logits: &[f32],
    end: &End,
) -> Cell {
    let distribution = Distribution::new(logits);
    let token = options.token;
    Cell {
        layer,
        position,
        entropy_bits: distribution.entropy_bits(),
        kl_to_final: end.reference.kl(&distribution),
        answer_logprob: distribution.logprob(end.best),
        top: Choice::top(vocab, &distribution, options.top.max(1)),
        token_rank: token.map(|id| distribution.rank(id)),
        token_logprob: token.map(|id| distribution.logprob(id)),
    }
}
