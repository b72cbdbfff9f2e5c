//! Qwen 2 and 2.5: `Qwen2ForCausalLM`.
//!
//! `Qwen2Model` of llama.cpp's converter (conversion/qwen.py).

use super::dense::Dense;
use super::llama;

/// What differs from Llama.
pub(super) static QWEN2: Dense = Dense {
    architecture: "qwen2",
    hub_names: &["Qwen2ForCausalLM"],
    interleaved_rope: false,
    has_qkv_bias: true,
    allows_bias: false,
    always_writes_head_size: false,
    writes_llama_keys: false,
    is_large: |layers, _, _| layers == 80,
    ..llama::DENSE
};
