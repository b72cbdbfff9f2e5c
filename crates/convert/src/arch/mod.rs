//! Architectures: what a `config.json` means in GGUF's words.
//!
//! One file per architecture says which tensors there must be, of which shape and under which
//! name, and writes the architecture's metadata. Adding one is such a file and its line in
//! [`ARCHITECTURES`].

pub mod names;
mod phi3;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Every architecture that can be converted.
pub static ARCHITECTURES: &[&dyn Architecture] = &[&phi3::Phi3];

/// One architecture.
pub trait Architecture: Sync {
    /// Its names in `architectures` of `config.json`.
    fn hub_names(&self) -> &'static [&'static str];

    /// What a configuration of it asks for.
    fn describe(&self, config: &Value) -> Result<Description, Error>;
}

/// What a configuration asks for: pure facts, no weights.
#[derive(Clone, Debug)]
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
    /// Number of layers.
    pub layers: u32,
    /// Query heads per key and value head.
    pub heads_per_kv_head: u32,
    /// Rows of the token embedding.
    pub vocab_size: u64,
    /// What a careful reader should know: choices that were made.
    pub notes: Vec<String>,
}

/// A tensor that the checkpoint must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Name in the checkpoint.
    pub source: String,
    /// Name in the GGUF.
    pub name: String,
    /// Shape, slowest dimension first: `[rows, columns]`.
    pub shape: Vec<u64>,
    /// Whether the checkpoint may do without it.
    pub optional: bool,
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
    #[error("the architecture {found} is not supported; supported: {}", supported().join(", "))]
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

/// A value of a configuration; `None` where it is missing or null.
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

/// A value without which a configuration means nothing.
fn required<T: DeserializeOwned>(config: &Value, key: &'static str) -> Result<T, Error> {
    optional(config, key)?.ok_or(Error::Missing { key })
}
