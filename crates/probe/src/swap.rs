//! The effect of quantization on single tensors: the first file is run with one tensor of the
//! second file at a time.
//!
//! llama.cpp loads split models. The first file is written out once as parts, with each tensor of
//! interest in a part of its own; a swap then replaces one of these parts.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::math::{Distribution, Mean, Reference};
use super::{Error, Result};
use modelve_gguf::{Array, GgmlType, Gguf, Layout, TensorInfo, Value, ValueRef, ValueType};
use modelve_runtime::{Session, Token, WantLogits};

/// The effect of replacing one tensor with that of the second file.
#[derive(Debug, Clone, Serialize)]
pub struct Swap {
    /// Name of the tensor.
    pub name: String,
    /// Its type in the first file.
    pub type_a: String,
    /// Its type in the second.
    pub type_b: String,
    /// Mean KL divergence D(first ‖ first with this tensor) in nats.
    pub kl_mean: f64,
    /// Standard error of that mean.
    pub kl_error: f64,
}

/// The first model split into parts, in a temporary folder that is removed on drop.
pub struct Parts {
    folder: tempfile::TempDir,
    names: Vec<String>,
}

impl Parts {
    /// Writes the tensors of the first file, with those in `names` in parts of their own, and the
    /// `names` of the second file. `on_progress` gets the number of bytes written.
    ///
    /// # Errors
    /// The temporary folder is full or cannot be written.
    pub fn write(
        a: &Gguf,
        b: &Gguf,
        names: &[String],
        on_progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let temporary = std::env::temp_dir();
        let folder = tempfile::Builder::new().prefix("modelve-swap-").tempdir();
        let folder = folder.map_err(|source| Error::Write {
            path: temporary,
            source,
        })?;
        let count = names.len() + 1;
        let n_tensors = a.tensors().len();
        let mut metadata: Vec<(String, Value)> = a
            .metadata()
            .filter(|(key, _)| !key.starts_with("split."))
            .filter_map(|(key, value)| Some((key.to_owned(), owned(value)?)))
            .collect();
        let rest: Vec<&TensorInfo> = a
            .tensors()
            .iter()
            .filter(|tensor| !names.contains(&tensor.name))
            .collect();
        let split = |no: usize| {
            [
                ("split.no".to_owned(), Value::U16(no as u16)),
                ("split.count".to_owned(), Value::U16(count as u16)),
                (
                    "split.tensors.count".to_owned(),
                    Value::I32(n_tensors as i32),
                ),
            ]
        };
        metadata.extend(split(0));
        let path = folder.path().join("rest");
        write_part(&path, &metadata, a, &rest, on_progress)?;
        let alignment = a.alignment().try_into().unwrap_or(32u32);
        for (i, name) in names.iter().enumerate() {
            let mut metadata = split(i + 1).to_vec();
            metadata.push(("general.alignment".to_owned(), Value::U32(alignment)));
            for (side, gguf) in [("a", a), ("b", b)] {
                let Some(tensor) = gguf.tensor(name) else {
                    continue;
                };
                let path = folder.path().join(format!("{side}{i}"));
                write_part(&path, &metadata, gguf, &[tensor], on_progress)?;
            }
        }
        Ok(Parts {
            folder,
            names: names.to_vec(),
        })
    }

    /// Approximate number of bytes that [`Parts::write`] writes.
    pub fn bytes(a: &Gguf, b: &Gguf, names: &[String]) -> u64 {
        let of_b = names.iter().filter_map(|name| b.tensor(name)?.bytes);
        a.size_bytes() + of_b.sum::<u64>()
    }

    /// Returns the path of the first model with tensor number `swapped` taken from the second file;
    /// `None` means no swap. The path is valid until the next call.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn with(&self, swapped: Option<usize>) -> Result<PathBuf> {
        let count = self.names.len() + 1;
        let place = |no: usize| {
            let name = format!("swapped-{:05}-of-{count:05}.gguf", no + 1);
            self.folder.path().join(name)
        };
        for no in 0..count {
            let source = match no.checked_sub(1) {
                None => "rest".to_owned(),
                Some(i) if swapped == Some(i) => format!("b{i}"),
                Some(i) => format!("a{i}"),
            };
            let path = place(no);
            let link = || -> std::io::Result<()> {
                if path.exists() {
                    std::fs::remove_file(&path)?;
                }
                std::fs::hard_link(self.folder.path().join(source), &path)
            };
            link().map_err(|source| Error::Write {
                path: path.clone(),
                source,
            })?;
        }
        Ok(place(0))
    }
}

fn write_part(
    path: &Path,
    metadata: &[(String, Value)],
    gguf: &Gguf,
    tensors: &[&TensorInfo],
    on_progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let infos: Vec<(String, Vec<u64>, GgmlType)> = tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.shape.clone(), tensor.ty))
        .collect();
    let layout = Layout::new(metadata, &infos)?;
    let mut write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(layout.header())?;
        let mut at = layout.header().len() as u64;
        let pad = |out: &mut BufWriter<File>, at: &mut u64, to: u64| {
            let zeros = to.saturating_sub(*at);
            *at += zeros;
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), zeros), out).map(drop)
        };
        for (placed, tensor) in layout.tensors().iter().zip(tensors) {
            pad(&mut out, &mut at, placed.offset)?;
            for chunk in gguf.data(tensor).chunks(8 << 20) {
                out.write_all(chunk)?;
                at += chunk.len() as u64;
                on_progress(chunk.len() as u64);
            }
        }
        pad(&mut out, &mut at, layout.file_size())?;
        out.flush()
    };
    write().map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

/// Converts a metadata value for writing; `None` for an array of arrays, which no known key has.
fn owned(value: ValueRef<'_>) -> Option<Value> {
    macro_rules! array {
        ($array:expr, $($variant:ident),*) => {
            match $array.element_type() {
                $(ValueType::$variant => Array::$variant(
                    $array.iter().filter_map(|v| match v { ValueRef::$variant(x) => Some(x), _ => None }).collect(),
                ),)*
                ValueType::String => Array::String(
                    $array.iter().filter_map(|v| v.as_bytes().map(<[u8]>::to_vec)).collect(),
                ),
                ValueType::Array => return None,
            }
        };
    }
    Some(match value {
        ValueRef::U8(x) => Value::U8(x),
        ValueRef::I8(x) => Value::I8(x),
        ValueRef::U16(x) => Value::U16(x),
        ValueRef::I16(x) => Value::I16(x),
        ValueRef::U32(x) => Value::U32(x),
        ValueRef::I32(x) => Value::I32(x),
        ValueRef::F32(x) => Value::F32(x),
        ValueRef::Bool(x) => Value::Bool(x),
        ValueRef::U64(x) => Value::U64(x),
        ValueRef::I64(x) => Value::I64(x),
        ValueRef::F64(x) => Value::F64(x),
        ValueRef::String(x) => Value::String(String::from_utf8(x.to_vec()).ok()?),
        ValueRef::Array(x) => Value::Array(array!(
            x, U8, I8, U16, I16, U32, I32, F32, Bool, U64, I64, F64
        )),
    })
}

/// The predictions of the first model over a short text.
pub struct Baseline {
    ids: Vec<Token>,
    rows: Vec<Reference>,
}

impl Baseline {
    /// Reads a text of at most a few hundred tokens and keeps every row of logits.
    ///
    /// # Errors
    /// The text does not fit the session.
    pub fn new(session: &mut Session, ids: &[Token]) -> Result<Self> {
        let mut rows = Vec::with_capacity(ids.len());
        let seq = session.open()?;
        session.feed(&seq, ids, WantLogits::All, &mut |_, logits| {
            rows.push(Distribution::new(logits).reference());
        })?;
        Ok(Baseline {
            ids: ids.to_vec(),
            rows,
        })
    }

    /// Computes D(first ‖ other) over the text.
    ///
    /// # Errors
    /// The text does not fit the session.
    pub fn kl(&self, session: &mut Session) -> Result<Mean> {
        let mut mean = Mean::default();
        let seq = session.open()?;
        session.feed(&seq, &self.ids, WantLogits::All, &mut |i, logits| {
            mean.add(self.rows[i].kl(&Distribution::new(logits)));
        })?;
        Ok(mean)
    }
}
