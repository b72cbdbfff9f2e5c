//! SmolLM3: `SmolLM3ForCausalLM`.
//!
//! `SmolLM3Model` of llama.cpp's converter (conversion/llama.py): Llama, except that every fourth
//! layer has no rotary positions.

use serde_json::Value as Json;

use super::dense::Dense;
use super::{Architecture, Description, Error, llama, optional, wrong};

/// `SmolLM3ForCausalLM`.
pub(super) struct SmolLm3;

/// What differs from Llama.
const DENSE: Dense = Dense {
    architecture: "smollm3",
    hub_names: &["SmolLM3ForCausalLM"],
    allows_bias: false,
    always_writes_head_size: false,
    rope_theta: 2_000_000.0,
    ties_embeddings: true,
    is_large: |_, _, _| false,
    ..llama::DENSE
};

/// llama.cpp leaves out the rotary positions of every fourth layer.
const EVERY: usize = 4;

impl Architecture for SmolLm3 {
    fn hub_names(&self) -> &'static [&'static str] {
        DENSE.hub_names()
    }

    fn gguf_name(&self) -> &'static str {
        DENSE.gguf_name()
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        let description = DENSE.describe(config)?;
        let expected = "llama.cpp leaves every fourth layer without positions";
        let listed: Option<Vec<u8>> = optional(config, "no_rope_layers")?;
        let interval: Option<usize> = optional(config, "no_rope_layer_interval")?;
        match (listed, interval) {
            (Some(listed), _) => {
                let mut turns = listed.iter().enumerate();
                let same = turns.all(|(layer, &turns)| (turns != 0) == ((layer + 1) % EVERY != 0));
                if !same || listed.len() != description.layers as usize {
                    return Err(wrong("no_rope_layers", format!("{listed:?}"), expected));
                }
            }
            (None, Some(interval)) if interval != EVERY => {
                return Err(wrong("no_rope_layer_interval", interval, expected));
            }
            _ => {}
        }
        Ok(description)
    }
}

#[cfg(test)]
mod tests {
    use crate::arch::describe;
    use serde_json::json;

    #[test]
    fn only_every_fourth_layer_may_be_without_positions() {
        let with = |layers: [u8; 4]| {
            describe(
                &json!({"architectures": ["SmolLM3ForCausalLM"], "hidden_size": 64,
                "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 100, "no_rope_layers": layers}),
            )
        };
        assert!(with([1, 1, 1, 0]).is_ok());
        let error = with([1, 0, 1, 0]).unwrap_err().to_string();
        assert!(error.contains("every fourth"), "{error}");
    }
}
