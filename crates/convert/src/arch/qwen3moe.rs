//! Qwen 3 with experts: `Qwen3MoeForCausalLM`.
//!
//! `Qwen3MoeModel` of llama.cpp's converter (conversion/qwen.py).

use serde_json::Value as Json;

use super::dense::{Dense, Experts};
use super::{Architecture, Description, Error, optional, qwen3, wrong};

/// `Qwen3MoeForCausalLM`.
pub(super) struct Qwen3Moe;

/// What differs from Qwen 3.
const DENSE: Dense = Dense {
    architecture: "qwen3moe",
    hub_names: &["Qwen3MoeForCausalLM"],
    experts: Some(Experts {
        width_key: "moe_intermediate_size",
        writes_width: true,
        share_key: Some("norm_topk_prob"),
    }),
    head_size: None,
    always_writes_head_size: false,
    ..qwen3::DENSE
};

impl Architecture for Qwen3Moe {
    fn hub_names(&self) -> &'static [&'static str] {
        DENSE.hub_names()
    }

    fn gguf_name(&self) -> &'static str {
        DENSE.gguf_name()
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        let step: Option<u64> = optional(config, "decoder_sparse_step")?;
        if let Some(step) = step.filter(|&step| step != 1) {
            let expected = "llama.cpp computes with experts in every layer";
            return Err(wrong("decoder_sparse_step", step, expected));
        }
        let plain: Vec<u64> = optional(config, "mlp_only_layers")?.unwrap_or_default();
        if !plain.is_empty() {
            let expected = "llama.cpp computes with experts in every layer";
            return Err(wrong("mlp_only_layers", format!("{plain:?}"), expected));
        }
        DENSE.describe(config)
    }
}
