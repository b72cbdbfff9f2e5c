//! A tensor as it would be after a type: encoded, decoded, and stored in a type of plain floats, to
//! take the place of the exact one in a loaded model.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::chunks::{chunks, run};
use super::estimate::{Worker, row_weights};
use super::rows::Shards;
use super::{Error, Imatrix, Plan};
use crate::checkpoint::Checkpoint;
use modelve_gguf::GgmlType;
use modelve_quant::{Encoder, SourceType};

/// Returns the bytes of tensor number `tensor` of the plan in the type `stored` (F32, F16 or BF16),
/// after it was encoded as `ty` with the weights of the importance matrix.
///
/// # Errors
/// The errors of reading and encoding the tensor; [`Error::Interrupted`].
#[allow(clippy::too_many_arguments)]
pub fn substitute(
    plan: &Plan,
    checkpoint: &Checkpoint,
    imatrix: Option<&Imatrix>,
    tensor: usize,
    ty: GgmlType,
    stored: GgmlType,
    threads: usize,
    cancel: &AtomicBool,
) -> Result<Vec<u8>, Error> {
    let shards = Shards::open(plan, checkpoint)?;
    let mut chunks = chunks(plan);
    chunks.retain(|chunk| chunk.tensor == tensor);
    let planned = &plan.tensors()[tensor];
    let parts: Mutex<Vec<Vec<u8>>> = Mutex::new(vec![Vec::new(); chunks.len()]);
    let work = |worker: &mut Worker, index: usize| {
        let chunk = chunks[index];
        let weights = row_weights(planned, imatrix, chunk)?;
        let (mut exact, mut decoded) = (Vec::new(), Vec::new());
        worker.read(&shards, planned, chunk, &mut exact)?;
        if !worker.through(planned, chunk, ty, weights, &exact, &mut decoded)? {
            return Err(Error::Encode {
                tensor: planned.name.clone(),
                problem: format!("its weights are too large for {ty}"),
            });
        }
        let source: Vec<u8> = decoded.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut bytes = vec![0; stored.row_bytes(decoded.len() as u64).unwrap_or(0) as usize];
        let columns = planned.columns() as usize;
        Encoder::new(stored)
            .and_then(|mut narrow| {
                narrow.encode_rows(SourceType::F32, &source, columns, None, &mut bytes)
            })
            .map_err(|error| planned.encode_error(chunk.row, error))?;
        parts.lock().unwrap_or_else(|e| e.into_inner())[index] = bytes;
        Ok(())
    };
    run(threads, chunks.len(), cancel, Worker::default, work)?;
    let parts = parts.into_inner().unwrap_or_else(|e| e.into_inner());
    Ok(parts.concat())
}
