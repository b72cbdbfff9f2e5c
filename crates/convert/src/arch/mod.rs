//! Architectures: what a `config.json` means in GGUF's words.
//!
//! One file per architecture says which tensors there must be, of which shape and under which
//! name, and writes the architecture's metadata. Adding one is such a file and its line in
//! [`ARCHITECTURES`].

mod dense;
mod llama;
pub mod names;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Every architecture that can be converted.
pub static ARCHITECTURES: &[&dyn Architecture] = &[
    &llama::Llama,
    &olmo2::OLMO2,
    &phi3::Phi3,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
];

/// One architecture.
pub trait Architecture: Sync {
    /// Its names in `architectures` of `config.json`.
    fn hub_names(&self) -> &'static [&'static str];

    /// Its name in `general.architecture` of a GGUF.
    fn gguf_name(&self) -> &'static str;

    /// Returns whether llama.cpp counts a model of these sizes among those of 70 billion weights.
    /// Many query heads share one value head there, so recipes of 3 and 4 bits store value matrices
    /// in Q5_K.
    fn is_large(&self, _layers: u64, _heads: u64, _kv_heads: u64) -> bool {
        false
    }

    /// Describes what a configuration of it asks for.
    ///
    /// # Errors
    /// See [`Error`].
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
    /// See [`Architecture::is_large`].
    pub is_large: bool,
    /// Whether `add_prefix_space` of `tokenizer_config.json` becomes
    /// `tokenizer.ggml.add_space_prefix`.
    pub states_space_prefix: bool,
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
    /// The order of its rows in the GGUF.
    pub arrangement: Arrangement,
}

/// The order of a tensor's rows in the GGUF, relative to the checkpoint. Writing and verifying apply
/// the same description, to pieces of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrangement {
    /// The checkpoint's order.
    #[default]
    AsIs,
    /// Within each head, row `i` of the first half is followed by row `i` of the second half. A
    /// rotary embedding then rotates adjacent rows, where transformers rotates rows half a head apart.
    InterleaveHalves {
        /// Number of heads, all of the same even number of rows.
        heads: u64,
    },
}

impl Arrangement {
    /// The number of rows that are reordered together, of a tensor of `rows` rows. A piece of a tensor
    /// must hold a whole number of such groups.
    pub fn group(self, rows: u64) -> u64 {
        match self {
            Self::AsIs => 1,
            Self::InterleaveHalves { heads } => (rows / heads.max(1)).max(1),
        }
    }

    /// Reorders rows in place. `bytes` holds whole groups of `group` rows of `row_bytes` each;
    /// `spare` is scratch memory.
    pub fn apply(self, bytes: &mut [u8], group: u64, row_bytes: usize, spare: &mut Vec<u8>) {
        let half = group as usize / 2;
        if self == Self::AsIs || half == 0 || row_bytes == 0 {
            return;
        }
        for head in bytes.chunks_exact_mut(2 * half * row_bytes) {
            spare.clear();
            spare.extend_from_slice(head);
            for (to, row) in head.chunks_exact_mut(row_bytes).enumerate() {
                let from = (to % 2 * half + to / 2) * row_bytes;
                row.copy_from_slice(&spare[from..from + row_bytes]);
            }
        }
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

/// Returns whether llama.cpp counts a GGUF of this architecture and these sizes among the models of 70
/// billion weights, see [`Architecture::is_large`].
pub fn is_large(gguf_name: &str, layers: u64, heads: u64, kv_heads: u64) -> bool {
    let mut named = ARCHITECTURES.iter();
    named.any(|arch| arch.gguf_name() == gguf_name && arch.is_large(layers, heads, kv_heads))
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
