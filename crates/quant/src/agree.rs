//! Compares this crate's encoders with ggml's on the machine that the program runs on.

use super::{Encoder, Error, Isa, SourceType, row_bytes};
use modelve_gguf::GgmlType;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Returns whether this crate's encoder to `ty` gives the same bytes as ggml's on a few fixed rows.
/// The comparison runs once per type, instruction set and process, and logs its result.
pub(super) fn with_ggml(ty: GgmlType, isa: Isa) -> bool {
    static KNOWN: Mutex<Option<HashMap<(GgmlType, Isa), bool>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known
        .get_or_insert_default()
        .entry((ty, isa))
        .or_insert_with(|| {
            let both =
                Encoder::with_isa(ty, isa).and_then(|ours| Ok((ours, Encoder::by_ggml(ty)?)));
            let same = both.is_ok_and(|(ours, ggml)| agree(ours, ggml).unwrap_or(false));
            if same {
                tracing::info!("{ty}: encoded by {isa} code, with the same bytes as by ggml");
            } else {
                tracing::warn!("{ty}: encoded by ggml; here the {isa} code gives other bytes");
            }
            same
        })
}

/// Returns whether both encoders give the same bytes for 64 rows of 512 weights, with and without
/// an importance matrix. Rounding errors decide levels in many blocks of such weights: if ggml uses
/// fused multiply-adds, one to six blocks in a hundred differ.
fn agree(mut ours: Encoder, mut ggml: Encoder) -> Result<bool, Error> {
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
    let mut blocks = vec![0; ROWS * row_bytes(ours.ty(), COLUMNS)?];
    let mut expected = vec![0; ROWS * row_bytes(ggml.ty(), COLUMNS)?];
    for imatrix in [None, Some(&importance[..])] {
        let source = SourceType::F32;
        ours.encode_rows(source, &weights, COLUMNS, imatrix, &mut blocks)?;
        ggml.encode_rows(source, &weights, COLUMNS, imatrix, &mut expected)?;
        if blocks != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_other_bytes() {
        // Q4_0 and IQ4_NL have blocks of the same size.
        let ours = || Encoder::with_isa(GgmlType::Q4_0, Isa::detect().vectors()).unwrap();
        let ggml = |ty| Encoder::by_ggml(ty).unwrap();
        if cfg!(target_arch = "x86_64") {
            assert_eq!(agree(ours(), ggml(GgmlType::Q4_0)), Ok(true));
        }
        assert_eq!(agree(ours(), ggml(GgmlType::IQ4_NL)), Ok(false));
    }
}
