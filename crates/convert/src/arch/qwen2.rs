//! Qwen 2 and 2.5: `Qwen2ForCausalLM`.
//!
//! `Qwen2Model` of llama.cpp's converter (conversion/qwen.py).

use serde_json::Value as Json;

use super::dense::{Dense, Norms, QueryKeyNorm};
use super::{Architecture, Description, Error, llama};

/// `Qwen2ForCausalLM`.
pub(super) struct Qwen2;

const DENSE: Dense = Dense {
    architecture: "qwen2",
    turns_neighbours: false,
    has_qkv_bias: true,
    allows_bias: false,
    norms: Norms::Before,
    query_key_norm: QueryKeyNorm::None,
    always_writes_head_size: false,
    writes_vocab_size: false,
    is_large: |layers, _, _| layers == 80,
    ..llama::DENSE
};

impl Architecture for Qwen2 {
    fn hub_names(&self) -> &'static [&'static str] {
        &["Qwen2ForCausalLM"]
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        DENSE.describe(config)
    }
}
