//! Splits the work into chunks of a few rows of one tensor, which all threads process in order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Error, Plan, Source};
use crate::arch::Arrangement;

/// Number of bytes of the checkpoint in a chunk, rounded to whole rows. With two buffers per thread
/// it bounds memory; it is large enough that the cost of a system call does not matter.
const CHUNK_BYTES: u64 = 1 << 20;

/// Minimum number of columns in a chunk of a matrix whose columns become rows: this many numbers
/// are read from each of its rows.
const LEAST_COLUMNS: u64 = 128;

/// Some rows of one tensor, all from the same matrix of the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Index in [`Plan::tensors`].
    pub(super) tensor: usize,
    /// The first row.
    pub(super) row: u64,
    /// Number of rows.
    pub(super) rows: u64,
}

/// Returns chunks of all rows of all tensors from the checkpoint, in the order of the file.
pub(super) fn chunks(plan: &Plan) -> Vec<Chunk> {
    chunks_of(plan, CHUNK_BYTES)
}

/// Like [`chunks`], with about `chunk_bytes` bytes of the checkpoint in each.
pub(super) fn chunks_of(plan: &Plan, chunk_bytes: u64) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (tensor, planned) in plan.tensors().iter().enumerate() {
        let Source::Checkpoint(parts, arrangement) = &planned.source else {
            continue;
        };
        let total = planned.elements() / planned.columns().max(1);
        // Each chunk is read from one matrix of the checkpoint.
        let each = (total / planned.slices()).max(1);
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        let row_bytes = bytes / total.max(1);
        // The encoder takes a bias as one row, which must hold all values that are reordered
        // together.
        let group = match planned.shape.len() {
            1 => 1,
            _ => arrangement.group(each),
        };
        let least = match arrangement {
            Arrangement::Columns { .. } => LEAST_COLUMNS,
            _ => 1,
        };
        let step = (chunk_bytes / row_bytes.max(1) / group).max(least) * group;
        let mut row = 0;
        while row < total {
            let rows = step.min(each - row % each).min(total - row);
            chunks.push(Chunk { tensor, row, rows });
            row += rows;
        }
    }
    chunks
}

/// Returns the memory that writing a plan takes, in bytes: the header and its sources, and for each
/// thread the largest chunk before and after encoding and the encoders' scratch.
pub fn memory(plan: &Plan, threads: usize) -> u64 {
    let largest = chunks(plan).into_iter().map(|chunk| {
        let tensor = &plan.tensors()[chunk.tensor];
        // Packed weights are read, unpacked and copied.
        let copies = match &tensor.source {
            Source::Checkpoint(parts, _) if parts.iter().any(|part| part.packed.is_some()) => 3,
            _ => 1,
        };
        let row = tensor.ty.row_bytes(tensor.columns()).unwrap_or(0);
        let row = row + copies * 4 * tensor.columns();
        chunk.rows * row
    });
    let largest = largest.max().unwrap_or(0);
    PROGRAM + 4 * plan.header().len() as u64 + threads as u64 * (largest + SCRATCH)
}

/// Size of the program, its libraries and stacks, in bytes.
const PROGRAM: u64 = 24 << 20;
/// Scratch memory of the encoders of a few types, in bytes.
const SCRATCH: u64 = 1 << 20;

/// Runs `work` on every index below `count` on several threads, each with its own state. The first
/// error stops all of them, as does `cancel`.
pub(super) fn run<S>(
    threads: usize,
    count: usize,
    cancel: &AtomicBool,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let failed = AtomicBool::new(false);
    let fail = |index: usize, error: Error| {
        failed.store(true, Ordering::Relaxed);
        let mut slot = failure.lock().unwrap_or_else(|e| e.into_inner());
        // Of several errors the first one in the file is kept, as with one thread.
        if slot.as_ref().is_none_or(|(other, _)| index < *other) {
            *slot = Some((index, error));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                let mut state = state();
                while !failed.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    if let Err(error) = work(&mut state, index) {
                        fail(index, error);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, error)) => Err(error),
        None if cancel.load(Ordering::Relaxed) => Err(Error::Interrupted),
        None => Ok(()),
    }
}
