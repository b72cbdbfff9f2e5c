//! A Hugging Face checkpoint: a folder with `config.json`, weights in safetensors (one file or
//! shards with an index) and tokenizer files.
//!
//! Opening a checkpoint reads headers and small files only. All of it is untrusted input: lengths,
//! offsets and names of files are checked before use.

mod adapter;
mod card;
mod error;
mod floats;
mod packed;
mod reader;
mod shard;
pub mod tokenizer;

pub use adapter::{Adapter, Merged};
pub use card::ModelCard;
pub use error::{Error, Problem};
pub use packed::{Method, Packed, Refused};
pub use reader::Shards;
pub use safetensors::Dtype;
pub use shard::SourceTensor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use modelve_base::infile;
use serde_json::{Map, Value};

/// The index of a sharded checkpoint.
pub const INDEX: &str = "model.safetensors.index.json";

/// The file that marks a PEFT adapter, in a folder of its own or beside a model.
const ADAPTER: &str = "adapter_config.json";

/// Limit in bytes of a text file of a checkpoint. The largest in use are `tokenizer.json` files of
/// about 40 MiB.
pub(crate) const MOST_BYTES: u64 = 256 << 20;

/// A checkpoint whose headers have been read.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Value,
    generation: Value,
    card: ModelCard,
    /// How the weights are packed, as the checkpoint states it; null if they are not packed.
    quantization: Value,
    shards: Vec<PathBuf>,
    tensors: BTreeMap<String, SourceTensor>,
    /// Zero biases that can be left out, see [`Checkpoint::is_idle`].
    idle: BTreeSet<String>,
    adapter: Option<Adapter>,
}

impl Checkpoint {
    /// Opens the checkpoint in `folder`: `config.json`, `generation_config.json` and the header
    /// of every shard.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let mut description = Self::open_description(folder)?;
        let (shards, mut tensors) = read_shards(folder)?;
        let mut idle = BTreeSet::new();
        if description.quantization.is_null() && tensors.keys().any(|n| n.ends_with(".qweight")) {
            description.quantization = packed::apart(folder)?;
        }
        // An unsupported way of packing is only an error once the checkpoint is converted.
        if let Ok(Some(method)) = description.method() {
            let files = Shards::of(&shards)?;
            tensors = packed::resolve(&method, &files, tensors)?;
            idle = packed::idle_biases(&files, &tensors)?;
        }
        Ok(Self {
            shards,
            tensors,
            idle,
            ..description
        })
    }

    /// Opens the description of the checkpoint without its weights.
    pub fn open_description(folder: &Path) -> Result<Self, Error> {
        let object = |name: &str| read_optional(&folder.join(name));
        let Some(config) = object("config.json")? else {
            return Err(match object(ADAPTER)? {
                Some(adapter) => adapter::not_a_model(folder, &adapter),
                None => Error::new(folder, Problem::NoConfig),
            });
        };
        let config = Value::Object(config);
        let generation = object("generation_config.json")?.unwrap_or_default();
        let card_path = folder.join("README.md");
        let card =
            infile::optional(&card_path, MOST_BYTES).map_err(|e| Error::new(&card_path, e))?;
        let card = card.map(|text| ModelCard::parse(&String::from_utf8_lossy(&text)));
        Ok(Self {
            folder: folder.to_owned(),
            quantization: packed::stated(&config).clone(),
            config,
            generation: Value::Object(generation),
            card: card.unwrap_or_default(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            idle: BTreeSet::new(),
            adapter: None,
        })
    }

    /// Makes a checkpoint of which only the small files are here. Its tensors are assumed to be
    /// those given, as names and shapes, of the type stated in `config.json`. This is enough to
    /// plan a conversion.
    pub fn without_weights<'a>(
        folder: &Path,
        tensors: impl IntoIterator<Item = (&'a str, &'a [u64])>,
    ) -> Result<Self, Error> {
        let mut checkpoint = Self::open_description(folder)?;
        let stated = checkpoint.config["torch_dtype"].as_str();
        let dtype = match stated.or(checkpoint.config["dtype"].as_str()) {
            Some("float32") => Dtype::F32,
            Some("float16") => Dtype::F16,
            _ => Dtype::BF16,
        };
        for (name, shape) in tensors {
            let tensor = SourceTensor {
                name: name.to_owned(),
                dtype,
                shape: shape.to_vec(),
                shard: 0,
                offset: 0,
                bytes: shape.iter().product::<u64>() * dtype.bitsize() as u64 / 8,
                packed: None,
            };
            checkpoint.tensors.insert(name.to_owned(), tensor);
        }
        Ok(checkpoint)
    }

    /// The folder of the checkpoint.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json`, an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `generation_config.json`; an empty object where there is none.
    pub fn generation(&self) -> &Value {
        &self.generation
    }

    /// The safetensors files; [`SourceTensor::shard`] counts in this list.
    pub fn shards(&self) -> &[PathBuf] {
        &self.shards
    }

    /// How the weights are packed; `None` if they are not packed.
    ///
    /// # Errors
    /// The way of packing is not supported.
    pub fn method(&self) -> Result<Option<Method>, Refused> {
        Method::of(&self.quantization)
    }

    /// Returns whether the tensor can be left out: it is the bias of a packed matrix and all zero.
    /// Exporters of packed matrices write one for each.
    pub fn is_idle(&self, name: &str) -> bool {
        self.idle.contains(name)
    }

    /// The adapter that was merged into the weights, if there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&SourceTensor> {
        self.tensors.get(name)
    }

    /// All tensors, in order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = &SourceTensor> {
        self.tensors.values()
    }

    /// Size of all tensors in the checkpoint, in bytes.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.values().map(SourceTensor::stored_bytes).sum()
    }

    /// The metadata at the head of `README.md`; empty where there is none.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }
}

/// Parses a JSON file that holds an object; `None` if there is no file.
fn read_optional(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let bytes = infile::optional(path, MOST_BYTES).map_err(|e| Error::new(path, e))?;
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
    bytes
        .map(parse)
        .transpose()
        .map_err(|e| Error::new(path, Problem::Json(e)))
}

/// Finds the shards and reads their headers. If there is an index, it must name the same tensors in
/// the same files as the headers.
fn read_shards(folder: &Path) -> Result<(Vec<PathBuf>, BTreeMap<String, SourceTensor>), Error> {
    let index_path = folder.join(INDEX);
    let index = match index_path.is_file() {
        true => Some(shard::read_index(&index_path)?),
        false => None,
    };
    let names: BTreeSet<String> = match &index {
        Some(map) => map.values().cloned().collect(),
        None => {
            shard::find(folder).map_err(|error| match read_optional(&folder.join(ADAPTER)) {
                Ok(Some(adapter)) => adapter::not_a_model(folder, &adapter),
                _ => error,
            })?
        }
    };
    let mut shards = Vec::new();
    let mut tensors: BTreeMap<String, SourceTensor> = BTreeMap::new();
    for name in &names {
        let path = folder.join(name);
        if index.is_some() && !path.is_file() {
            let shard = name.clone();
            return Err(Error::new(&index_path, Problem::ShardAbsent { shard }));
        }
        for tensor in shard::read_header(&path, shards.len())? {
            let stated = index.as_ref().map(|map| map.get(&tensor.name));
            match stated {
                Some(Some(file)) if file != name => {
                    let problem = Problem::OtherShard {
                        tensor: tensor.name,
                        stated: file.clone(),
                    };
                    return Err(Error::new(&path, problem));
                }
                Some(None) => {
                    let tensor = tensor.name;
                    return Err(Error::new(&path, Problem::NotInIndex { tensor }));
                }
                _ => {}
            }
            if tensors.contains_key(&tensor.name) {
                let tensor = tensor.name;
                return Err(Error::new(&path, Problem::DuplicateTensor { tensor }));
            }
            tensors.insert(tensor.name.clone(), tensor);
        }
        shards.push(path);
    }
    for (tensor, file) in index.iter().flatten() {
        if !tensors.contains_key(tensor) {
            let tensor = tensor.clone();
            return Err(Error::new(
                &folder.join(file),
                Problem::OnlyInIndex { tensor },
            ));
        }
    }
    Ok((shards, tensors))
}

#[cfg(test)]
mod tests;
