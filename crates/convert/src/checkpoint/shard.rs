//! Safetensors headers and the index over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{Error, MOST_BYTES, Packed, Problem};
use modelve_base::infile;
use modelve_base::map::MappedFile;

/// A tensor of a checkpoint: its place, type and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// The element type that reading it gives.
    pub dtype: Dtype,
    /// Shape, slowest dimension first: `[rows, columns]`.
    pub shape: Vec<u64>,
    /// Index in [`super::Checkpoint::shards`] of the file that holds it, or its first part.
    pub shard: usize,
    /// Its offset in bytes from the start of that file.
    pub offset: u64,
    /// The number of bytes that reading it gives: the product of the shape times the size of an
    /// element.
    pub bytes: u64,
    /// The tensors that its values are computed from; `None` if it is stored directly.
    pub packed: Option<Arc<Packed>>,
}

impl SourceTensor {
    /// Number of values in a row: the last dimension.
    pub fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Describes how it is stored, in a few words: its type or its packing.
    pub fn form(&self) -> String {
        match &self.packed {
            Some(packed) => packed.form(),
            None => format!("{:?}", self.dtype),
        }
    }

    /// Size in the checkpoint, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        match &self.packed {
            Some(packed) => packed.parts().iter().map(|part| part.stored_bytes()).sum(),
            None => self.bytes,
        }
    }

    /// Converts a number of bytes of its values to the bytes that they take in the checkpoint.
    pub fn stored_share(&self, bytes: u64) -> u64 {
        let share = u128::from(self.stored_bytes()) * u128::from(bytes);
        (share / u128::from(self.bytes.max(1))) as u64
    }

    /// Size of a row in bytes.
    pub fn row_bytes(&self) -> u64 {
        self.columns() * self.dtype.bitsize() as u64 / 8
    }
}

/// Reads the header of one safetensors file. The `safetensors` crate checks lengths, types,
/// shapes and that the tensors cover the data without hole or overlap; duplicate names, which
/// it merges silently, are refused here.
pub(super) fn read_header(path: &Path, shard: usize) -> Result<Vec<SourceTensor>, Error> {
    let error = |problem: Problem| Error::new(path, problem);
    let file = MappedFile::open(path).map_err(|e| error(e.into()))?;
    if let Some(bytes) = file.first_chunk::<8>() {
        let (len, file) = (u64::from_le_bytes(*bytes), file.len() as u64);
        if len > file - 8 && len <= 100_000_000 {
            return Err(error(Problem::HeaderLength { len, file }));
        }
    }
    let (len, metadata) =
        SafeTensors::read_metadata(&file).map_err(|e| error(Problem::Header(e)))?;
    let header = file.get(8..8 + len).unwrap_or_default();
    let _: Unique<IgnoredAny> =
        serde_json::from_slice(header).map_err(|e| error(Problem::Json(e)))?;

    let data_start = 8 + len as u64;
    let mut tensors: Vec<SourceTensor> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| SourceTensor {
            name,
            dtype: info.dtype,
            shape: info.shape.iter().map(|&n| n as u64).collect(),
            shard,
            offset: data_start + info.data_offsets.0 as u64,
            bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
            packed: None,
        })
        .collect();
    tensors.sort_by_key(|tensor| tensor.offset);
    Ok(tensors)
}

/// Reads the index: a map from tensor names to file names, each without a path.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Unique<String>,
    }
    let error = |problem: Problem| Error::new(path, problem);
    let bytes = infile::regular(path, MOST_BYTES).map_err(|e| error(e.into()))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| error(Problem::Json(e)))?;
    for (tensor, shard) in &index.weight_map.0 {
        if !is_plain_name(shard) {
            return Err(error(Problem::ShardName {
                tensor: tensor.clone(),
                shard: shard.clone(),
            }));
        }
    }
    Ok(index.weight_map.0)
}

/// Returns whether a name cannot leave the folder it is looked up in, on any platform.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', ':'])
        && !name.chars().any(char::is_control)
}

/// Finds every `model*.safetensors` in a folder without an index.
pub(super) fn find(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let error = |e: std::io::Error| Error::new(folder, e);
    let mut names = BTreeSet::new();
    let mut pickled = false;
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let name = name.to_string_lossy();
        pickled |= name.starts_with("pytorch_model");
        if name.starts_with("model") && name.ends_with(".safetensors") {
            names.insert(name.into_owned());
        }
    }
    match names.is_empty() {
        true => Err(Error::new(folder, Problem::NoWeights { pickled })),
        false => Ok(names),
    }
}

/// A JSON object without duplicate keys. The maps of the standard library silently keep the last of
/// two equal keys.
struct Unique<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        let twice = format!("the key `{key}` occurs twice");
                        return Err(serde::de::Error::custom(twice));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}
