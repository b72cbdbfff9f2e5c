//! Reads tensors of a checkpoint in pieces of rows, from many threads at once.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Checkpoint, Error, Problem, SourceTensor, floats};
use modelve_base::rawfile;

/// The open shards of a checkpoint.
pub struct Shards {
    files: Vec<(PathBuf, File)>,
}

impl Shards {
    /// Opens every shard.
    ///
    /// # Errors
    /// A shard cannot be opened.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, Error> {
        Self::of(checkpoint.shards())
    }

    pub(super) fn of(paths: &[PathBuf]) -> Result<Self, Error> {
        let open = |path: &PathBuf| match File::open(path) {
            Ok(file) => Ok((path.clone(), file)),
            Err(error) => Err(Error::new(path, Problem::Unreadable(error))),
        };
        let files = paths.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { files })
    }

    /// Fills `into` with the bytes of a tensor's values, from `offset` on. They are in the order of
    /// its shape and have the type [`SourceTensor::dtype`].
    ///
    /// # Errors
    /// The shard cannot be read or is shorter than before, or packed values cannot be unpacked.
    pub fn read_at(
        &self,
        tensor: &SourceTensor,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Error> {
        let Some(packed) = &tensor.packed else {
            let (path, file) = &self.files[tensor.shard];
            return rawfile::read_exact_at(file, into, tensor.offset + offset)
                .map_err(|error| Error::new(path, Problem::Unreadable(error)));
        };
        let row_bytes = tensor.row_bytes();
        let end = offset + into.len() as u64;
        let rows = offset / row_bytes..end.div_ceil(row_bytes);
        // Part of a row, or whole rows.
        let start = rows.start * row_bytes;
        let columns = match rows.end - rows.start {
            1 => (offset - start) / 4..(end - start) / 4,
            _ => 0..tensor.columns(),
        };
        let skipped = offset - start - columns.start * 4;
        let values = packed.read(self, rows, columns)?;
        let values = values.get(skipped as usize / 4..).unwrap_or_default();
        for (bytes, value) in into.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        Ok(())
    }

    /// Advises the system that a part of a tensor will be read soon.
    pub fn will_need(&self, tensor: &SourceTensor, offset: u64, len: u64) {
        // The pieces of a packed tensor are in several places, or between those of others.
        if tensor.packed.is_none() {
            let (_, file) = &self.files[tensor.shard];
            rawfile::will_need(file, tensor.offset + offset, len);
        }
    }

    /// Reads a rectangle of a tensor in its stored form, row by row.
    fn read_stored(
        &self,
        tensor: &SourceTensor,
        rows: Range<u64>,
        columns: Range<u64>,
        into: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let size = tensor.dtype.bitsize() as u64 / 8;
        let row_bytes = tensor.row_bytes();
        let width = (columns.end - columns.start) * size;
        into.resize(((rows.end - rows.start) * width) as usize, 0);
        let (_, file) = &self.files[tensor.shard];
        let at = |row: u64| tensor.offset + row * row_bytes + columns.start * size;
        let read = match width == row_bytes {
            true => rawfile::read_exact_at(file, into, at(rows.start)),
            false => {
                let pieces = into.chunks_exact_mut(width.max(1) as usize);
                let mut pieces = rows.zip(pieces);
                pieces.try_for_each(|(row, piece)| rawfile::read_exact_at(file, piece, at(row)))
            }
        };
        read.map_err(|error| Error::new(self.path(tensor), Problem::Unreadable(error)))
    }

    /// Reads a rectangle of a stored tensor of numbers.
    pub(super) fn read_numbers(
        &self,
        tensor: &SourceTensor,
        rows: Range<u64>,
        columns: Range<u64>,
    ) -> Result<Vec<f32>, Error> {
        let mut bytes = Vec::new();
        self.read_stored(tensor, rows, columns, &mut bytes)?;
        Ok(floats::widen(tensor.dtype, &bytes))
    }

    /// Reads some consecutive numbers of a stored tensor, counted from its first, whatever its
    /// shape.
    pub(super) fn read_run(
        &self,
        tensor: &SourceTensor,
        run: Range<u64>,
    ) -> Result<Vec<f32>, Error> {
        let flat = SourceTensor {
            shape: vec![tensor.shape.iter().product()],
            ..tensor.clone()
        };
        self.read_numbers(&flat, 0..1, run)
    }

    /// Reads a rectangle of a stored tensor of 32-bit words.
    pub(super) fn read_words(
        &self,
        tensor: &SourceTensor,
        rows: Range<u64>,
        columns: Range<u64>,
    ) -> Result<Vec<u32>, Error> {
        let mut bytes = Vec::new();
        self.read_stored(tensor, rows, columns, &mut bytes)?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Reads a stored list of integers of 32 or 64 bits.
    pub(super) fn read_integers(&self, tensor: &SourceTensor) -> Result<Vec<i64>, Error> {
        let mut bytes = Vec::new();
        self.read_stored(tensor, 0..1, 0..tensor.columns(), &mut bytes)?;
        Ok(match tensor.dtype.bitsize() {
            64 => {
                let numbers = bytes.as_chunks::<8>().0.iter();
                numbers.map(|number| i64::from_le_bytes(*number)).collect()
            }
            _ => {
                let numbers = bytes.as_chunks::<4>().0.iter();
                let widen = |number: &[u8; 4]| i64::from(i32::from_le_bytes(*number));
                numbers.map(widen).collect()
            }
        })
    }

    /// Makes an error that names a tensor and its file.
    pub(super) fn error(&self, tensor: &SourceTensor, problem: impl Into<String>) -> Error {
        let problem = Problem::Tensor {
            tensor: tensor.name.clone(),
            problem: problem.into(),
        };
        Error::new(self.path(tensor), problem)
    }

    fn path(&self, tensor: &SourceTensor) -> &Path {
        &self.files[tensor.shard].0
    }
}
