//! Llama 1 to 3, TinyLlama, SmolLM 1 and 2, Yi: `LlamaForCausalLM`; Mistral, whose graph is the same.
//!
//! `LlamaModel` of llama.cpp's converter (conversion/llama.py).

use serde_json::Value as Json;

use super::dense::{Dense, Norms, QueryKeyNorm};
use super::{Architecture, Description, Error};
use modelve_gguf::Value;

/// `LlamaForCausalLM` and `MistralForCausalLM`.
pub(super) struct Llama;

/// The description of Llama; other architectures state what differs from it.
pub(super) const DENSE: Dense = Dense {
    architecture: "llama",
    hub_names: &["LlamaForCausalLM", "MistralForCausalLM"],
    interleaved_rope: true,
    has_qkv_bias: false,
    allows_bias: true,
    norms: Norms::Before,
    norm_offset: 0.0,
    activation_key: "hidden_act",
    activations: &["silu", "swish"],
    has_window: false,
    names: &[],
    experts: None,
    query_key_norm: QueryKeyNorm::None,
    head_size: None,
    always_writes_head_size: true,
    writes_llama_keys: true,
    rope_theta: 10_000.0,
    norm_epsilon: 1e-6,
    ties_embeddings: false,
    is_large: |layers, heads, kv_heads| layers == 80 && heads != kv_heads,
};

/// The vocabulary size by which the converter recognizes SmolLM and Granite, which use no BOS token.
const WITHOUT_BOS: u64 = 49_152;

impl Architecture for Llama {
    fn hub_names(&self) -> &'static [&'static str] {
        DENSE.hub_names()
    }

    fn gguf_name(&self) -> &'static str {
        DENSE.gguf_name()
    }

    fn is_large(&self, layers: u64, heads: u64, kv_heads: u64) -> bool {
        DENSE.is_large(layers, heads, kv_heads)
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        let mut description = DENSE.describe(config)?;
        if description.vocab_size == WITHOUT_BOS {
            let key = "tokenizer.ggml.add_bos_token".to_owned();
            description.metadata.push((key, Value::Bool(false)));
        }
        Ok(description)
    }
}
