//! The encoder: it checks the arguments once per call, then passes batches of weights to one
//! kernel.

use super::batch::{AddSquares, BATCH, BLOCK, Batch, Encode, Format, ImatrixUse, SUPER, Scratch};
use super::input::{Input, repeat_from};
use super::lanes::Dispatch;
use super::narrow::Narrow;
use super::{Error, Isa, SourceType, agree, expect_length, ggml_ffi, row_bytes};
use super::{k_affine, k_symmetric, legacy, nonlinear};
use modelve_gguf::GgmlType;
use std::marker::PhantomData;

/// Encodes rows to one tensor type. It owns its scratch memory, so make one per thread and reuse
/// it.
pub struct Encoder {
    ty: GgmlType,
    /// The instruction set for converting between float types and, if `native`, for the blocks.
    isa: Isa,
    /// Whether this crate's own encoder is used: there is one for the type, and its bytes are
    /// ggml's on this machine.
    native: bool,
    x: Box<[f32; BATCH]>,
    importance: Box<[f32; BATCH]>,
    row_square: Box<[f32; BATCH / BLOCK]>,
    scratch: Box<Scratch>,
    /// Rows as f32 for ggml's encoder; the mean square of each row for [`ImatrixUse::WithRowSquares`].
    rows: Vec<f32>,
    /// The index of the first weight of the call that is too large for any block.
    beyond: Option<usize>,
}

/// An encoder that this crate implements, for one format.
#[derive(Clone, Copy)]
struct NativeEncoder {
    run: fn(Isa, Batch<'_>, &mut Scratch, &mut [u8]),
    imatrix_use: ImatrixUse,
}

fn native<T: Format>() -> NativeEncoder {
    NativeEncoder {
        run: |isa, batch, scratch, out| {
            isa.dispatch(Encode::<T> {
                batch,
                scratch,
                out,
                format: PhantomData,
            });
        },
        imatrix_use: T::IMATRIX_USE,
    }
}

/// The encoder for `ty` that this crate implements; `None` for formats that only ggml encodes.
fn native_encoder(ty: GgmlType) -> Option<NativeEncoder> {
    Some(match ty {
        GgmlType::Q4_0 => native::<legacy::Q40>(),
        GgmlType::Q4_1 => native::<legacy::Q41>(),
        GgmlType::Q5_0 => native::<legacy::Q50>(),
        GgmlType::Q5_1 => native::<legacy::Q51>(),
        GgmlType::Q8_0 => native::<legacy::Q80>(),
        GgmlType::Q2_K => native::<k_affine::Q2K>(),
        GgmlType::Q3_K => native::<k_symmetric::Q3K>(),
        GgmlType::Q4_K => native::<k_affine::Q4K>(),
        GgmlType::Q5_K => native::<k_affine::Q5K>(),
        GgmlType::Q6_K => native::<k_symmetric::Q6K>(),
        GgmlType::IQ4_NL => native::<nonlinear::Iq4Nl>(),
        GgmlType::IQ4_XS => native::<nonlinear::Iq4Xs>(),
        _ => return None,
    })
}

/// No block can hold a weight of larger magnitude: the largest f16 scale, times a sub-block scale
/// of at most 128, times a level of at most 128.
const MAX_WEIGHT: f32 = 65504.0 * 128.0 * 128.0;

/// Returns whether the type stores each weight as a float of its own, without blocks.
fn is_plain(ty: GgmlType) -> bool {
    [GgmlType::F32, GgmlType::F16, GgmlType::BF16].contains(&ty)
}

impl Encoder {
    /// Makes an encoder to `ty` for this CPU ([`Isa::detect`]).
    ///
    /// The first call for a type compares this crate's encoder with ggml's on a few fixed blocks.
    /// Where they differ, as they may if ggml was compiled to fuse multiplications with additions,
    /// ggml's encoder is used.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn new(ty: GgmlType) -> Result<Self, Error> {
        let mut encoder = Self::with_isa(ty, Isa::detect().vectors())?;
        encoder.native = encoder.native && agree::with_ggml(ty, encoder.isa);
        Ok(encoder)
    }

    /// Makes an encoder to `ty` for the given instruction set, without comparing it with ggml's.
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
            native: native_encoder(ty).is_some(),
            x: Box::new([0.0; BATCH]),
            importance: Box::new([0.0; BATCH]),
            row_square: Box::new([0.0; BATCH / BLOCK]),
            scratch: Scratch::new(),
            rows: Vec::new(),
            beyond: None,
        })
    }

    /// Makes an encoder to `ty` that calls ggml's, as the reference in comparisons.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn by_ggml(ty: GgmlType) -> Result<Self, Error> {
        let mut encoder = Self::with_isa(ty, Isa::detect().vectors())?;
        encoder.native = false;
        Ok(encoder)
    }

    /// The type that weights are encoded to.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// The name of the implementation: the instruction set if it is this crate's, else `ggml`.
    pub fn kernel(&self) -> &'static str {
        if self.native || is_plain(self.ty) {
            self.isa.name()
        } else {
            "ggml"
        }
    }

    /// Encodes whole rows of `n_per_row` weights.
    ///
    /// `src` holds the rows as little-endian `source`; `dst` is exactly as long as their blocks.
    /// `imatrix` holds one importance per column. On [`Error::Overflow`] `dst` is still written for
    /// types that this crate encodes; after any other error its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::RowLength`], [`Error::Length`], [`Error::NeedsImatrix`] and [`Error::Importance`]
    /// for the arguments; [`Error::NonFinite`] and [`Error::Overflow`] for the first weight at
    /// fault.
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
        } else {
            self.beyond = None;
            match native_encoder(self.ty).filter(|_| self.native) {
                Some(native) => self.encode_batches(input, imatrix, dst, native)?,
                None => self.encode_by_ggml(input, imatrix, dst)?,
            }
            self.check_scales(n_per_row, dst)
        }
    }

    /// Encodes the rows with this crate's encoder.
    fn encode_batches(
        &mut self,
        input: Input<'_>,
        imatrix: Option<&[f32]>,
        dst: &mut [u8],
        native: NativeEncoder,
    ) -> Result<(), Error> {
        let block = self.ty.block_size().unwrap_or(1) as usize;
        let block_bytes = self.ty.block_bytes().unwrap_or(1) as usize;
        let n_per_row = input.n_per_row;
        let imatrix = imatrix.filter(|_| native.imatrix_use != ImatrixUse::Ignored);
        let by_row = imatrix.is_some() && native.imatrix_use == ImatrixUse::WithRowSquares;
        if by_row {
            self.measure_rows(input)?;
        }
        let mut at = 0;
        for out in dst.chunks_mut(BATCH / block * block_bytes) {
            let len = out.len() / block_bytes * block;
            input.widen(self.isa, at, &mut self.x[..len])?;
            self.x[len..].fill(0.0);
            self.note_range(true, len, at);
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
            (native.run)(self.isa, batch, &mut self.scratch, out);
            at += len;
        }
        Ok(())
    }

    /// Writes the mean square of each row to `self.rows`. Each sum is in the order of the weights.
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

    /// Converts the rows to f32, f16 or bf16.
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

    /// Encodes the rows with ggml's encoder, in groups of rows of about a batch.
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
            let at = group * rows * input.n_per_row;
            input.widen(self.isa, at, &mut self.rows)?;
            self.note_range(false, self.rows.len(), at);
            if native_encoder(self.ty).is_none() {
                self.check_search(at, input.n_per_row, imatrix)?;
            }
            ggml_ffi::quantize(self.ty, &self.rows, input.n_per_row, imatrix, out)?;
        }
        Ok(())
    }

    /// Checks that the f16 scales in the header of each block are finite, as llama.cpp's
    /// `ggml_validate_row_data` does, and that no weight was too large for its block.
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
            // The scales of these types are not f16, or are distributed over the block.
            GgmlType::MXFP4 | GgmlType::NVFP4 | GgmlType::IQ1_M => &[],
            _ => &[0],
        };
        let infinite = |block: &[u8]| at.iter().any(|&at| block[at + 1] & 0x7c == 0x7c);
        let size = info.block_size as usize;
        let mut headers = blocks.chunks_exact(info.block_bytes as usize);
        let infinite = headers.position(infinite).map(|block| block * size);
        let beyond = self.beyond.map(|at| self.block_of(at));
        // So large a weight makes the mean square of its row infinite, and with it the scales of
        // earlier blocks in the row. Within a row, the weight at fault is reported.
        let row = |at: &usize| at / n_per_row;
        match beyond.into_iter().chain(infinite).min_by_key(row) {
            Some(at) => Err(self.overflow(at, n_per_row)),
            None => Ok(()),
        }
    }

    /// Remembers the first weight that is too large for a block with f16 scales, among the `len`
    /// weights that start at `at`. The searches for a scale sum up powers of weights, which
    /// overflow for such weights, and the result would be a block of zeros that passes for valid.
    fn note_range(&mut self, native: bool, len: usize, at: usize) {
        // The scales of these types have the range of f32.
        if self.beyond.is_some() || matches!(self.ty, GgmlType::MXFP4 | GgmlType::NVFP4) {
            return;
        }
        let x = match native {
            true => &self.x[..len],
            false => &self.rows[..len],
        };
        // The compiler vectorizes the search for the maximum, but not that for a position.
        if x.iter().fold(0.0f32, |most, x| most.max(x.abs())) > MAX_WEIGHT {
            let bad = x.iter().position(|x| x.abs() > MAX_WEIGHT);
            self.beyond = bad.map(|bad| at + bad);
        }
    }

    /// Rejects rows on which ggml's searches would overflow, for formats that only ggml encodes.
    /// They sum up cubes of weights times importances, and those that look for grid points abort
    /// the process on an overflow.
    fn check_search(
        &self,
        at: usize,
        n_per_row: usize,
        imatrix: Option<&[f32]>,
    ) -> Result<(), Error> {
        const MAX_CUBE: f64 = 1e30;
        if let Some(beyond) = self.beyond {
            return Err(self.overflow(self.block_of(beyond), n_per_row));
        }
        let importance = imatrix
            .into_iter()
            .flatten()
            .fold(1.0, |most, &x| x.max(most));
        let largest = self.rows.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        if f64::from(largest).powi(3) * f64::from(importance) <= MAX_CUBE {
            return Ok(());
        }
        let bad = self
            .rows
            .iter()
            .position(|x| x.abs() == largest)
            .unwrap_or(0);
        Err(self.overflow(self.block_of(at + bad), n_per_row))
    }

    /// The index of the first weight of the block that holds weight `at`.
    fn block_of(&self, at: usize) -> usize {
        let size = self.ty.block_size().unwrap_or(1) as usize;
        at / size * size
    }

    fn overflow(&self, at: usize, n_per_row: usize) -> Error {
        Error::Overflow {
            ty: self.ty,
            row: at / n_per_row,
            column: at % n_per_row,
        }
    }
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
            .filter(|info| native_encoder(info.ty).is_some())
        {
            let encoder = Encoder::new(info.ty).unwrap();
            assert_eq!(
                encoder.kernel(),
                Isa::detect().vectors().name(),
                "{}",
                info.name
            );
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
    fn rejects_weights_that_the_search_for_a_scale_overflows_on() {
        for info in GgmlType::all()
            .iter()
            .filter(|info| Encoder::new(info.ty).is_ok())
        {
            if is_plain(info.ty) || [GgmlType::MXFP4, GgmlType::NVFP4].contains(&info.ty) {
                continue;
            }
            let imatrix = [1.0; 512];
            for large in [2e9, 1e13, 1e20, 3.4e38] {
                let mut x = vec![0.25; 3 * 512];
                x[512 + 300] = -large;
                let mut encoder = Encoder::new(info.ty).unwrap();
                let mut out = vec![0; 3 * row_bytes(info.ty, 512).unwrap()];
                let error =
                    encoder.encode_rows(SourceType::F32, &bytes(&x), 512, Some(&imatrix), &mut out);
                let size = info.block_size as usize;
                let column = 300 / size * size;
                let ty = info.ty;
                assert_eq!(
                    error,
                    Err(Error::Overflow { ty, row: 1, column }),
                    "{large:e}"
                );
            }
        }
    }

    #[test]
    fn rejects_importances_that_the_search_for_a_grid_point_overflows_on() {
        for ty in [
            GgmlType::IQ2_XXS,
            GgmlType::IQ2_S,
            GgmlType::IQ3_XXS,
            GgmlType::IQ3_S,
            GgmlType::IQ1_S,
            GgmlType::IQ1_M,
        ] {
            let mut encoder = Encoder::new(ty).unwrap();
            let x = bytes(&[1e4; 256]);
            let mut out = vec![0; row_bytes(ty, 256).unwrap()];
            for (importance, refused) in [(1e9, false), (1e25, true), (3e38, true)] {
                let imatrix = [importance; 256];
                let done = encoder.encode_rows(SourceType::F32, &x, 256, Some(&imatrix), &mut out);
                assert_eq!(done.is_err(), refused, "{ty} {importance:e}: {done:?}");
            }
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
