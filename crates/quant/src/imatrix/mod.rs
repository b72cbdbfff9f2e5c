//! Importance matrices: how much each column of a matrix matters, measured on a text by
//! `modelve imatrix` or by llama.cpp's `llama-imatrix`.
//!
//! The file is a GGUF. For the matrix `NAME` it holds `NAME.in_sum2`, the sums of the squared inputs
//! of each column, and `NAME.counts`, the number of inputs that were added up; of experts it holds
//! those of one after another (`save_imatrix` and `common_imatrix_load` in llama.cpp). Files of
//! llama.cpp's older format (`.dat`) are read, too, see `legacy`.

mod legacy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use modelve_base::infile;
use modelve_gguf::{Array, GgmlType, Gguf, Layout, Problem, TensorInfo, Value};

/// Limit in bytes of a file of the older format, which is read whole.
const MAX_LEGACY_BYTES: u64 = 4 << 30;

/// Why an importance matrix cannot be read, or does not belong to a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The GGUF file is damaged or cannot be read.
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    /// The file is not an importance matrix, or one of another model.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// What was measured of one matrix, or of the matrices of all experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    sums: Vec<f32>,
    counts: Vec<f32>,
    weights: Vec<f32>,
}

impl Entry {
    /// Makes an entry of the sums of squares of each column, of experts one after another, and the
    /// number of inputs of each matrix. Columns of an expert without inputs weigh 1, as in
    /// llama.cpp.
    ///
    /// # Errors
    /// A sentence about the matrix `name`: lengths that do not match, or values that cannot be sums
    /// of squares and counts.
    pub fn new(name: &str, sums: Vec<f32>, counts: Vec<f32>) -> Result<Self, String> {
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) || sums.is_empty() {
            return Err(format!(
                "`{name}` has {} sums and {} counts",
                sums.len(),
                counts.len()
            ));
        }
        // Weights made of other values would look sound.
        let is_sum = |x: &f32| x.is_finite() && *x >= 0.0;
        for (what, values) in [("sum", &sums), ("count", &counts)] {
            if let Some(bad) = values.iter().find(|x| !is_sum(x)) {
                return Err(format!("`{name}` holds a {what} of {bad}"));
            }
        }
        let per_count = sums.len() / counts.len();
        let mut weights = Vec::with_capacity(sums.len());
        for (sums, count) in sums.chunks(per_count).zip(&counts) {
            let count = count.round();
            weights.extend(
                sums.iter()
                    .map(|sum| if count > 0.0 { sum / count } else { 1.0 }),
            );
        }
        if !weights.iter().all(|weight| weight.is_finite()) {
            return Err(format!("`{name}` holds a weight that is not finite"));
        }
        Ok(Self {
            sums,
            counts,
            weights,
        })
    }

    /// The sums of the squared inputs, one for each column, of experts one after another.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// The number of inputs that were added up, one for each matrix.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// The mean squared input of each column, of experts one after another.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }
}

/// What a measurement needs to know to be continued, in keys of modelve's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// A digest of the tokens that are read.
    pub text: String,
    /// The model's name, architecture and size.
    pub model: String,
    /// The number of chunks of the whole text.
    pub planned: u64,
}

/// Weights for the columns of matrices.
#[derive(Debug, Clone, Default)]
pub struct Imatrix {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    datasets: Vec<String>,
    chunks: u64,
    chunk_size: u64,
    origin: Option<Origin>,
}

impl Imatrix {
    /// Makes an importance matrix of what was measured over `chunks` chunks of `chunk_size` tokens.
    /// `datasets` name the text.
    pub fn new(
        entries: BTreeMap<String, Entry>,
        datasets: Vec<String>,
        chunks: u64,
        chunk_size: u64,
        origin: Origin,
    ) -> Self {
        Self {
            path: PathBuf::new(),
            entries,
            datasets,
            chunks,
            chunk_size,
            origin: Some(origin),
        }
    }

    /// Reads an importance matrix in either of llama.cpp's formats.
    ///
    /// # Errors
    /// [`Error::Gguf`] if the file cannot be read; [`Error::Invalid`] if it is not an importance matrix.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let invalid = |problem: String| Error::Invalid {
            path: path.to_owned(),
            problem,
        };
        let mut read = match Gguf::open(path) {
            Ok(file) => Self::of_gguf(&file),
            Err(error) if matches!(error.problem, Problem::Magic(_)) => {
                let bytes = infile::regular(path, MAX_LEGACY_BYTES);
                bytes
                    .map_err(|error| error.to_string())
                    .and_then(|bytes| legacy::parse(&bytes))
            }
            Err(error) => return Err(error.into()),
        }
        .map_err(invalid)?;
        path.clone_into(&mut read.path);
        Ok(read)
    }

    fn of_gguf(file: &Gguf) -> Result<Self, String> {
        for key in [
            "imatrix.datasets",
            "imatrix.chunk_count",
            "imatrix.chunk_size",
        ] {
            if file.get(key).is_none() {
                return Err(format!("is not an importance matrix: `{key}` is missing"));
            }
        }
        let mut entries = BTreeMap::new();
        for sums in file.tensors() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else {
                continue;
            };
            let counts = file
                .tensor(&format!("{name}.counts"))
                .ok_or_else(|| format!("`{name}` has sums but no counts"))?;
            let (sums, counts) = (floats(file, sums)?, floats(file, counts)?);
            entries.insert(name.to_owned(), Entry::new(name, sums, counts)?);
        }
        if entries.is_empty() {
            return Err("is not an importance matrix: it holds no sums".into());
        }
        let datasets = file.get("imatrix.datasets").and_then(|value| {
            let list = value.as_array()?;
            let texts = list
                .iter()
                .filter_map(|text| Some(text.as_str()?.into_owned()));
            Some(texts.collect())
        });
        let number = |key: &str| file.get(key).and_then(|value| value.as_u64());
        let text = |key: &str| Some(file.get(key)?.as_str()?.into_owned());
        let origin = || {
            Some(Origin {
                text: text("modelve.imatrix.text")?,
                model: text("modelve.imatrix.model")?,
                planned: number("modelve.imatrix.planned_chunks")?,
            })
        };
        Ok(Self {
            path: PathBuf::new(),
            entries,
            datasets: datasets.unwrap_or_default(),
            chunks: number("imatrix.chunk_count").unwrap_or(0),
            chunk_size: number("imatrix.chunk_size").unwrap_or(0),
            origin: origin(),
        })
    }

    /// The bytes of the GGUF file.
    ///
    /// # Errors
    /// A name that occurs twice, which a map of entries cannot hold, or one that is too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let number = |n: u64| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
        let text = |text: &str| Value::String(text.to_owned());
        let datasets: Array = self.datasets.iter().collect();
        let mut metadata = vec![
            ("general.type", text("imatrix")),
            ("imatrix.datasets", Value::Array(datasets)),
            ("imatrix.chunk_count", number(self.chunks)),
            ("imatrix.chunk_size", number(self.chunk_size)),
        ];
        if let Some(origin) = &self.origin {
            metadata.push(("modelve.imatrix.text", text(&origin.text)));
            metadata.push(("modelve.imatrix.model", text(&origin.model)));
            metadata.push(("modelve.imatrix.planned_chunks", number(origin.planned)));
        }
        let metadata: Vec<(String, Value)> = metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let mut tensors = Vec::with_capacity(2 * self.entries.len());
        let mut data: Vec<&[f32]> = Vec::with_capacity(2 * self.entries.len());
        for (name, entry) in &self.entries {
            let matrices = entry.counts.len() as u64;
            // ggml leaves out trailing dimensions of 1.
            let shape = |columns: u64| match matrices {
                1 => vec![columns],
                _ => vec![columns, matrices],
            };
            let columns = entry.sums.len() as u64 / matrices;
            tensors.push((format!("{name}.in_sum2"), shape(columns), GgmlType::F32));
            tensors.push((format!("{name}.counts"), shape(1), GgmlType::F32));
            data.extend([entry.sums.as_slice(), &entry.counts]);
        }
        let layout = Layout::new(&metadata, &tensors)?;
        let mut bytes = layout.header().to_vec();
        for (tensor, values) in layout.tensors().iter().zip(data) {
            bytes.resize(tensor.offset as usize, 0);
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        bytes.resize(layout.file_size() as usize, 0);
        Ok(bytes)
    }

    /// The weights of a matrix of this shape (columns first), one per column, and of experts those
    /// of one after another; `None` when there are none for it. As in llama.cpp a wrong length is
    /// forgiven for the token embedding only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the file has another number of weights for it.
    pub fn weights(&self, tensor: &str, shape: &[u64]) -> Result<Option<&[f32]>, Error> {
        let columns = shape.first().copied().unwrap_or(0);
        let wanted = columns * shape.get(2).copied().unwrap_or(1);
        match self.entries.get(tensor).map(Entry::weights) {
            Some(weights) if weights.len() as u64 == wanted => Ok(Some(weights)),
            Some(weights) if tensor != "token_embd.weight" => Err(Error::Invalid {
                path: self.path.clone(),
                problem: format!(
                    "has {} weights for the {wanted} columns of `{tensor}`: it belongs to another model",
                    weights.len()
                ),
            }),
            _ => Ok(None),
        }
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was measured of each matrix, by its name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The texts it was measured on.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Number of chunks of text it was measured on.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Tokens of a chunk; 0 if the file does not say.
    pub fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// What is needed to continue the measurement; `None` in files of other programs.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        let entry =
            |sums: &[f32], counts: &[f32]| Entry::new("m", sums.to_vec(), counts.to_vec()).unwrap();
        let entries = BTreeMap::from([
            ("a.weight".to_owned(), entry(&[1.0, 2.5, 0.0], &[4.0])),
            (
                "b.weight".to_owned(),
                entry(&[3.0, 6.0, 1.0, 2.0], &[3.0, 0.0]),
            ),
        ]);
        let origin = Origin {
            text: "12ab".into(),
            model: "m".into(),
            planned: 9,
        };
        let made = Imatrix::new(entries, vec!["a.txt".into()], 7, 512, origin);
        let dir = std::env::temp_dir().join(format!("modelve-imatrix-{}", std::process::id()));
        let bytes = made.to_bytes().unwrap();
        std::fs::write(&dir, &bytes).unwrap();
        let read = Imatrix::open(&dir);
        std::fs::remove_file(&dir).unwrap();
        let read = read.unwrap();
        assert_eq!(read.entries(), made.entries());
        assert_eq!((read.chunks(), read.chunk_size()), (7, 512));
        assert_eq!(read.origin(), made.origin());
        assert_eq!(read.to_bytes().unwrap(), bytes);
        // An expert that got no input weighs all its columns alike.
        let weights = read.weights("b.weight", &[2, 5, 2]).unwrap().unwrap();
        assert_eq!(weights, [1.0, 2.0, 1.0, 1.0]);
        assert!(read.weights("a.weight", &[4, 4]).is_err());
        assert!(read.weights("c.weight", &[4, 4]).unwrap().is_none());
    }
}
