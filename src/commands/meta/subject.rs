//! The common form of what is described, a GGUF or a checkpoint: names, shapes and types, and
//! metadata.

use serde::Serialize;

use super::activation;
use crate::convert::arch::names;
use crate::gguf::{Gguf, ValueRef};
use crate::quant::mix;

/// A tensor, with what is needed to describe it.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the GGUF.
    pub name: String,
    /// Shape in GGUF's order: the fastest dimension first.
    pub shape: Vec<u64>,
    /// The form in which its weights are stored, in a word: a type of ggml's, or a form that
    /// checkpoints have.
    pub form: String,
    /// Size in bytes; `None` if the type is unknown.
    pub bytes: Option<u64>,
}

impl Tensor {
    /// Number of weights.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A metadata value, as far as the summary needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A string.
    Text(String),
    /// A non-negative integer.
    Integer(u64),
    /// Any other number.
    Real(f64),
    /// An array: the integers in it, with truth values as 0 and 1, and `None` for other entries.
    Array(Vec<Option<u64>>),
}

/// Access to metadata by key.
pub trait Facts {
    /// Returns the value of `key`, if it exists and has one of these kinds.
    fn fact(&self, key: &str) -> Option<Fact>;
}

impl Facts for Gguf {
    fn fact(&self, key: &str) -> Option<Fact> {
        let value = self.get(key)?;
        match value {
            ValueRef::String(_) => value.as_str().map(|text| Fact::Text(text.into_owned())),
            ValueRef::Array(array) => Some(Fact::Array(
                array.iter().map(|item| number(&item)).collect(),
            )),
            _ => {
                let real = || value.as_f64().map(Fact::Real);
                value.as_u64().map(Fact::Integer).or_else(real)
            }
        }
    }
}

fn number(value: &ValueRef<'_>) -> Option<u64> {
    match value {
        ValueRef::Bool(flag) => Some(u64::from(*flag)),
        _ => value.as_u64(),
    }
}

/// A model to describe.
pub struct Subject<'a> {
    /// Every tensor, in the file's order.
    pub tensors: Vec<Tensor>,
    /// Size of everything in bytes: header, tensors and padding.
    pub size_bytes: u64,
    facts: &'a dyn Facts,
    architecture: String,
}

impl<'a> Subject<'a> {
    /// Makes the subject of a GGUF file.
    pub fn of_gguf(gguf: &'a Gguf) -> Self {
        let tensors = gguf.tensors().iter().map(|tensor| Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            form: tensor.ty.to_string(),
            bytes: tensor.bytes,
        });
        Self::new(tensors.collect(), gguf.size_bytes(), gguf)
    }

    /// Makes a subject of tensors and metadata.
    pub fn new(tensors: Vec<Tensor>, size_bytes: u64, facts: &'a dyn Facts) -> Self {
        let architecture = match facts.fact("general.architecture") {
            Some(Fact::Text(text)) => text,
            _ => String::new(),
        };
        Self {
            tensors,
            size_bytes,
            facts,
            architecture,
        }
    }

    /// Returns `general.architecture`; empty if it is missing.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns a string.
    pub fn text(&self, key: &str) -> Option<String> {
        match self.facts.fact(key)? {
            Fact::Text(text) if !text.trim().is_empty() => Some(text),
            _ => None,
        }
    }

    /// Returns a number.
    pub fn real(&self, key: &str) -> Option<f64> {
        match self.facts.fact(key)? {
            Fact::Integer(number) => Some(number as f64),
            Fact::Real(number) => Some(number),
            Fact::Text(_) | Fact::Array(_) => None,
        }
    }

    /// Returns an integer of the architecture: `number("block_count")` is `phi3.block_count`.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.facts.fact(&format!("{}.{key}", self.architecture))? {
            Fact::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// Returns an integer of the architecture for each of `layers` layers, from a single value or
    /// an array.
    pub fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>> {
        match self.facts.fact(&format!("{}.{key}", self.architecture))? {
            Fact::Integer(number) => Some(vec![number; usize::try_from(layers).ok()?]),
            Fact::Array(numbers) if numbers.len() as u64 == layers => numbers.into_iter().collect(),
            _ => None,
        }
    }

    /// Returns a truth value of the architecture for each of `layers` layers.
    pub fn flags(&self, key: &str, layers: u64) -> Option<Vec<bool>> {
        match self.facts.fact(&format!("{}.{key}", self.architecture))? {
            Fact::Array(flags) if flags.len() as u64 == layers => {
                flags.into_iter().map(|flag| Some(flag? != 0)).collect()
            }
            _ => None,
        }
    }

    /// Returns whether the metadata has a vocabulary, as in a GGUF file.
    pub fn has_vocabulary(&self) -> bool {
        self.facts.fact("tokenizer.ggml.tokens").is_some()
    }

    /// Returns the length of an array.
    pub fn len(&self, key: &str) -> Option<u64> {
        match self.facts.fact(key)? {
            Fact::Array(array) => Some(array.len() as u64),
            _ => None,
        }
    }

    /// Returns `general.file_type`, llama.cpp's number for a quantization.
    pub fn file_type(&self) -> Option<u64> {
        match self.facts.fact("general.file_type")? {
            Fact::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        let each = self.tensors.iter().map(Tensor::n_elements);
        // A tensor of an unknown type can have any size.
        each.fold(0, u64::saturating_add)
    }

    /// Size of all tensors whose type is known, in bytes.
    pub fn tensor_bytes(&self) -> u64 {
        let each = self.tensors.iter().filter_map(|tensor| tensor.bytes);
        each.fold(0, u64::saturating_add)
    }

    /// Returns the token embedding if it is also the output matrix: in a decoder, which has a norm
    /// after its layers, without an output matrix of its own.
    pub fn tied_output(&self) -> Option<&Tensor> {
        let find = |name: &str| self.tensors.iter().find(|tensor| tensor.name == name);
        match (find("output.weight"), find("output_norm.weight")) {
            (None, Some(_)) => find("token_embd.weight"),
            _ => None,
        }
    }

    /// Number of layers, from the metadata, else from the names of tensors.
    pub fn layers(&self) -> Option<u64> {
        let by_name = || {
            let layers = self
                .tensors
                .iter()
                .filter_map(|tensor| names::layer(&tensor.name));
            layers.map(|(layer, _)| layer.saturating_add(1)).max()
        };
        // More layers than any model has; the limit bounds the work for a damaged file.
        self.number("block_count")
            .or_else(by_name)
            .filter(|&layers| layers <= 4096)
    }
}

/// A description of the model.
#[derive(Debug, Serialize)]
pub struct Identity {
    /// `general.name`.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// transformers' class.
    pub class: Option<&'static str>,
    /// Number of weights.
    pub n_params: u64,
    /// Number of weights used for each token, for a model with experts.
    pub n_active_params: Option<u64>,
    /// Size of everything in bytes.
    pub size_bytes: u64,
    /// Average number of bits of tensor data per weight.
    pub bits_per_weight: Option<f64>,
    /// The recipe it was quantized with, or the type with the most bytes.
    pub quantization: Option<String>,
    /// Context size of its training, in tokens.
    pub context_length: Option<u64>,
    /// Number of tokens in the vocabulary.
    pub vocab_size: Option<u64>,
    /// Number of layers.
    pub layers: Option<u64>,
    /// Number of values in the residual stream.
    pub width: Option<u64>,
    /// Number of values in the hidden layer of the feed-forward network.
    pub feed_forward: Option<u64>,
    /// Number of attention heads.
    pub heads: Option<u64>,
    /// Number of key and value heads.
    pub kv_heads: Option<u64>,
    /// Number of values in the key of one head.
    pub head_size: Option<u64>,
    /// transformers' name of the activation function.
    pub activation: Option<&'static str>,
    /// Number of tokens in the window of layers with a sliding window.
    pub sliding_window: Option<u64>,
    /// Whether the token embedding is also the output matrix.
    pub tied_output: bool,
    /// Number of experts per layer, and how many of them are used for each token.
    pub experts: Option<(u64, u64)>,
    /// The licence.
    pub license: Option<String>,
    /// The repository or address it comes from.
    pub source: Option<String>,
    /// How it differs from its checkpoint, as `convert --size` found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// The difference of a file from its checkpoint, of the keys `modelve.quality.*`.
#[derive(Debug, Serialize)]
pub struct Quality {
    /// The text.
    pub text: Option<String>,
    /// Number of predictions compared.
    pub tokens: Option<f64>,
    /// Mean KL divergence from the checkpoint, in nats.
    pub kl_mean: f64,
    /// Its standard error.
    pub kl_error: Option<f64>,
    /// The divergence that 99 % of the predictions do not exceed.
    pub kl_p99: Option<f64>,
    /// Share of predictions with the same likeliest token.
    pub same_top: Option<f64>,
    /// Perplexity of the text under the file.
    pub perplexity: Option<f64>,
    /// Perplexity of the text under the checkpoint.
    pub perplexity_source: Option<f64>,
}

impl Quality {
    fn of(subject: &Subject<'_>) -> Option<Self> {
        let key = |name: &str| format!("modelve.quality.{name}");
        let real = |name: &str| subject.real(&key(name));
        Some(Self {
            text: subject.text(&key("text")),
            tokens: real("tokens"),
            kl_mean: real("kl_mean")?,
            kl_error: real("kl_error"),
            kl_p99: real("kl_p99"),
            same_top: real("same_top"),
            perplexity: real("perplexity"),
            perplexity_source: real("perplexity_source"),
        })
    }
}

impl Identity {
    /// Reads the description from the metadata; what is missing is `None`.
    pub fn of(subject: &Subject<'_>) -> Self {
        let n_params = subject.n_params();
        let bits = subject.tensor_bytes() as f64 * 8.0 / n_params as f64;
        let known = subject.tensors.iter().all(|tensor| tensor.bytes.is_some());
        let architecture = Some(subject.architecture().to_owned());
        // If the numbers differ by layer, this is that of the first.
        let first = |key| {
            let per_layer = subject.layers().and_then(|n| subject.per_layer(key, n));
            per_layer.and_then(|numbers| numbers.into_iter().max())
        };
        let embedding = subject
            .tensors
            .iter()
            .find(|t| t.name == "token_embd.weight");
        Self {
            name: subject.text("general.name"),
            architecture: architecture.filter(|name| !name.is_empty()),
            class: names::class(subject.architecture()),
            n_params,
            n_active_params: active_params(subject),
            size_bytes: subject.size_bytes,
            bits_per_weight: (known && n_params > 0).then_some(bits),
            quantization: quantization(subject),
            context_length: subject.number("context_length"),
            vocab_size: subject
                .len("tokenizer.ggml.tokens")
                .or_else(|| embedding.and_then(|tensor| tensor.shape.get(1).copied())),
            layers: subject.layers(),
            width: subject.number("embedding_length"),
            feed_forward: first("feed_forward_length"),
            heads: first("attention.head_count"),
            kv_heads: first("attention.head_count_kv").or_else(|| first("attention.head_count")),
            head_size: subject.number("attention.key_length").or_else(|| {
                let heads = first("attention.head_count").filter(|&heads| heads > 0)?;
                Some(subject.number("embedding_length")? / heads)
            }),
            activation: activation::of(subject.architecture()),
            sliding_window: subject
                .number("attention.sliding_window")
                .filter(|&window| window > 0),
            tied_output: subject.tied_output().is_some(),
            experts: subject
                .number("expert_count")
                .zip(subject.number("expert_used_count"))
                .filter(|(count, _)| *count > 0),
            license: subject
                .text("general.license")
                .or_else(|| subject.text("general.license.name")),
            source: [
                "general.source.url",
                "general.source.huggingface.repository",
                "general.repo_url",
                "general.base_model.0.repo_url",
                "general.url",
            ]
            .iter()
            .find_map(|key| subject.text(key)),
            quality: Quality::of(subject),
        }
    }
}

/// Returns the recipe that `general.file_type` names, else the form that holds the most bytes.
fn quantization(subject: &Subject<'_>) -> Option<String> {
    let mut bytes: Vec<(&str, u64)> = Vec::new();
    for tensor in &subject.tensors {
        let size = tensor.bytes.unwrap_or(0);
        match bytes.iter_mut().find(|(form, _)| *form == tensor.form) {
            Some((_, sum)) => *sum += size,
            None => bytes.push((&tensor.form, size)),
        }
    }
    let (most, _) = bytes.into_iter().max_by_key(|(_, size)| *size)?;
    let stated = subject.file_type().and_then(mix::file_type_name);
    Some(stated.unwrap_or(most).to_owned())
}

/// Returns the share of the weights, in bytes, that are read for each token: only the experts in
/// use, and a single row of an embedding that is not also the output matrix.
pub fn active_share(subject: &Subject<'_>) -> f64 {
    let tied = subject.tied_output().map(|tensor| tensor.name.as_str());
    let used = used_experts(subject);
    let mut read = 0.0;
    let mut all = 0.0;
    for tensor in &subject.tensors {
        let bytes = tensor.bytes.unwrap_or(0) as f64;
        all += bytes;
        read += match tensor.name.as_str() {
            name @ "token_embd.weight" if tied != Some(name) => 0.0,
            "per_layer_token_embd.weight" => 0.0,
            name if is_of_experts(name) => bytes * used,
            _ => bytes,
        };
    }
    if all > 0.0 { read / all } else { 1.0 }
}

/// Returns the share of experts in use for each token; 1 without experts.
fn used_experts(subject: &Subject<'_>) -> f64 {
    let all = subject.number("expert_count").filter(|&n| n > 0);
    let used = all.zip(subject.number("expert_used_count"));
    used.map_or(1.0, |(all, used)| used.min(all) as f64 / all as f64)
}

/// Returns whether a tensor holds the matrices of all experts of a layer.
fn is_of_experts(name: &str) -> bool {
    name.contains("_exps.")
}

/// Returns the number of weights used for each token, for a model with experts.
fn active_params(subject: &Subject<'_>) -> Option<u64> {
    subject.number("expert_count").filter(|&n| n > 0)?;
    let used = used_experts(subject);
    let each = subject
        .tensors
        .iter()
        .map(|tensor| match is_of_experts(&tensor.name) {
            true => (tensor.n_elements() as f64 * used) as u64,
            false => tensor.n_elements(),
        });
    Some(each.fold(0, u64::saturating_add))
}
