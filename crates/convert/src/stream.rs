//! The stream: shards → rows → blocks → file, in one pass and constant memory.
//!
//! The plan has the place of every row in both files, so each thread takes the next few rows, reads
//! them, encodes them and writes them to their place. Reading, encoding and writing overlap across
//! threads, no thread waits for another, and the bytes are the same for any number of threads. The
//! file is written under a temporary name in the same folder and renamed last, once every byte has
//! reached the disk.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::chunks::{Chunk, chunks, run};
use super::rows::{Rows, Shards};
use super::{Error, Plan, PlannedTensor, Request, Source};
use crate::checkpoint::Checkpoint;
use modelve_base::outfile::{Existing, Outfile, Pending};
use modelve_base::progress::{Progress, Unit};
use modelve_base::rawfile;
use modelve_gguf::GgmlType;
use modelve_quant::Encoder;

/// Options of [`write()`].
pub struct Options<'a> {
    /// Number of threads that encode.
    pub threads: usize,
    /// Whether to replace an existing file.
    pub force: bool,
    /// When set, writing stops and the temporary file is removed.
    pub cancel: &'a AtomicBool,
}

/// Number of bytes after which written data is flushed to the disk. Without these flushes all of it
/// would be in memory when the last flush begins, and the threads would have nothing to do
/// meanwhile.
const SYNC_EVERY: u64 = 256 << 20;

/// Number of chunks ahead of the current one that the system is advised to read.
const READ_AHEAD: usize = 8;

/// Checks where the file goes: refuses an output that would destroy something, or for which there
/// is no space.
///
/// # Errors
/// [`Error::Output`], [`Error::Space`].
pub fn check_output(
    plan: &Plan,
    checkpoint: &Checkpoint,
    request: &Request<'_>,
    output: &Path,
    force: bool,
) -> Result<Outfile, Error> {
    let adapter = checkpoint.adapter().map(|adapter| adapter.folder.as_path());
    let folders = [Some(checkpoint.folder()), adapter].into_iter().flatten();
    let beside = folders.flat_map(std::fs::read_dir).flatten();
    let beside = beside.flatten().map(|entry| entry.path());
    let inputs = beside
        .filter(|input| is_input(input))
        .chain(checkpoint.shards().iter().cloned())
        .chain(request.imatrix.map(|imatrix| imatrix.path().to_owned()));
    let outfile = Outfile::judge(output, existing(force), inputs)?.only_a_file()?;
    let folder = outfile.folder();
    if let Some(available) = rawfile::available(folder)
        && available < plan.file_size()
    {
        return Err(Error::Space {
            path: folder.to_owned(),
            available,
            needed: plan.file_size(),
        });
    }
    Ok(outfile)
}

/// Refuses an output whose name is in use by something that must stay, or cannot be a file. It
/// needs no checkpoint, so it can be checked before gigabytes are fetched.
///
/// # Errors
/// [`Error::Output`].
pub fn check_name(output: &Path, force: bool) -> Result<(), Error> {
    let none: [&Path; 0] = [];
    Outfile::judge(output, existing(force), none)?.only_a_file()?;
    Ok(())
}

fn existing(force: bool) -> Existing {
    match force {
        true => Existing::Replace,
        false => Existing::Keep,
    }
}

/// Returns whether a file of a checkpoint folder is read by a conversion.
fn is_input(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["safetensors", "json", "model", "jinja", "md", "txt"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// Writes the planned file to `output`.
///
/// # Errors
/// In all cases nothing has changed under the name `output`, and the temporary file is removed.
pub fn write(
    plan: &Plan,
    checkpoint: &Checkpoint,
    request: &Request<'_>,
    output: &Path,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    write_aside(plan, checkpoint, request, output, options, progress)?.commit()
}

/// A complete file that does not have its name yet. Dropped, it is removed.
#[derive(Debug)]
pub struct Written {
    pending: Pending,
    output: PathBuf,
    header: usize,
}

impl Written {
    /// The temporary path of the file.
    pub fn path(&self) -> &Path {
        self.pending.path()
    }

    /// Replaces the header by that of a plan with the same tensors, whose metadata have the same
    /// lengths.
    ///
    /// # Errors
    /// [`Error::Verify`] for a header of another length; [`Error::Io`].
    pub fn replace_header(&self, plan: &Plan) -> Result<(), Error> {
        if plan.header().len() != self.header {
            return Err(Error::Verify {
                path: self.output.clone(),
                problem: "the length of the header".into(),
            });
        }
        rawfile::write_all_at(self.pending.file(), plan.header(), 0).map_err(|source| Error::Io {
            path: self.output.clone(),
            what: "cannot write",
            source,
        })
    }

    /// Gives the file its name, once every byte has reached the disk.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn commit(self) -> Result<(), Error> {
        Ok(self.pending.commit()?)
    }
}

/// Writes the planned file under a temporary name beside `output`.
///
/// # Errors
/// See [`write()`].
pub fn write_aside(
    plan: &Plan,
    checkpoint: &Checkpoint,
    request: &Request<'_>,
    output: &Path,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<Written, Error> {
    let outfile = check_output(plan, checkpoint, request, output, options.force)?;
    let failed = |what: &'static str| {
        let path = output.to_owned();
        move |source: io::Error| Error::Io { path, what, source }
    };
    let pending = outfile.begin()?;
    let target = pending.file();
    rawfile::allocate(target, plan.file_size()).map_err(failed("no room for the file"))?;
    rawfile::write_all_at(target, plan.header(), 0).map_err(failed("cannot write"))?;
    for tensor in plan.tensors() {
        if let Source::Computed(values) = &tensor.source {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            rawfile::write_all_at(target, &bytes, tensor.offset).map_err(failed("cannot write"))?;
        }
    }

    let shards = Shards::open(plan, checkpoint)?;
    let stream = Stream {
        plan,
        request,
        chunks: chunks(plan),
        shards,
        target,
        output,
    };
    progress.start("converting", Unit::Bytes, plan.source_bytes(), 0);
    let flusher = Flusher::default();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| flusher.run(target));
        let result = run(
            options.threads,
            stream.chunks.len(),
            options.cancel,
            Worker::default,
            |worker, index| {
                let chunk = stream.chunks[index];
                let (read, written) = stream.convert(worker, index, chunk)?;
                progress.advance(read);
                flusher.wrote(written);
                Ok(())
            },
        );
        flusher.stop();
        result
    });
    progress.finish();
    result?;

    Ok(Written {
        pending,
        output: output.to_owned(),
        header: plan.header().len(),
    })
}

/// The state that all threads share.
struct Stream<'a> {
    plan: &'a Plan,
    request: &'a Request<'a>,
    chunks: Vec<Chunk>,
    shards: Shards<'a>,
    target: &'a File,
    output: &'a Path,
}

/// The buffers of a thread, kept from chunk to chunk so that nothing is allocated per row.
#[derive(Default)]
struct Worker {
    rows: Rows,
    blocks: Vec<u8>,
    encoders: HashMap<GgmlType, Encoder>,
}

impl Stream<'_> {
    /// Reads, encodes and writes some rows; returns the numbers of bytes read and written.
    fn convert(
        &self,
        worker: &mut Worker,
        index: usize,
        chunk: Chunk,
    ) -> Result<(u64, u64), Error> {
        let tensor = &self.plan.tensors()[chunk.tensor];
        if let Some(ahead) = self.chunks.get(index + READ_AHEAD) {
            self.shards.announce(*ahead);
        }
        let (source_type, read) = self.shards.read(chunk, &mut worker.rows)?;

        let row_bytes = row_bytes(tensor);
        worker.blocks.resize((chunk.rows * row_bytes) as usize, 0);
        let encoder = match worker.encoders.entry(tensor.ty) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let encoder = Encoder::new(tensor.ty).map_err(|e| tensor.encode_error(0, e))?;
                entry.insert(encoder)
            }
        };
        let imatrix = match self.request.imatrix {
            Some(imatrix) => imatrix.weights(&tensor.name, &tensor.shape)?,
            None => None,
        };
        let imatrix = imatrix.and_then(|all| tensor.weights_of_row(all, chunk.row));
        encoder
            .encode_rows(
                source_type,
                &worker.rows.bytes,
                tensor.columns() as usize,
                imatrix,
                &mut worker.blocks,
            )
            .map_err(|e| tensor.encode_error(chunk.row, e))?;
        let at = tensor.offset + chunk.row * row_bytes;
        rawfile::write_all_at(self.target, &worker.blocks, at).map_err(|e| Error::Io {
            path: self.output.to_owned(),
            what: "cannot write",
            source: e,
        })?;
        Ok((read, worker.blocks.len() as u64))
    }
}

/// Returns the size of a row in the GGUF in bytes; the plan has checked that rows are whole blocks.
pub(super) fn row_bytes(tensor: &PlannedTensor) -> u64 {
    tensor.ty.row_bytes(tensor.columns()).unwrap_or(0)
}

/// Flushes written data to the disk while more is being encoded.
#[derive(Default)]
struct Flusher {
    written: AtomicU64,
    due: Mutex<Due>,
    wake: Condvar,
}

#[derive(Default)]
struct Due {
    sync: bool,
    stop: bool,
}

impl Flusher {
    fn run(&self, target: &File) {
        loop {
            let mut due = self.due.lock().unwrap_or_else(|e| e.into_inner());
            while !due.sync && !due.stop {
                due = self.wake.wait(due).unwrap_or_else(|e| e.into_inner());
            }
            if due.stop {
                return;
            }
            due.sync = false;
            drop(due);
            // Errors are returned by the last flush, whose result is checked.
            let _ = target.sync_data();
        }
    }

    fn wrote(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / SYNC_EVERY != (before + bytes) / SYNC_EVERY {
            self.tell(|due| due.sync = true);
        }
    }

    fn stop(&self) {
        self.tell(|due| due.stop = true);
    }

    fn tell(&self, change: impl FnOnce(&mut Due)) {
        change(&mut self.due.lock().unwrap_or_else(|e| e.into_inner()));
        self.wake.notify_one();
    }
}
