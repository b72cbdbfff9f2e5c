//! The encoder: checks once per call, then batches of weights through one kernel.

use super::batch::{AddSquares, BATCH, BLOCK, Batch, Encode, Format, SUPER, Scratch};
use super::narrow::{Narrow, Widen};
use super::{Error, Isa, SourceType, expect_length, ggml_ffi, row_bytes};
use super::{k_affine, k_symmetric, legacy};
use crate::gguf::GgmlType;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Encodes rows to one tensor type. It owns its scratch: make one per thread and keep it.
pub struct Encoder {
    ty: GgmlType,
    /// For widening and narrowing, and for the blocks if `own`.
    isa: Isa,
    /// Is there an encoder of our own, and does it agree with ggml here?
    own: bool,
    x: Box<[f32; BATCH]>,
    importance: Box<[f32; BATCH]>,
    row_square: Box<[f32; BATCH / BLOCK]>,
    scratch: Box<Scratch>,
    /// Rows as f32 for ggml; mean squares of rows for the older formats' importances.
    rows: Vec<f32>,
}

/// Our encoder for `ty`.
type Run = fn(Isa, Batch<'_>, &mut Scratch, &mut [u8]);

fn run<T: Format>(isa: Isa, batch: Batch<'_>, scratch: &mut Scratch, out: &mut [u8]) {
    isa.dispatch(Encode::<T> {
        batch,
        scratch,
        out,
        format: PhantomData,
    });
}

/// The formats that we encode ourselves.
fn own_format(ty: GgmlType) -> Option<Run> {
    Some(match ty {
        GgmlType::Q4_0 => run::<legacy::Q40>,
        GgmlType::Q4_1 => run::<legacy::Q41>,
        GgmlType::Q5_0 => run::<legacy::Q50>,
        GgmlType::Q5_1 => run::<legacy::Q51>,
        GgmlType::Q8_0 => run::<legacy::Q80>,
        GgmlType::Q2_K => run::<k_affine::Q2K>,
        GgmlType::Q3_K => run::<k_symmetric::Q3K>,
        GgmlType::Q4_K => run::<k_affine::Q4K>,
        GgmlType::Q5_K => run::<k_affine::Q5K>,
        GgmlType::Q6_K => run::<k_symmetric::Q6K>,
        _ => return None,
    })
}

/// Do the weights of this type go without blocks?
fn is_plain(ty: GgmlType) -> bool {
    [GgmlType::F32, GgmlType::F16, GgmlType::BF16].contains(&ty)
}

impl Encoder {
    /// An encoder to `ty` for this CPU ([`Isa::detect`]).
    ///
    /// The first for a type compares our encoder with ggml's on a few fixed blocks; where they
    /// differ, as they may if ggml was compiled to fuse multiplications with additions, ggml's is
    /// used.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn new(ty: GgmlType) -> Result<Self, Error> {
        let mut encoder = Self::with_isa(ty, Isa::detect())?;
        encoder.own = encoder.own && agrees_with_ggml(ty, encoder.isa);
        Ok(encoder)
    }

    /// An encoder to `ty` by an instruction set of choice, without the comparison.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Isa`].
    pub fn with_isa(ty: GgmlType, isa: Isa) -> Result<Self, Error> {
        if !is_plain(ty) && !ggml_ffi::encodes(ty) {
            return Err(Error::Unsupported(ty));
        }
        if !isa.is_available() {
            return Err(Error::Isa(isa));
        }
        Ok(Encoder {
            ty,
            isa,
            own: own_format(ty).is_some(),
            x: Box::new([0.0; BATCH]),
            importance: Box::new([0.0; BATCH]),
            row_square: Box::new([0.0; BATCH / BLOCK]),
            scratch: Scratch::new(),
            rows: Vec::new(),
        })
    }

    /// An encoder to `ty` that calls ggml, to compare with.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn by_ggml(ty: GgmlType) -> Result<Self, Error> {
        let mut encoder = Self::with_isa(ty, Isa::detect())?;
        encoder.own = false;
        Ok(encoder)
    }

    /// The type encoded to.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// What encodes: an instruction set of our own encoders, or `ggml`.
    pub fn kernel(&self) -> &'static str {
        if self.own || is_plain(self.ty) {
            self.isa.name()
        } else {
            "ggml"
        }
    }

    /// Encodes whole rows of `n_per_row` weights.
    ///
    /// `src` holds the rows as `source`, little-endian; `dst` is exactly as long as their blocks.
    /// `imatrix` holds one importance per column. On [`Error::Overflow`] `dst` is written all the
    /// same; after any other error its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::RowLength`], [`Error::Length`], [`Error::NeedsImatrix`], [`Error::Importance`],
    /// [`Error::NonFinite`], [`Error::Overflow`]; the first in the order of the weights.
    pub fn encode_rows(
        &mut self,
        source: SourceType,
        src: &[u8],
        n_per_row: usize,
        imatrix: Option<&[f32]>,
        dst: &mut [u8],
    ) -> Result<(), Error> {
        let row_bytes = row_bytes(self.ty, n_per_row)?;
        let source_bytes = n_per_row.saturating_mul(source.bytes());
        let rows = src.len() / source_bytes;
        expect_length("the weights", src.len(), rows * source_bytes)?;
        expect_length("the blocks", dst.len(), rows * row_bytes)?;
        if let Some(imatrix) = imatrix {
            expect_length("the importance matrix", imatrix.len(), n_per_row)?;
            let bad = |value: &f32| !(value.is_finite() && *value >= 0.0);
            if let Some(column) = imatrix.iter().position(bad) {
                return Err(Error::Importance {
                    column,
                    value: imatrix[column],
                });
            }
        } else if ggml_ffi::requires_imatrix(self.ty) {
            return Err(Error::NeedsImatrix(self.ty));
        }
        let input = Input {
            source,
            src,
            n_per_row,
        };
        if is_plain(self.ty) {
            self.convert(input, dst)
        } else if let Some(run) = own_format(self.ty).filter(|_| self.own) {
            self.encode_batches(input, imatrix, dst, run)?;
            self.check_scales(n_per_row, dst)
        } else {
            self.encode_by_ggml(input, imatrix, dst)?;
            self.check_scales(n_per_row, dst)
        }
    }

    fn encode_batches(
        &mut self,
        input: Input<'_>,
        imatrix: Option<&[f32]>,
        dst: &mut [u8],
        run: Run,
    ) -> Result<(), Error> {
        let block = self.ty.block_size().unwrap_or(1) as usize;
        let block_bytes = self.ty.block_bytes().unwrap_or(1) as usize;
        let n_per_row = input.n_per_row;
        // Q8_0 searches nothing.
        let imatrix = imatrix.filter(|_| self.ty != GgmlType::Q8_0);
        let by_row = imatrix.is_some() && block == BLOCK;
        if by_row {
            self.measure_rows(input)?;
        }
        let mut at = 0;
        for out in dst.chunks_mut(BATCH / block * block_bytes) {
            let len = out.len() / block_bytes * block;
            input.widen(self.isa, at, &mut self.x[..len])?;
            self.x[len..].fill(0.0);
            if let Some(imatrix) = imatrix {
                repeat_from(imatrix, at % n_per_row, &mut self.importance[..len]);
            }
            if by_row {
                for (b, square) in self.row_square[..len / BLOCK].iter_mut().enumerate() {
                    *square = self.rows[(at + b * BLOCK) / n_per_row];
                }
            }
            let batch = Batch {
                x: &self.x,
                importance: imatrix.map(|_| &*self.importance),
                row_square: &self.row_square,
                len,
            };
            run(self.isa, batch, &mut self.scratch, out);
            at += len;
        }
        Ok(())
    }

    /// Mean squares of the rows, each summed in order, to `self.rows`.
    fn measure_rows(&mut self, input: Input<'_>) -> Result<(), Error> {
        let (n, rows) = (input.n_per_row, input.rows());
        self.rows.clear();
        for first in (0..rows).step_by(BATCH / SUPER) {
            let count = (rows - first).min(BATCH / SUPER);
            let mut sums = [0.0; BATCH / SUPER];
            for at in (0..n).step_by(SUPER) {
                let columns = SUPER.min(n - at);
                for (row, x) in self.x.as_chunks_mut::<SUPER>().0[..count]
                    .iter_mut()
                    .enumerate()
                {
                    input.widen(self.isa, (first + row) * n + at, &mut x[..columns])?;
                }
                self.isa.dispatch(AddSquares {
                    x: &self.x,
                    columns,
                    sums: &mut sums,
                });
            }
            self.rows
                .extend(sums[..count].iter().map(|sum| sum / n as f32));
        }
        Ok(())
    }

    /// To f32, f16 or bf16.
    fn convert(&mut self, input: Input<'_>, dst: &mut [u8]) -> Result<(), Error> {
        let bytes = self.ty.block_bytes().unwrap_or(1) as usize;
        let mut overflow = None;
        for (b, out) in dst.chunks_mut(BATCH * bytes).enumerate() {
            let x = &mut self.x[..out.len() / bytes];
            input.widen(self.isa, b * BATCH, x)?;
            if self.ty == GgmlType::F32 {
                for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                    *out = x.to_le_bytes();
                }
                continue;
            }
            let bf16 = self.ty == GgmlType::BF16;
            if !self.isa.dispatch(Narrow { x, bf16, out }) {
                let exponent = if bf16 { 0x7f80 } else { 0x7c00 };
                let halves = out.as_chunks::<2>().0;
                let infinite = |h: &[u8; 2]| u16::from_le_bytes(*h) & exponent == exponent;
                let at = b * BATCH + halves.iter().position(infinite).unwrap_or(0);
                overflow.get_or_insert(at);
            }
        }
        match overflow {
            Some(at) => Err(self.overflow(at, input.n_per_row)),
            None => Ok(()),
        }
    }

    /// Rows by ggml, as many at a time as make a batch.
    fn encode_by_ggml(
        &mut self,
        input: Input<'_>,
        imatrix: Option<&[f32]>,
        dst: &mut [u8],
    ) -> Result<(), Error> {
        let row_bytes = row_bytes(self.ty, input.n_per_row)?;
        let rows = (BATCH / input.n_per_row).max(1);
        for (group, out) in dst.chunks_mut(rows * row_bytes).enumerate() {
            self.rows
                .resize(out.len() / row_bytes * input.n_per_row, 0.0);
            input.widen(self.isa, group * rows * input.n_per_row, &mut self.rows)?;
            ggml_ffi::quantize(self.ty, &self.rows, input.n_per_row, imatrix, out)?;
        }
        Ok(())
    }

    /// Are the f16 in the header of each block finite? What llama.cpp's `ggml_validate_row_data`
    /// asks of a row.
    fn check_scales(&self, n_per_row: usize, blocks: &[u8]) -> Result<(), Error> {
        let Some(info) = self.ty.info() else {
            return Ok(());
        };
        let at: &[usize] = match self.ty {
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
            GgmlType::Q2_K => &[80, 82],
            GgmlType::Q3_K => &[108],
            GgmlType::Q6_K => &[208],
            GgmlType::TQ1_0 => &[52],
            GgmlType::TQ2_0 => &[64],
            // Their scales are no f16, or are spread over the block.
            GgmlType::MXFP4 | GgmlType::NVFP4 | GgmlType::IQ1_M => &[],
            _ => &[0],
        };
        let infinite = |block: &[u8]| at.iter().any(|&at| block[at + 1] & 0x7c == 0x7c);
        match blocks
            .chunks_exact(info.block_bytes as usize)
            .position(infinite)
        {
            Some(block) => Err(self.overflow(block * info.block_size as usize, n_per_row)),
            None => Ok(()),
        }
    }

    fn overflow(&self, at: usize, n_per_row: usize) -> Error {
        Error::Overflow {
            ty: self.ty,
            row: at / n_per_row,
            column: at % n_per_row,
        }
    }
}

/// The rows of a call.
#[derive(Clone, Copy)]
struct Input<'a> {
    source: SourceType,
    src: &'a [u8],
    n_per_row: usize,
}

impl Input<'_> {
    fn rows(&self) -> usize {
        self.src.len() / self.source.bytes() / self.n_per_row
    }

    /// The weights from `at` on, counted across rows, as f32.
    fn widen(&self, isa: Isa, at: usize, to: &mut [f32]) -> Result<(), Error> {
        let bytes = self.source.bytes();
        let src = &self.src[at * bytes..(at + to.len()) * bytes];
        if isa.dispatch(Widen {
            source: self.source,
            src,
            to,
        }) {
            return Ok(());
        }
        let bad = to.iter().position(|x| !x.is_finite()).unwrap_or(0);
        Err(Error::NonFinite {
            row: (at + bad) / self.n_per_row,
            column: (at + bad) % self.n_per_row,
            value: to[bad],
        })
    }
}

/// Fills `to` with `row` over and over, from its entry `at` on.
fn repeat_from(row: &[f32], mut at: usize, mut to: &mut [f32]) {
    while !to.is_empty() {
        let n = to.len().min(row.len() - at);
        let (now, later) = to.split_at_mut(n);
        now.copy_from_slice(&row[at..at + n]);
        (at, to) = (0, later);
    }
}

/// Does our encoder give ggml's bytes on a few fixed rows? Asked once per type and process.
fn agrees_with_ggml(ty: GgmlType, isa: Isa) -> bool {
    static KNOWN: Mutex<Option<HashMap<(GgmlType, Isa), bool>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known
        .get_or_insert_default()
        .entry((ty, isa))
        .or_insert_with(|| compare_with_ggml(ty, isa).unwrap_or(false))
}

/// Encodes 64 rows of 512 weights both ways. Rounding decides levels in most blocks of such
/// weights: of blocks encoded with fused operations one to six in a hundred come out different.
fn compare_with_ggml(ty: GgmlType, isa: Isa) -> Result<bool, Error> {
    const COLUMNS: usize = 512;
    const ROWS: usize = 64;
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0
    };
    let weights: Vec<u8> = (0..ROWS * COLUMNS)
        .map(|i| {
            let bell = uniform() + uniform() + uniform() - 1.5;
            let size = if i / COLUMNS % 4 == 3 {
                uniform()
            } else {
                0.02
            };
            bell * size
        })
        .flat_map(f32::to_le_bytes)
        .collect();
    let importance: Vec<f32> = (0..COLUMNS).map(|_| uniform()).collect();
    let mut blocks = vec![0; ROWS * row_bytes(ty, COLUMNS)?];
    let mut expected = blocks.clone();
    for imatrix in [None, Some(&importance[..])] {
        let encode = |mut encoder: Encoder, out: &mut [u8]| {
            encoder.encode_rows(SourceType::F32, &weights, COLUMNS, imatrix, out)
        };
        encode(Encoder::with_isa(ty, isa)?, &mut blocks)?;
        encode(Encoder::by_ggml(ty)?, &mut expected)?;
        if blocks != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(x: &[f32]) -> Vec<u8> {
        x.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn own_encoders_are_in_use_where_ggml_does_not_fuse() {
        if !cfg!(target_arch = "x86_64") {
            return;
        }
        for info in GgmlType::all()
            .iter()
            .filter(|info| own_format(info.ty).is_some())
        {
            let encoder = Encoder::new(info.ty).unwrap();
            assert_eq!(encoder.kernel(), Isa::detect().name(), "{}", info.name);
        }
        assert_eq!(Encoder::new(GgmlType::TQ1_0).unwrap().kernel(), "ggml");
    }

    #[test]
    fn rejects_a_weight_that_is_not_finite_and_says_where() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.25; 2 * 6144];
            x[6144 + 4100] = value;
            for ty in [
                GgmlType::Q4_K,
                GgmlType::Q8_0,
                GgmlType::F16,
                GgmlType::F32,
                GgmlType::TQ1_0,
            ] {
                let mut encoder = Encoder::new(ty).unwrap();
                let mut out = vec![0; 2 * row_bytes(ty, 6144).unwrap()];
                let error = encoder.encode_rows(SourceType::F32, &bytes(&x), 6144, None, &mut out);
                let Err(Error::NonFinite {
                    row: 1,
                    column: 4100,
                    value: found,
                }) = error
                else {
                    panic!("{ty}: {error:?}");
                };
                assert_eq!(found.to_bits(), value.to_bits());
            }
        }
    }

    #[test]
    fn rejects_scales_beyond_f16_and_says_where() {
        let mut x = vec![0.25; 3 * 512];
        x[512 + 300] = 1e9;
        for (ty, column) in [
            (GgmlType::Q4_K, 256),
            (GgmlType::Q8_0, 288),
            (GgmlType::F16, 300),
            (GgmlType::Q6_K, 256),
        ] {
            let mut encoder = Encoder::new(ty).unwrap();
            let mut out = vec![0; 3 * row_bytes(ty, 512).unwrap()];
            let error = encoder.encode_rows(SourceType::F32, &bytes(&x), 512, None, &mut out);
            assert_eq!(error, Err(Error::Overflow { ty, row: 1, column }));
        }
    }

    #[test]
    fn rejects_slices_of_the_wrong_length() {
        let mut encoder = Encoder::new(GgmlType::Q4_K).unwrap();
        let x = bytes(&[0.0; 512]);
        let mut out = [0; 288];
        let mut encode = |src: &[u8], n, imatrix: Option<&[f32]>, out: &mut [u8]| {
            encoder.encode_rows(SourceType::F32, src, n, imatrix, out)
        };
        assert!(matches!(
            encode(&x, 128, None, &mut out),
            Err(Error::RowLength { .. })
        ));
        assert!(matches!(
            encode(&x, 0, None, &mut out),
            Err(Error::RowLength { .. })
        ));
        assert!(matches!(
            encode(&x[4..], 512, None, &mut out),
            Err(Error::Length { .. })
        ));
        assert!(matches!(
            encode(&x, 512, None, &mut out[1..]),
            Err(Error::Length { .. })
        ));
        assert!(matches!(
            encode(&x, 512, Some(&[1.0]), &mut out),
            Err(Error::Length { .. })
        ));
        let negative = [-1.0; 512];
        assert!(matches!(
            encode(&x, 512, Some(&negative), &mut out),
            Err(Error::Importance { column: 0, .. })
        ));
        assert_eq!(encode(&x, 512, None, &mut out), Ok(()));
        assert_eq!(encode(&[], 512, None, &mut []), Ok(()));
    }

    #[test]
    fn rejects_types_without_an_encoder() {
        assert_eq!(
            Encoder::new(GgmlType::I8).err(),
            Some(Error::Unsupported(GgmlType::I8))
        );
        assert_eq!(
            Encoder::new(GgmlType(99)).err(),
            Some(Error::Unsupported(GgmlType(99)))
        );
        let mut encoder = Encoder::new(GgmlType::IQ2_XXS).unwrap();
        let x = bytes(&[0.1; 256]);
        let mut out = [0; 66];
        let error = encoder.encode_rows(SourceType::F32, &x, 256, None, &mut out);
        assert_eq!(error, Err(Error::NeedsImatrix(GgmlType::IQ2_XXS)));
    }
}
