//! The difference between the weights of two files.

use rayon::prelude::*;
use serde::Serialize;

use modelve_gguf::{Gguf, TensorInfo};
use modelve_quant::dequantize_rows;
use modelve_runtime::Cancel;

/// The difference between one tensor in two files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorError {
    /// Its name.
    pub name: String,
    /// Its type in the first file.
    pub type_a: String,
    /// Its type in the second.
    pub type_b: String,
    /// Relative error √(Σ (a − b)² / Σ a²); `None` where a type cannot be decoded.
    pub error: Option<f64>,
}

/// Compares the tensors of two files, largest error first. Tensors that only one file has, or whose
/// shapes differ, are left out. `on_progress` gets the number of bytes read of the first file, from
/// any thread; when `cancel` is set, the results so far are returned.
pub fn tensor_errors(
    a: &Gguf,
    b: &Gguf,
    cancel: &Cancel,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Vec<TensorError> {
    let pairs: Vec<(&TensorInfo, &TensorInfo)> = a
        .tensors()
        .iter()
        .filter_map(|of_a| Some((of_a, b.tensor(&of_a.name)?)))
        .filter(|(of_a, of_b)| of_a.shape == of_b.shape)
        .collect();
    let mut errors: Vec<TensorError> = pairs
        .into_par_iter()
        .filter_map(|(of_a, of_b)| {
            if cancel.is_set() {
                return None;
            }
            let same = of_a.ty == of_b.ty && a.data(of_a) == b.data(of_b);
            let error = if same {
                Some(0.0)
            } else {
                relative_error(a, of_a, b, of_b)
            };
            on_progress(of_a.bytes.unwrap_or(0));
            (error != Some(0.0)).then(|| TensorError {
                name: of_a.name.clone(),
                type_a: of_a.ty.name().into_owned(),
                type_b: of_b.ty.name().into_owned(),
                error,
            })
        })
        .collect();
    errors.sort_by(|x, y| {
        let by_error = y.error.unwrap_or(-1.0).total_cmp(&x.error.unwrap_or(-1.0));
        by_error.then_with(|| x.name.cmp(&y.name))
    });
    errors
}

/// Number of weights decoded at once: whole blocks of every type, small enough for the cache.
const PIECE: usize = 1 << 15;

fn relative_error(a: &Gguf, of_a: &TensorInfo, b: &Gguf, of_b: &TensorInfo) -> Option<f64> {
    let n = usize::try_from(of_a.n_elements()).ok()?;
    let (data_a, data_b) = (a.data(of_a), b.data(of_b));
    let mut values = [vec![0f32; PIECE.min(n)], vec![0f32; PIECE.min(n)]];
    let (mut difference, mut square) = (0.0, 0.0);
    let mut done = 0;
    while done < n {
        let here = PIECE.min(n - done);
        for ((values, data), info) in values.iter_mut().zip([data_a, data_b]).zip([of_a, of_b]) {
            let from = usize::try_from(info.ty.row_bytes(done as u64)?).ok()?;
            let to = usize::try_from(info.ty.row_bytes((done + here) as u64)?).ok()?;
            dequantize_rows(info.ty, data.get(from..to)?, &mut values[..here]).ok()?;
        }
        for (&x, &y) in values[0][..here].iter().zip(&values[1]) {
            difference += f64::from(x - y).powi(2);
            square += f64::from(x).powi(2);
        }
        done += here;
    }
    match square {
        0.0 => Some(if difference == 0.0 {
            0.0
        } else {
            f64::INFINITY
        }),
        _ => Some((difference / square).sqrt()),
    }
}
