//! OLMo 2: `Olmo2ForCausalLM`.
//!
//! `Olmo2Model` of llama.cpp's converter (conversion/olmo.py).

use super::dense::{Dense, Norms, QueryKeyNorm};
use super::llama;

/// What differs from Llama.
pub(super) static OLMO2: Dense = Dense {
    architecture: "olmo2",
    hub_names: &["Olmo2ForCausalLM"],
    interleaved_rope: false,
    allows_bias: false,
    norms: Norms::After,
    query_key_norm: QueryKeyNorm::Whole,
    always_writes_head_size: false,
    writes_llama_keys: false,
    norm_epsilon: 1e-5,
    is_large: |_, _, _| false,
    ..llama::DENSE
};
