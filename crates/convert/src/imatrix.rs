//! Importance matrices: how much each column of a matrix matters, measured on a text by
//! llama.cpp's `llama-imatrix`.
//!
//! The file is a GGUF. For the matrix `NAME` it holds `NAME.in_sum2`, the sums of the squared
//! inputs per column, and `NAME.counts`, over how many tokens (`common_imatrix_load` and
//! `load_imatrix` in llama.cpp).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Error;
use modelve_gguf::{GgmlType, Gguf, TensorInfo};

/// Weights for the columns of matrices.
#[derive(Debug)]
pub struct Imatrix {
    path: PathBuf,
    weights: BTreeMap<String, Vec<f32>>,
    datasets: Vec<String>,
    chunks: u64,
}

impl Imatrix {
    /// Reads an importance matrix in the GGUF format.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = |problem: String| Error::Imatrix {
            path: path.to_owned(),
            problem,
        };
        let file = Gguf::open(path)?;
        for key in [
            "imatrix.datasets",
            "imatrix.chunk_count",
            "imatrix.chunk_size",
        ] {
            if file.get(key).is_none() {
                return Err(error(format!(
                    "is not an importance matrix: `{key}` is missing"
                )));
            }
        }
        let mut weights = BTreeMap::new();
        for sums in file.tensors() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else {
                continue;
            };
            let counts = file
                .tensor(&format!("{name}.counts"))
                .ok_or_else(|| error(format!("`{name}` has sums but no counts")))?;
            let sums = floats(&file, sums).map_err(error)?;
            let counts = floats(&file, counts).map_err(error)?;
            weights.insert(name.to_owned(), mean(name, &sums, &counts).map_err(error)?);
        }
        if weights.is_empty() {
            return Err(error(
                "is not an importance matrix: it holds no sums".into(),
            ));
        }
        let datasets = file.get("imatrix.datasets").and_then(|value| {
            let list = value.as_array()?;
            Some(
                list.iter()
                    .filter_map(|v| Some(v.as_str()?.into_owned()))
                    .collect(),
            )
        });
        Ok(Self {
            path: path.to_owned(),
            weights,
            datasets: datasets.unwrap_or_default(),
            chunks: file
                .get("imatrix.chunk_count")
                .and_then(|value| value.as_u64())
                .unwrap_or(0),
        })
    }

    /// Returns the weights of a matrix of this shape (columns first), one per column; for experts
    /// those of one expert after another. `None` if the file has none for it. As in llama.cpp, a
    /// wrong length is only tolerated for the token embedding.
    pub fn weights(&self, tensor: &str, shape: &[u64]) -> Result<Option<&[f32]>, Error> {
        let columns = shape.first().copied().unwrap_or(0);
        let wanted = columns * shape.get(2).copied().unwrap_or(1);
        match self.weights.get(tensor) {
            Some(weights) if weights.len() as u64 == wanted => Ok(Some(weights)),
            Some(weights) if tensor != "token_embd.weight" => Err(Error::Imatrix {
                path: self.path.clone(),
                problem: format!(
                    "has {} weights for the {wanted} columns of `{tensor}`: it belongs to another model",
                    weights.len()
                ),
            }),
            _ => Ok(None),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of matrices with weights.
    pub fn entries(&self) -> usize {
        self.weights.len()
    }

    /// The texts it was measured on.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Number of chunks of text it was measured on.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }
}

fn floats(file: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>, String> {
    if tensor.ty != GgmlType::F32 {
        return Err(format!("`{}` is {}, not F32", tensor.name, tensor.ty));
    }
    let (chunks, _) = file.data(tensor).as_chunks::<4>();
    Ok(chunks
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

/// Divides sums by counts. A matrix of experts has one count per expert; 0 means that it was never
/// used.
fn mean(name: &str, sums: &[f32], counts: &[f32]) -> Result<Vec<f32>, String> {
    if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) || sums.is_empty() {
        return Err(format!(
            "`{name}` has {} sums and {} counts",
            sums.len(),
            counts.len()
        ));
    }
    // Sums of squares and counts are not negative; anything else is damage that the weights would
    // not show.
    let is_sum = |x: &f32| x.is_finite() && *x >= 0.0;
    for (what, values) in [("sum", sums), ("count", counts)] {
        if let Some(bad) = values.iter().find(|x| !is_sum(x)) {
            return Err(format!("`{name}` holds a {what} of {bad}"));
        }
    }
    let per_count = sums.len() / counts.len();
    let mut weights = Vec::with_capacity(sums.len());
    for (sums, count) in sums.chunks(per_count).zip(counts) {
        let count = count.round();
        weights.extend(
            sums.iter()
                .map(|sum| if count > 0.0 { sum / count } else { 1.0 }),
        );
    }
    match weights.iter().all(|weight| weight.is_finite()) {
        true => Ok(weights),
        false => Err(format!("`{name}` holds a weight that is not finite")),
    }
}
