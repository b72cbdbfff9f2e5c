//! GPT-2: `GPT2LMHeadModel`.
//!
//! `GPT2Model` of llama.cpp's converter (conversion/gpt2.py). Position embeddings are added to the
//! token embeddings, norms have biases, and matrices are stored transposed, as in OpenAI's original
//! code.

use serde_json::Value as Json;

use super::names::{Module, Name, name};
use super::{Architecture, Arrangement, Description, Error, MOST_ROWS, Weight};
use super::{optional, within, wrong};
use modelve_gguf::Value;

/// `GPT2LMHeadModel`.
pub(super) struct Gpt2;

/// GGUF's name for it.
const ARCHITECTURE: &str = "gpt2";

/// Its names in checkpoints.
#[rustfmt::skip]
static NAMES: &[Name] = &[
    name("token_embd", "transformer.wte", Module::Embedding, "one vector per token of the vocabulary: what a token means before any context"),
    name("position_embd", "transformer.wpe", Module::Embedding, "one vector per position, added to the token's"),
    name("output_norm", "transformer.ln_f", Module::Norm, "evens out the sizes of the last layer's vectors before they become logits"),
    name("attn_norm", "ln_1", Module::Norm, "evens out the vectors' sizes before attention"),
    name("attn_qkv", "attn.c_attn", Module::Linear, "queries, keys and values in one matrix: what a token looks for, offers and passes on"),
    name("attn_output", "attn.c_proj", Module::Linear, "what the heads found, back into the residual stream"),
    name("ffn_norm", "ln_2", Module::Norm, "evens out the vectors' sizes before the feed-forward network"),
    name("ffn_up", "mlp.c_fc", Module::Linear, "widens the vector into the features of the feed-forward network"),
    name("ffn_down", "mlp.c_proj", Module::Linear, "the features back into the residual stream"),
];

impl Architecture for Gpt2 {
    fn hub_names(&self) -> &'static [&'static str] {
        &["GPT2LMHeadModel"]
    }

    fn gguf_name(&self) -> &'static str {
        ARCHITECTURE
    }

    fn names(&self) -> &'static [Name] {
        NAMES
    }

    fn layers(&self) -> &'static str {
        "transformer.h"
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        refuse_variants(config)?;
        let size = |key| super::size(config, key);
        let (hidden, heads, vocab) = (size("n_embd")?, size("n_head")?, size("vocab_size")?);
        if !hidden.is_multiple_of(heads) {
            let expected = format!("it must divide n_embd {hidden}");
            return Err(wrong("n_head", heads, expected));
        }
        let layers = super::layers(config, "n_layer")?;
        let positions = size("n_positions")?;
        let ffn: Option<u64> = optional(config, "n_inner")?;
        let ffn = within("n_inner", ffn.unwrap_or(4 * hidden), MOST_ROWS)?;
        let epsilon: f64 = optional(config, "layer_norm_epsilon")?.unwrap_or(1e-5);

        let number = |value: u64| Value::U32(value as u32);
        let keys = [
            ("block_count", Value::U32(layers)),
            ("context_length", number(positions)),
            ("embedding_length", number(hidden)),
            ("feed_forward_length", number(ffn)),
            ("attention.head_count", number(heads)),
            ("attention.layer_norm_epsilon", Value::F32(epsilon as f32)),
        ];
        let metadata = keys.into_iter();
        let metadata = metadata.map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value));
        Ok(Description {
            architecture: ARCHITECTURE,
            metadata: metadata.collect(),
            weights: weights(config, layers, &[vocab, positions, hidden, ffn])?,
            // Attention masks; the second pattern is for OpenAI's checkpoints, whose names have no
            // prefix.
            ignored: &[".attn.bias", ".attn.masked_bias"],
            prefixes: &[("", "transformer.")],
            layers,
            heads_per_kv_head: 1,
            vocab_size: vocab,
            ..Description::default()
        })
    }
}

/// Refuses what llama.cpp's graph does not compute.
fn refuse_variants(config: &Json) -> Result<(), Error> {
    for (key, known) in [
        ("scale_attn_weights", true),
        ("scale_attn_by_inverse_layer_idx", false),
        ("add_cross_attention", false),
    ] {
        let stated: bool = optional(config, key)?.unwrap_or(known);
        if stated != known {
            return Err(wrong(
                key,
                stated,
                format!("llama.cpp computes with {known}"),
            ));
        }
    }
    let activation: Option<String> = optional(config, "activation_function")?;
    match activation {
        Some(other) if !GELU.contains(&other.as_str()) => {
            let expected = "llama.cpp computes gelu_new for this architecture";
            Err(wrong("activation_function", other, expected))
        }
        _ => Ok(()),
    }
}

/// Names of the activation that ggml computes, which approximates GELU with tanh.
pub(super) const GELU: [&str; 3] = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"];

fn weights(config: &Json, layers: u32, sizes: &[u64; 4]) -> Result<Vec<Weight>, Error> {
    let [vocab, positions, hidden, ffn] = *sizes;
    let weight = |name: &str, shape: &[u64]| Weight::new(ARCHITECTURE, name, shape);
    let tied: bool = optional(config, "tie_word_embeddings")?.unwrap_or(true);
    let mut weights = vec![
        weight("token_embd.weight", &[vocab, hidden]),
        weight("position_embd.weight", &[positions, hidden]),
        weight("output_norm.weight", &[hidden]),
        weight("output_norm.bias", &[hidden]),
        Weight {
            optional: tied,
            ..weight("output.weight", &[vocab, hidden])
        },
    ];
    for layer in 0..layers {
        for name in ["attn_norm", "ffn_norm"] {
            weights.push(weight(&format!("blk.{layer}.{name}.weight"), &[hidden]));
            weights.push(weight(&format!("blk.{layer}.{name}.bias"), &[hidden]));
        }
        for (name, rows, columns) in [
            ("attn_qkv", 3 * hidden, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_up", ffn, hidden),
            ("ffn_down", hidden, ffn),
        ] {
            weights.push(Weight {
                arrangement: Arrangement::Columns { first: 0, step: 1 },
                ..weight(&format!("blk.{layer}.{name}.weight"), &[rows, columns])
            });
            weights.push(weight(&format!("blk.{layer}.{name}.bias"), &[rows]));
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use crate::arch::describe;
    use serde_json::json;

    #[test]
    fn matrices_are_turned_and_both_spellings_of_names_are_known() {
        let config = json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_head": 2,
            "n_layer": 1, "n_positions": 16, "vocab_size": 30});
        let description = describe(&config).unwrap();
        let of = |name: &str| {
            let mut weights = description.weights.iter();
            weights.find(|weight| weight.name == name).unwrap()
        };
        let qkv = of("blk.0.attn_qkv.weight");
        assert_eq!(qkv.sources, ["transformer.h.0.attn.c_attn.weight"]);
        assert_eq!(
            (qkv.shape.as_slice(), qkv.source_shape()),
            ([24, 8].as_slice(), vec![8, 24])
        );
        assert!(of("output.weight").optional);
        let mut meant = description.meant("h.0.ln_1.bias");
        assert!(meant.any(|name| name == of("blk.0.attn_norm.bias").sources[0]));
        let mut scaled = config.clone();
        scaled["scale_attn_by_inverse_layer_idx"] = json!(true);
        assert!(
            describe(&scaled)
                .unwrap_err()
                .to_string()
                .contains("computes with false")
        );
    }
}
