//! Qwen 3: `Qwen3ForCausalLM`.
//!
//! `Qwen3Model` of llama.cpp's converter (conversion/qwen.py).

use super::dense::{Dense, QueryKeyNorm};
use super::llama;

/// What differs from Llama.
pub(super) const DENSE: Dense = Dense {
    architecture: "qwen3",
    hub_names: &["Qwen3ForCausalLM"],
    interleaved_rope: false,
    allows_bias: false,
    query_key_norm: QueryKeyNorm::PerHead,
    head_size: Some(128),
    always_writes_head_size: true,
    writes_llama_keys: false,
    is_large: |_, _, _| false,
    ..llama::DENSE
};

/// `Qwen3ForCausalLM`.
pub(super) static QWEN3: Dense = DENSE;
