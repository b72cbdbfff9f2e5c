//! OLMo 2: `Olmo2ForCausalLM`.
//!
//! `Olmo2Model` of llama.cpp's converter (conversion/olmo.py).

use serde_json::Value as Json;

use super::dense::{Dense, Norms, QueryKeyNorm};
use super::{Architecture, Description, Error, llama};

/// `Olmo2ForCausalLM`.
pub(super) struct Olmo2;

const DENSE: Dense = Dense {
    architecture: "olmo2",
    turns_neighbours: false,
    allows_bias: false,
    norms: Norms::After,
    query_key_norm: QueryKeyNorm::Whole,
    always_writes_head_size: false,
    writes_vocab_size: false,
    norm_epsilon: 1e-5,
    is_large: |_, _, _| false,
    ..llama::DENSE
};

impl Architecture for Olmo2 {
    fn hub_names(&self) -> &'static [&'static str] {
        &["Olmo2ForCausalLM"]
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        DENSE.describe(config)
    }
}
