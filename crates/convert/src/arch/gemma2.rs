//! Gemma 2: `Gemma2ForCausalLM`.
//!
//! `Gemma2Model` of llama.cpp's converter (conversion/gemma.py).

use serde_json::Value as Json;

use super::dense::{Dense, Norms, Sizes};
use super::names::{Module, Name, name};
use super::{Architecture, Description, Error, llama, optional, window, wrong};
use modelve_gguf::Value;

/// `Gemma2ForCausalLM`.
pub(super) struct Gemma2;

/// Names that are missing from the common tables.
pub(super) static NAMES: &[Name] = &[name(
    "ffn_norm",
    "pre_feedforward_layernorm",
    Module::Norm,
    "evens out the vectors' sizes before the feed-forward network",
)];

/// What differs from Llama.
pub(super) const DENSE: Dense = Dense {
    architecture: "gemma2",
    hub_names: &["Gemma2ForCausalLM"],
    interleaved_rope: false,
    allows_bias: false,
    norms: Norms::Around,
    norm_offset: 1.0,
    activation_key: "hidden_activation",
    activations: &["gelu_pytorch_tanh"],
    has_window: true,
    names: NAMES,
    head_size: Some(256),
    writes_llama_keys: false,
    ties_embeddings: true,
    is_large: |_, _, _| false,
    ..llama::DENSE
};

/// The number of layers by which llama.cpp recognizes the model of 27 billion weights.
const LAYERS_OF_27B: u32 = 46;
/// Every second layer attends to the whole text.
const EVERY: u32 = 2;

impl Architecture for Gemma2 {
    fn hub_names(&self) -> &'static [&'static str] {
        DENSE.hub_names()
    }

    fn gguf_name(&self) -> &'static str {
        DENSE.gguf_name()
    }

    fn names(&self) -> &'static [Name] {
        DENSE.names()
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        let mut description = DENSE.describe(config)?;
        let sizes = DENSE.sizes(config)?;
        check_scale(config, &sizes, LAYERS_OF_27B)?;
        if optional(config, "tie_word_embeddings")? == Some(false) {
            let expected = "llama.cpp takes the embedding for the output";
            return Err(wrong("tie_word_embeddings", false, expected));
        }
        description
            .weights
            .retain(|weight| weight.name != "output.weight");
        description.ignored = &[".rotary_emb.inv_freq", "lm_head.weight"];

        let mut keys = soft_caps(config)?;
        keys.extend(window::keys(config, sizes.layers, EVERY)?);
        add(&mut description, keys);
        Ok(description)
    }
}

/// Adds the architecture's keys, and the key that no space is added before a text.
pub(super) fn add(description: &mut Description, keys: Vec<(&'static str, Value)>) {
    let prefix = description.architecture;
    let keys = keys.into_iter();
    description
        .metadata
        .extend(keys.map(|(key, value)| (format!("{prefix}.{key}"), value)));
    let key = "tokenizer.ggml.add_space_prefix".to_owned();
    description.metadata.push((key, Value::Bool(false)));
}

/// The soft caps of attention scores and logits.
fn soft_caps(config: &Json) -> Result<Vec<(&'static str, Value)>, Error> {
    let mut keys = Vec::new();
    for (key, metadata, usual) in [
        ("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", "final_logit_softcapping", 30.0),
    ] {
        // Null turns the cap off, which is zero in a GGUF.
        let cap: f64 = match config.get(key) {
            None => usual,
            Some(_) => optional(config, key)?.unwrap_or(0.0),
        };
        if !(cap.is_finite() && cap >= 0.0) {
            return Err(wrong(key, cap, "a positive number is needed"));
        }
        keys.push((metadata, Value::F32(cap as f32)));
    }
    Ok(keys)
}

/// Checks the scale of attention scores. transformers divides queries by the root of
/// `query_pre_attn_scalar`, for which a GGUF has no key: llama.cpp divides by the root of the size
/// of a head or, for models that it recognizes by their number of layers, of the hidden size
/// divided by the number of heads.
pub(super) fn check_scale(config: &Json, sizes: &Sizes, layers_of_27b: u32) -> Result<(), Error> {
    const KEY: &str = "query_pre_attn_scalar";
    let stated: f64 = optional(config, KEY)?.unwrap_or(256.0);
    let computed = match sizes.layers == layers_of_27b {
        true => sizes.hidden / sizes.heads,
        false => sizes.head,
    };
    match stated == computed as f64 {
        true => Ok(()),
        false => {
            let expected = format!("llama.cpp computes with {computed} for a model of these sizes");
            Err(wrong(KEY, stated, expected))
        }
    }
}
