//! Verification: checks that the written file is the planned one, and measures its distance to the
//! source.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::chunks::{chunks, run};
use super::rows::{Rows, Shards};
use super::stream::row_bytes;
use super::{Error, Plan};
use crate::checkpoint::Checkpoint;
use modelve_base::progress::{Progress, Unit};
use modelve_base::rawfile;
use modelve_gguf::{GgmlType, Gguf};
use modelve_quant::{Encoder, dequantize_rows};

/// The difference between a tensor and its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// Name in the GGUF.
    pub tensor: String,
    /// Type in the GGUF.
    pub ty: GgmlType,
    /// Root mean square of the difference divided by that of the source: 0 is exact, 1 is the value
    /// for a tensor of zeros.
    pub relative_rmse: f64,
    /// The largest absolute difference of a single weight.
    pub largest: f32,
}

/// Opens the file and compares header, size and every tensor with the plan.
pub fn check(plan: &Plan, path: &Path) -> Result<(), Error> {
    let gguf = Gguf::open(path)?;
    let differs = |problem: String| Error::Verify {
        path: path.to_owned(),
        problem,
    };
    if gguf.size_bytes() != plan.file_size() {
        let problem = format!(
            "{} bytes instead of {}",
            gguf.size_bytes(),
            plan.file_size()
        );
        return Err(differs(problem));
    }
    if gguf.tensors().len() != plan.tensors().len() {
        return Err(differs(format!("{} tensors", gguf.tensors().len())));
    }
    for (read, planned) in gguf.tensors().iter().zip(plan.tensors()) {
        let same = read.name == planned.name
            && read.shape == planned.shape
            && read.ty == planned.ty
            && read.offset == planned.offset
            && read.bytes == Some(planned.bytes);
        if !same {
            return Err(differs(format!("the tensor `{}`", planned.name)));
        }
    }
    let keys = gguf.metadata().map(|(key, _)| key);
    if !keys.eq(plan.metadata().iter().map(|(key, _)| key.as_str())) {
        return Err(differs("the keys of the metadata".into()));
    }
    Ok(())
}

/// Sums over some weights of a tensor.
#[derive(Clone, Copy, Default)]
struct Sums {
    difference: f64,
    source: f64,
    largest: f32,
}

/// Decodes every tensor and compares it with the checkpoint; largest difference first.
///
/// # Errors
/// [`Error::Verify`] for a file other than the planned one, or a tensor that is no closer to its
/// source than zeros.
pub fn measure(
    plan: &Plan,
    checkpoint: &Checkpoint,
    path: &Path,
    threads: usize,
    cancel: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Vec<Deviation>, Error> {
    check(plan, path)?;
    let written = File::open(path).map_err(|source| unreadable(path, source))?;
    let chunks = chunks(plan);
    let shards = Shards::open(plan, checkpoint)?;
    let sums: Mutex<Vec<Sums>> = Mutex::new(vec![Sums::default(); chunks.len()]);
    progress.start("verifying", Unit::Bytes, plan.source_bytes(), 0);
    let result = run(
        threads,
        chunks.len(),
        cancel,
        Worker::default,
        |worker, index| {
            let chunk = chunks[index];
            let tensor = &plan.tensors()[chunk.tensor];
            let differs = |problem: String| Error::Verify {
                path: path.to_owned(),
                problem: format!("the tensor `{}`: {problem}", tensor.name),
            };
            let (source_type, read) = shards.read(chunk, &mut worker.rows)?;
            let weights = (chunk.rows * tensor.columns()) as usize;
            worker.exact.resize(weights * 4, 0);
            if worker.widen.is_none() {
                let widen = Encoder::new(GgmlType::F32).map_err(|e| differs(e.to_string()))?;
                worker.widen = Some(widen);
            }
            if let Some(widen) = &mut worker.widen {
                let columns = tensor.columns() as usize;
                widen
                    .encode_rows(
                        source_type,
                        &worker.rows.bytes,
                        columns,
                        None,
                        &mut worker.exact,
                    )
                    .map_err(|e| differs(e.to_string()))?;
            }
            let row_bytes = row_bytes(tensor);
            worker.blocks.resize((chunk.rows * row_bytes) as usize, 0);
            let at = tensor.offset + chunk.row * row_bytes;
            rawfile::read_exact_at(&written, &mut worker.blocks, at)
                .map_err(|source| unreadable(path, source))?;
            worker.decoded.resize(weights, 0.0);
            dequantize_rows(tensor.ty, &worker.blocks, &mut worker.decoded)
                .map_err(|e| differs(e.to_string()))?;
            let sum = compare(&worker.exact, &worker.decoded);
            sums.lock().unwrap_or_else(|e| e.into_inner())[index] = sum;
            progress.advance(read);
            Ok(())
        },
    );
    progress.finish();
    result?;

    let sums = sums.into_inner().unwrap_or_else(|e| e.into_inner());
    let mut per_tensor = vec![Sums::default(); plan.tensors().len()];
    for (chunk, sum) in chunks.iter().zip(sums) {
        let total = &mut per_tensor[chunk.tensor];
        total.difference += sum.difference;
        total.source += sum.source;
        total.largest = total.largest.max(sum.largest);
    }
    // An encoder that overflows writes blocks that decode without an error, but to other weights.
    for (tensor, sums) in plan.tensors().iter().zip(&per_tensor) {
        let is_near = sums.difference.is_finite()
            && (sums.difference == 0.0 || sums.difference < sums.source);
        if !is_near {
            return Err(Error::Verify {
                path: path.to_owned(),
                problem: format!(
                    "the tensor `{}` of {} is as far from its source as zeros would be",
                    tensor.name, tensor.ty
                ),
            });
        }
    }
    let mut deviations: Vec<Deviation> = plan
        .tensors()
        .iter()
        .zip(per_tensor)
        .map(|(tensor, sums)| Deviation {
            tensor: tensor.name.clone(),
            ty: tensor.ty,
            relative_rmse: match sums.source > 0.0 {
                true => (sums.difference / sums.source).sqrt(),
                false => sums.difference.sqrt(),
            },
            largest: sums.largest,
        })
        .collect();
    deviations.sort_by(|a, b| b.relative_rmse.total_cmp(&a.relative_rmse));
    Ok(deviations)
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        what: "cannot read",
        source,
    }
}

/// The buffers of a thread, kept from chunk to chunk.
#[derive(Default)]
struct Worker {
    rows: Rows,
    exact: Vec<u8>,
    blocks: Vec<u8>,
    decoded: Vec<f32>,
    widen: Option<Encoder>,
}

fn compare(exact: &[u8], decoded: &[f32]) -> Sums {
    let mut sums = Sums::default();
    for (exact, decoded) in exact.as_chunks::<4>().0.iter().zip(decoded) {
        let exact = f32::from_le_bytes(*exact);
        let difference = exact - decoded;
        sums.largest = sums.largest.max(difference.abs());
        sums.difference += f64::from(difference) * f64::from(difference);
        sums.source += f64::from(exact) * f64::from(exact);
    }
    sums
}
