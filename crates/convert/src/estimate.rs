//! The error that each type leaves in each tensor, estimated on a part of its rows.
//!
//! If the inputs of a matrix `W` have mean squares `w` and are independent of one another, replacing
//! `W` by `V` changes its products by `Σ w (W - V)²` on average, summed over rows and columns.
//! Divided by `Σ w W²`, the mean square of the products themselves, it is the relative error. Some of
//! the rows are encoded in each type and decoded again; without an importance matrix every column
//! has the weight 1.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::chunks::{Chunk, chunks_of, run};
use super::rows::{Rows, Shards};
use super::{Error, Imatrix, Plan, PlannedTensor};
use crate::checkpoint::Checkpoint;
use modelve_base::progress::{Progress, Unit};
use modelve_gguf::GgmlType;
use modelve_quant::{Encoder, dequantize_rows};

/// Number of bytes of the checkpoint in a piece: some tens of rows.
const PIECE_BYTES: u64 = 1 << 16;
/// One in so many pieces of a large tensor is encoded.
const STEP: usize = 16;
/// Minimum number of pieces of a tensor that are encoded, if it has as many.
const LEAST: usize = 8;
/// One in so many of these is encoded by ggml, whose encoders of a few types search for long.
const SLOW_STEP: usize = 8;

/// The relative error of each of a tensor's types, in the order in which they were given: 0 is exact,
/// 1 is as far as zeros would be. Infinite if the type cannot hold the weights.
pub(super) type Errors = Vec<f64>;

/// Estimates the errors. `types` has those of the tensor of each index of [`Plan::tensors`].
///
/// # Errors
/// Weights that are not finite, a checkpoint that cannot be read, [`Error::Interrupted`].
pub(super) fn errors(
    plan: &Plan,
    checkpoint: &Checkpoint,
    imatrix: Option<&Imatrix>,
    types: &[Vec<GgmlType>],
    threads: usize,
    cancel: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Vec<Errors>, Error> {
    let sample = sample(plan, types);
    let shards = Shards::open(plan, checkpoint)?;
    let sums: Mutex<Vec<Vec<Sums>>> = Mutex::new(vec![Vec::new(); sample.len()]);
    progress.start("estimating", Unit::Items("pieces"), sample.len() as u64, 0);
    let work = |worker: &mut Worker, index: usize| {
        let (chunk, number) = sample[index];
        let tensor = &plan.tensors()[chunk.tensor];
        let piece = Piece {
            tensor,
            chunk,
            with_slow: number.is_multiple_of(SLOW_STEP),
        };
        let sum = worker.measure(&shards, piece, imatrix, &types[chunk.tensor])?;
        sums.lock().unwrap_or_else(|e| e.into_inner())[index] = sum;
        progress.advance(1);
        Ok(())
    };
    let result = run(threads, sample.len(), cancel, Worker::default, work);
    progress.finish();
    result?;

    // Summed in the order of the file, so that the result does not depend on the threads.
    let none = |types: &Vec<GgmlType>| vec![Sums::default(); types.len()];
    let mut totals: Vec<Vec<Sums>> = types.iter().map(none).collect();
    let sums = sums.into_inner().unwrap_or_else(|e| e.into_inner());
    for ((chunk, _), sums) in sample.iter().zip(sums) {
        for (total, sum) in totals[chunk.tensor].iter_mut().zip(sums) {
            total.error += sum.error;
            total.whole += sum.whole;
        }
    }
    let relative = |sums: Vec<Sums>| sums.into_iter().map(Sums::relative).collect();
    Ok(totals.into_iter().map(relative).collect())
}

/// Pieces of each tensor that has types to try, spread over its rows, and their numbers within the
/// tensor.
fn sample(plan: &Plan, types: &[Vec<GgmlType>]) -> Vec<(Chunk, usize)> {
    let all = chunks_of(plan, PIECE_BYTES);
    let mut sample = Vec::new();
    for of_tensor in all.chunk_by(|a, b| a.tensor == b.tensor) {
        if types[of_tensor[0].tensor].is_empty() {
            continue;
        }
        let step = (of_tensor.len() / LEAST).clamp(1, STEP);
        let chosen = of_tensor.iter().step_by(step).copied();
        sample.extend(chosen.enumerate().map(|(number, chunk)| (chunk, number)));
    }
    sample
}

/// Rows to encode.
#[derive(Clone, Copy)]
struct Piece<'a> {
    tensor: &'a PlannedTensor,
    chunk: Chunk,
    /// Whether types that only ggml encodes are tried, too.
    with_slow: bool,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    error: f64,
    whole: f64,
}

impl Sums {
    fn relative(self) -> f64 {
        match self.whole > 0.0 {
            true => self.error / self.whole,
            // Nothing but zeros, or only columns that get no input.
            false => self.error,
        }
    }
}

/// The buffers of a thread, kept from piece to piece.
#[derive(Default)]
pub(super) struct Worker {
    rows: Rows,
    blocks: Vec<u8>,
    encoders: HashMap<GgmlType, Encoder>,
}

impl Worker {
    fn measure(
        &mut self,
        shards: &Shards<'_>,
        piece: Piece<'_>,
        imatrix: Option<&Imatrix>,
        types: &[GgmlType],
    ) -> Result<Vec<Sums>, Error> {
        let Piece { tensor, chunk, .. } = piece;
        let (mut exact, mut decoded) = (Vec::new(), Vec::new());
        let columns = tensor.columns() as usize;
        let weights = row_weights(tensor, imatrix, chunk)?;
        self.read(shards, tensor, chunk, &mut exact)?;
        let mut sums = Vec::with_capacity(types.len());
        for &ty in types {
            if !piece.with_slow && self.encoder(tensor, ty)?.kernel() == "ggml" {
                sums.push(Sums::default());
                continue;
            }
            let fits = self.through(tensor, chunk, ty, weights, &exact, &mut decoded)?;
            sums.push(match fits {
                true => compare(&exact, &decoded, columns, weights),
                false => Sums {
                    error: f64::INFINITY,
                    whole: 1.0,
                },
            });
        }
        Ok(sums)
    }

    /// Reads rows of the checkpoint as f32.
    pub(super) fn read(
        &mut self,
        shards: &Shards<'_>,
        tensor: &PlannedTensor,
        chunk: Chunk,
        into: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let (source, _) = shards.read(chunk, &mut self.rows)?;
        let rows = std::mem::take(&mut self.rows.bytes);
        let columns = tensor.columns() as usize;
        self.blocks.resize(rows.len() / source.bytes() * 4, 0);
        let mut blocks = std::mem::take(&mut self.blocks);
        let encoder = self.encoder(tensor, GgmlType::F32)?;
        let widened = encoder.encode_rows(source, &rows, columns, None, &mut blocks);
        widened.map_err(|error| tensor.encode_error(chunk.row, error))?;
        into.clear();
        into.extend((blocks.as_chunks::<4>().0.iter()).map(|x| f32::from_le_bytes(*x)));
        (self.rows.bytes, self.blocks) = (rows, blocks);
        Ok(())
    }

    /// Encodes the rows last read in a type and decodes them. Returns false if the type cannot hold
    /// them.
    pub(super) fn through(
        &mut self,
        tensor: &PlannedTensor,
        chunk: Chunk,
        ty: GgmlType,
        weights: Option<&[f32]>,
        exact: &[f32],
        into: &mut Vec<f32>,
    ) -> Result<bool, Error> {
        let fail = |error| tensor.encode_error(chunk.row, error);
        let columns = tensor.columns() as usize;
        let source: Vec<u8> = exact.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes = ty.row_bytes(exact.len() as u64).unwrap_or(0);
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.resize(bytes as usize, 0);
        let encoder = self.encoder(tensor, ty)?;
        let float = modelve_quant::SourceType::F32;
        match encoder.encode_rows(float, &source, columns, weights, &mut blocks) {
            Ok(()) => {}
            Err(modelve_quant::Error::Overflow { .. }) => return Ok(false),
            Err(error) => return Err(fail(error)),
        }
        into.resize(exact.len(), 0.0);
        dequantize_rows(ty, &blocks, into).map_err(fail)?;
        self.blocks = blocks;
        Ok(true)
    }

    fn encoder(&mut self, tensor: &PlannedTensor, ty: GgmlType) -> Result<&mut Encoder, Error> {
        use std::collections::hash_map::Entry::{Occupied, Vacant};
        Ok(match self.encoders.entry(ty) {
            Occupied(entry) => entry.into_mut(),
            Vacant(entry) => {
                let made = Encoder::new(ty).map_err(|error| tensor.encode_error(0, error))?;
                entry.insert(made)
            }
        })
    }
}

/// The weights of the columns of some rows, if the importance matrix has any.
pub(super) fn row_weights<'a>(
    tensor: &PlannedTensor,
    imatrix: Option<&'a Imatrix>,
    chunk: Chunk,
) -> Result<Option<&'a [f32]>, Error> {
    let weights = match imatrix {
        Some(imatrix) => imatrix.weights(&tensor.name, &tensor.shape)?,
        None => None,
    };
    Ok(weights.and_then(|all| tensor.weights_of_row(all, chunk.row)))
}

fn compare(exact: &[f32], decoded: &[f32], columns: usize, weights: Option<&[f32]>) -> Sums {
    let mut sums = Sums::default();
    for (exact, decoded) in exact.chunks(columns).zip(decoded.chunks(columns)) {
        // A row is short enough for sums of 32 bits.
        let (mut error, mut whole) = (0.0f32, 0.0f32);
        let mut add = |x: f32, y: f32, weight: f32| {
            error += weight * (x - y) * (x - y);
            whole += weight * x * x;
        };
        let pairs = exact.iter().zip(decoded);
        match weights {
            Some(weights) => pairs.zip(weights).for_each(|((x, y), w)| add(*x, *y, *w)),
            None => pairs.for_each(|(x, y)| add(*x, *y, 1.0)),
        }
        sums.error += f64::from(error);
        sums.whole += f64::from(whole);
    }
    sums
}
