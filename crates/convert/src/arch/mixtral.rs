//! Mixtral: `MixtralForCausalLM`, Llama with experts in place of one feed-forward network.
//!
//! `LlamaModel` of llama.cpp's converter (conversion/llama.py).

use super::dense::{Dense, Experts};
use super::llama;
use super::names::{Module, Name, name};

/// What differs from Llama. In a GGUF both have the architecture `llama`.
pub(super) static MIXTRAL: Dense = Dense {
    hub_names: &["MixtralForCausalLM"],
    allows_bias: false,
    names: NAMES,
    experts: Some(Experts {
        width_key: "intermediate_size",
        writes_width: false,
        share_key: None,
    }),
    rope_theta: 1_000_000.0,
    norm_epsilon: 1e-5,
    ..llama::DENSE
};

/// Its names in checkpoints.
#[rustfmt::skip]
static NAMES: &[Name] = &[
    name("ffn_gate_inp", "block_sparse_moe.gate", Module::Linear, "the router: which experts a token goes to"),
    name("ffn_gate_exps", "block_sparse_moe.experts.w1", Module::Linear, "the gates of all experts"),
    name("ffn_down_exps", "block_sparse_moe.experts.w2", Module::Linear, "the narrowing matrices of all experts"),
    name("ffn_up_exps", "block_sparse_moe.experts.w3", Module::Linear, "the widening matrices of all experts"),
];
