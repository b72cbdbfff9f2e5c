//! Reads the rows of a planned tensor from the checkpoint and arranges them as in the GGUF.
//!
//! [`super::write`] encodes these rows, and [`super::measure`] compares with them.

use super::chunks::Chunk;
use super::{Error, Plan, PlannedTensor, Source};
use crate::arch::{Arrangement, interleave};
use crate::checkpoint::{self, Checkpoint, Dtype, SourceTensor};
use modelve_gguf::GgmlType;
use modelve_quant::{SourceType, dequantize_rows};

/// The opened shards of a checkpoint.
pub(super) struct Shards<'a> {
    plan: &'a Plan,
    files: checkpoint::Shards,
}

/// The buffers of a thread, kept from chunk to chunk.
#[derive(Default)]
pub(super) struct Rows {
    /// The rows last read, in the order of the GGUF.
    pub(super) bytes: Vec<u8>,
    spare: Vec<u8>,
}

impl<'a> Shards<'a> {
    pub(super) fn open(plan: &'a Plan, checkpoint: &Checkpoint) -> Result<Self, Error> {
        Ok(Self {
            plan,
            files: checkpoint::Shards::open(checkpoint)?,
        })
    }

    /// Reads the rows of a chunk; returns their element type and the number of bytes read.
    pub(super) fn read(&self, chunk: Chunk, rows: &mut Rows) -> Result<(SourceType, u64), Error> {
        let (ty, read) = self.read_values(chunk, rows)?;
        let tensor = &self.plan.tensors()[chunk.tensor];
        Ok(match &tensor.source {
            Source::Checkpoint(parts, _) => {
                let source = Piece::new(tensor, parts, chunk).source;
                (ty, source.stored_share(read))
            }
            Source::Computed(_) => (ty, read),
        })
    }

    /// Like [`Self::read`], but returns the number of bytes of the values.
    fn read_values(&self, chunk: Chunk, rows: &mut Rows) -> Result<(SourceType, u64), Error> {
        let tensor = &self.plan.tensors()[chunk.tensor];
        let Source::Checkpoint(parts, arrangement) = &tensor.source else {
            rows.bytes.clear();
            return Ok((SourceType::F32, 0));
        };
        let piece = Piece::new(tensor, parts, chunk);
        let ty = source_type(piece.source.dtype);
        match *arrangement {
            Arrangement::Columns { first, step } => {
                return Ok((ty, self.read_columns(&piece, first, step, rows)?));
            }
            Arrangement::Every { first, step } => {
                return Ok((ty, self.read_every(&piece, first, step, rows)?));
            }
            _ => {}
        }
        let read = piece.rows * piece.row_bytes();
        rows.bytes.resize(read as usize, 0);
        self.read_at(&piece, piece.first * piece.row_bytes(), &mut rows.bytes)?;
        match *arrangement {
            Arrangement::InterleaveHalves { .. } => {
                // The encoder takes a bias as one row, which must hold all values that are
                // reordered together.
                let all = piece.source.shape.first().copied().unwrap_or(1).max(1);
                let row_bytes = (piece.source.bytes / all) as usize;
                let group = arrangement.group(all);
                interleave(&mut rows.bytes, group, row_bytes, &mut rows.spare);
            }
            Arrangement::Add(number) => {
                add(ty, number, rows).map_err(|e| Error::Encode {
                    tensor: tensor.name.clone(),
                    problem: e.to_string(),
                })?;
                return Ok((SourceType::F32, read));
            }
            Arrangement::AsIs | Arrangement::Columns { .. } | Arrangement::Every { .. } => {}
        }
        Ok((ty, read))
    }

    /// Tells the system that a chunk will be read soon.
    pub(super) fn announce(&self, chunk: Chunk) {
        let tensor = &self.plan.tensors()[chunk.tensor];
        // The columns of a matrix are spread all over it, so the first of its chunks reads most of
        // its pages.
        if let Source::Checkpoint(parts, arrangement) = &tensor.source
            && !matches!(
                arrangement,
                Arrangement::Columns { .. } | Arrangement::Every { .. }
            )
        {
            let piece = Piece::new(tensor, parts, chunk);
            let offset = piece.start + piece.first * piece.row_bytes();
            let len = piece.rows * piece.row_bytes();
            self.files.will_need(piece.source, offset, len);
        }
    }

    /// Reads from `offset` on, in bytes from the start of the piece's matrix.
    fn read_at(&self, piece: &Piece<'_>, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let at = piece.start + offset;
        Ok(self.files.read_at(piece.source, at, into)?)
    }

    /// Reads some columns of a matrix as rows: the same strip of each of its rows, transposed.
    /// Returns the number of bytes read.
    fn read_columns(
        &self,
        piece: &Piece<'_>,
        first: u64,
        step: u64,
        rows: &mut Rows,
    ) -> Result<u64, Error> {
        let size = piece.element();
        let (count, height) = (piece.rows as usize, piece.columns as usize);
        let width = piece.source.shape.last().copied().unwrap_or(0);
        let strip = ((piece.rows - 1) * step + 1) as usize * size;
        rows.bytes.resize(count * height * size, 0);
        rows.spare.resize(strip, 0);
        for from in 0..height {
            let column = first + piece.first * step;
            let offset = (from as u64 * width + column) * size as u64;
            self.read_at(piece, offset, &mut rows.spare)?;
            let elements = rows.spare.chunks(step as usize * size);
            for (to, element) in elements.enumerate() {
                let at = (to * height + from) * size;
                rows.bytes[at..at + size].copy_from_slice(&element[..size]);
            }
        }
        Ok((height * strip) as u64)
    }

    /// Reads rows and keeps some values of each.
    fn read_every(
        &self,
        piece: &Piece<'_>,
        first: u64,
        step: u64,
        rows: &mut Rows,
    ) -> Result<u64, Error> {
        let (size, step) = (piece.element(), step as usize);
        let read = piece.rows * piece.row_bytes() * step as u64;
        rows.spare.resize(read as usize, 0);
        self.read_at(
            piece,
            piece.first * piece.row_bytes() * step as u64,
            &mut rows.spare,
        )?;
        rows.bytes.clear();
        let elements = rows.spare.chunks_exact(size).skip(first as usize);
        elements
            .step_by(step)
            .for_each(|element| rows.bytes.extend_from_slice(element));
        Ok(read)
    }
}

/// The part of the checkpoint that a chunk is read from.
struct Piece<'a> {
    source: &'a SourceTensor,
    /// Where its matrix starts, in bytes from the start of `source`.
    start: u64,
    /// The first of its rows, counted in rows of the GGUF within the matrix.
    first: u64,
    rows: u64,
    columns: u64,
}

impl<'a> Piece<'a> {
    fn new(tensor: &PlannedTensor, parts: &'a [SourceTensor], chunk: Chunk) -> Self {
        let columns = tensor.columns();
        let slices = tensor.slices();
        let each = (tensor.elements() / columns.max(1) / slices).max(1);
        let slice = chunk.row / each;
        // Each matrix is a tensor of its own, or all are in one tensor.
        let (source, within) = match parts {
            [one] => (one, slice),
            _ => (&parts[slice as usize], 0),
        };
        Self {
            source,
            start: source.bytes / slices * within,
            first: chunk.row % each,
            rows: chunk.rows,
            columns,
        }
    }

    /// Size of an element in bytes.
    fn element(&self) -> usize {
        source_type(self.source.dtype).bytes()
    }

    fn row_bytes(&self) -> u64 {
        self.columns * self.element() as u64
    }
}

/// Returns the encoder's name for an element type; the plan has refused all others.
fn source_type(dtype: Dtype) -> SourceType {
    match dtype {
        Dtype::BF16 => SourceType::Bf16,
        Dtype::F16 => SourceType::F16,
        _ => SourceType::F32,
    }
}

/// Adds a number to each element; the results are F32.
fn add(ty: SourceType, number: f32, rows: &mut Rows) -> Result<(), modelve_quant::Error> {
    let stored = match ty {
        SourceType::Bf16 => GgmlType::BF16,
        SourceType::F16 => GgmlType::F16,
        SourceType::F32 => GgmlType::F32,
    };
    let mut values = vec![0.0; rows.bytes.len() / ty.bytes()];
    dequantize_rows(stored, &rows.bytes, &mut values)?;
    rows.bytes.clear();
    let sums = values
        .iter()
        .flat_map(|value| (value + number).to_le_bytes());
    rows.bytes.extend(sums);
    Ok(())
}
