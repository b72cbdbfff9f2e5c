//! Architectures: the translation of `config.json` to GGUF.
//!
//! One file per architecture lists the required tensors with their shapes and names, and writes the
//! architecture's metadata. A new architecture is such a file and its line in [`ARCHITECTURES`].

mod dense;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_oss;
mod llama;
mod mixtral;
pub mod names;
mod olmo2;
mod phi2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod rope;
mod smollm3;
mod weight;
mod window;

pub(crate) use weight::interleave;
pub use weight::{Arrangement, Weight};

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, SourceTensor};
use modelve_quant::mix::Facts;
use names::Name;

/// Maximum number of layers. Bounds the list of tensors that a damaged configuration asks for.
const MOST_LAYERS: u32 = 512;
/// Maximum number of rows or columns of a matrix, so that no size overflows 64 bits.
const MOST_ROWS: u64 = 1 << 24;

/// Every architecture that can be converted.
pub static ARCHITECTURES: &[&dyn Architecture] = &[
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &gpt2::Gpt2,
    &gpt_oss::GptOss,
    &llama::Llama,
    &mixtral::MIXTRAL,
    &olmo2::OLMO2,
    &phi2::Phi2,
    &phi3::Phi3,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &qwen3moe::Qwen3Moe,
    &smollm3::SmolLm3,
];

/// One architecture.
pub trait Architecture: Sync {
    /// Its names in `architectures` of `config.json`.
    fn hub_names(&self) -> &'static [&'static str];

    /// Its name in `general.architecture` of a GGUF.
    fn gguf_name(&self) -> &'static str;

    /// Returns names of tensors that differ from the tables of [`names`].
    fn names(&self) -> &'static [Name] {
        &[]
    }

    /// Returns the prefix of layer tensors in its checkpoints, before the layer's number.
    fn layers(&self) -> &'static str {
        "model.layers"
    }

    /// Returns whether llama.cpp counts a model of these sizes among those of 70 billion weights.
    /// Many query heads share one value head there, so recipes of 3 and 4 bits store value matrices
    /// in Q5_K.
    fn is_large(&self, _layers: u64, _heads: u64, _kv_heads: u64) -> bool {
        false
    }

    /// Describes the model of a configuration.
    ///
    /// # Errors
    /// See [`Error`].
    fn describe(&self, config: &Value) -> Result<Description, Error>;
}

/// The description of a model: facts from its configuration, without weights.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// The architecture's keys, in the order in which llama.cpp's converter writes them.
    pub metadata: Vec<(String, modelve_gguf::Value)>,
    /// The tensors of the checkpoint.
    pub weights: Vec<Weight>,
    /// Tensors that are computed from the configuration.
    pub constants: Vec<Constant>,
    /// Endings of names that a checkpoint may hold and that no GGUF needs.
    pub ignored: &'static [&'static str],
    /// Prefixes of names in some checkpoints, with what replaces them in [`Weight::sources`].
    pub prefixes: &'static [(&'static str, &'static str)],
    /// Prefixes of tensors that do not belong to the text model, such as those of a vision encoder.
    pub left_out: &'static [&'static str],
    /// Number of layers.
    pub layers: u32,
    /// Query heads per key and value head.
    pub heads_per_kv_head: u32,
    /// See [`Architecture::is_large`].
    pub is_large: bool,
    /// Number of experts in a layer; 0 where there are none.
    pub experts: u32,
    /// Whether `add_prefix_space` of `tokenizer_config.json` becomes
    /// `tokenizer.ggml.add_space_prefix`.
    pub states_space_prefix: bool,
    /// Rows of the token embedding.
    pub vocab_size: u64,
    /// Notes for the user on choices that were made.
    pub notes: Vec<String>,
}

impl Description {
    /// Returns the facts that recipes depend on.
    pub(crate) fn facts(&self, imatrix: bool) -> Facts {
        Facts {
            layers: self.layers,
            heads_per_kv_head: self.heads_per_kv_head,
            is_large: self.is_large,
            experts: self.experts,
            imatrix,
        }
    }

    /// Finds a tensor of [`Weight::sources`] in a checkpoint, whichever prefix its name has there.
    pub fn find<'a>(&self, checkpoint: &'a Checkpoint, name: &str) -> Option<&'a SourceTensor> {
        let renamed = || {
            let mut prefixes = self.prefixes.iter();
            prefixes.find_map(|(there, here)| {
                let rest = name.strip_prefix(here)?;
                checkpoint.tensor(&format!("{there}{rest}"))
            })
        };
        checkpoint.tensor(name).or_else(renamed)
    }

    /// Returns whether the rows of a checkpoint's matrix are its inputs. The GGUF has its columns as
    /// rows.
    pub fn is_turned(&self, tensor: &str) -> bool {
        let turned = |weight: &&Weight| matches!(weight.arrangement, Arrangement::Columns { .. });
        let mut turned = self.weights.iter().filter(turned);
        turned.any(|weight| {
            let mut names = self.meant(tensor);
            names.any(|name| weight.sources.iter().any(|source| *source == *name))
        })
    }

    /// Returns the names in [`Weight::sources`] that a tensor of a checkpoint may stand for.
    pub(crate) fn meant<'a>(&self, tensor: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        let renamed = self.prefixes.iter().filter_map(move |(there, here)| {
            let rest = tensor.strip_prefix(there)?;
            Some(Cow::Owned(format!("{here}{rest}")))
        });
        std::iter::once(Cow::Borrowed(tensor)).chain(renamed)
    }
}

/// A one-dimensional F32 tensor computed from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Name in the GGUF.
    pub name: &'static str,
    /// Its values.
    pub values: Vec<f32>,
}

/// A configuration that cannot be converted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(
        "the architecture {found} is not supported{}; supported: {}",
        missing(found),
        supported().join(", ")
    )]
    Unsupported { found: String },
    #[error("config.json: `{key}` is missing")]
    Missing { key: &'static str },
    #[error("config.json: `{key}` is {value}; {expected}")]
    Value {
        key: &'static str,
        value: String,
        expected: String,
    },
}

/// Returns whether llama.cpp counts a GGUF of this architecture and these sizes among the models of 70
/// billion weights, see [`Architecture::is_large`].
pub fn is_large(gguf_name: &str, layers: u64, heads: u64, kv_heads: u64) -> bool {
    let mut named = ARCHITECTURES.iter();
    named.any(|arch| arch.gguf_name() == gguf_name && arch.is_large(layers, heads, kv_heads))
}

/// Beginnings of the names of architectures that llama.cpp runs and that are not converted, and what is
/// missing for it.
static NOT_YET: &[(&str, &str)] = &[
    (
        "Gemma4",
        ": its layers share keys and values, and each has an embedding of its own",
    ),
    (
        "Qwen3_5",
        ": the rows of its linear attention have another order in a GGUF",
    ),
    (
        "Qwen3Next",
        ": the rows of its linear attention have another order in a GGUF",
    ),
];

/// What is missing of an architecture, if that is known, else nothing.
fn missing(found: &str) -> &'static str {
    let known = NOT_YET.iter().find(|(start, _)| found.starts_with(start));
    known.map_or("", |(_, what)| what)
}

/// The names under which supported architectures stand in `config.json`.
pub fn supported() -> Vec<&'static str> {
    let names = ARCHITECTURES.iter().flat_map(|arch| arch.hub_names());
    names.copied().collect()
}

/// Finds the architecture that a configuration names and lets it describe the model.
pub fn describe(config: &Value) -> Result<Description, Error> {
    let named: Vec<&str> = match &config["architectures"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let known = |name: &&str| {
        ARCHITECTURES
            .iter()
            .find(|arch| arch.hub_names().contains(name))
    };
    match named.iter().find_map(known) {
        Some(architecture) => architecture.describe(config),
        None => Err(Error::Unsupported {
            found: match named.as_slice() {
                [] => "(none is named in config.json)".to_owned(),
                _ => named.join(", "),
            },
        }),
    }
}

/// Reads a value of a configuration; `None` where it is missing or null.
fn optional<T: DeserializeOwned>(config: &Value, key: &'static str) -> Result<Option<T>, Error> {
    match &config[key] {
        Value::Null => Ok(None),
        value => T::deserialize(value)
            .map(Some)
            .map_err(|error| Error::Value {
                key,
                value: value.to_string(),
                expected: error.to_string(),
            }),
    }
}

/// Reads a value that a configuration must have.
fn required<T: DeserializeOwned>(config: &Value, key: &'static str) -> Result<T, Error> {
    optional(config, key)?.ok_or(Error::Missing { key })
}

/// Makes the error for a value that is invalid or not supported.
fn wrong(key: &'static str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::Value {
        key,
        value: value.to_string(),
        expected: expected.into(),
    }
}

/// Reads a number of rows or columns that a configuration must have.
fn size(config: &Value, key: &'static str) -> Result<u64, Error> {
    within(key, required(config, key)?, MOST_ROWS)
}

/// Reads a number of layers that a configuration must have.
fn layers(config: &Value, key: &'static str) -> Result<u32, Error> {
    let layers: u32 = required(config, key)?;
    within(key, layers.into(), MOST_LAYERS.into())?;
    Ok(layers)
}

/// Reads the number of tokens that the model was trained for, `usual` if the configuration has
/// none.
fn context(config: &Value, usual: u64) -> Result<u64, Error> {
    const KEY: &str = "max_position_embeddings";
    let context: Option<u64> = optional(config, KEY)?;
    within(KEY, context.unwrap_or(usual), u64::from(u32::MAX))
}

/// Returns a size if it is within its limit.
fn within(key: &'static str, value: u64, most: u64) -> Result<u64, Error> {
    match value {
        1.. if value <= most => Ok(value),
        _ => Err(wrong(key, value, format!("1 to {most} are possible"))),
    }
}
