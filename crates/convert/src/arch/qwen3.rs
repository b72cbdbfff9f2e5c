//! Qwen 3: `Qwen3ForCausalLM`.
//!
//! `Qwen3Model` of llama.cpp's converter (conversion/qwen.py).

use serde_json::Value as Json;

use super::dense::{Dense, Norms, QueryKeyNorm};
use super::{Architecture, Description, Error, llama};

/// `Qwen3ForCausalLM`.
pub(super) struct Qwen3;

const DENSE: Dense = Dense {
    architecture: "qwen3",
    turns_neighbours: false,
    allows_bias: false,
    norms: Norms::Before,
    query_key_norm: QueryKeyNorm::PerHead,
    head_size: Some(128),
    always_writes_head_size: true,
    writes_vocab_size: false,
    is_large: |_, _, _| false,
    ..llama::DENSE
};

impl Architecture for Qwen3 {
    fn hub_names(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        DENSE.describe(config)
    }
}
