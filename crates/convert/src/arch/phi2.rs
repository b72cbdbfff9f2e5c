//! Phi-1, Phi-1.5 and Phi-2: `PhiForCausalLM`.
//!
//! `Phi2Model` of llama.cpp's converter (conversion/phi.py). Attention and the feed-forward network
//! read the same normed vector, and everything has a bias.

use serde_json::Value as Json;

use super::gpt2::GELU;
use super::names::{Module, Name, name};
use super::rope::Rope;
use super::{Architecture, Description, Error, Weight};
use super::{optional, wrong};
use modelve_gguf::Value;

/// `PhiForCausalLM`.
pub(super) struct Phi2;

/// GGUF's name for it.
const ARCHITECTURE: &str = "phi2";

/// Its names in checkpoints.
#[rustfmt::skip]
static NAMES: &[Name] = &[
    name("output_norm", "model.final_layernorm", Module::Norm, "evens out the sizes of the last layer's vectors before they become logits"),
    name("attn_norm", "input_layernorm", Module::Norm, "evens out the vectors' sizes before attention and the feed-forward network"),
    name("attn_output", "self_attn.dense", Module::Linear, "what the heads found, back into the residual stream"),
    name("ffn_up", "mlp.fc1", Module::Linear, "widens the vector into the features of the feed-forward network"),
    name("ffn_down", "mlp.fc2", Module::Linear, "the features back into the residual stream"),
];

impl Architecture for Phi2 {
    fn hub_names(&self) -> &'static [&'static str] {
        &["PhiForCausalLM"]
    }

    fn gguf_name(&self) -> &'static str {
        ARCHITECTURE
    }

    fn names(&self) -> &'static [Name] {
        NAMES
    }

    fn describe(&self, config: &Json) -> Result<Description, Error> {
        refuse_variants(config)?;
        let size = |key| super::size(config, key);
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let (ffn, vocab) = (size("intermediate_size")?, size("vocab_size")?);
        if !hidden.is_multiple_of(heads) {
            let expected = format!("it must divide hidden_size {hidden}");
            return Err(wrong("num_attention_heads", heads, expected));
        }
        let kv_heads: Option<u64> = optional(config, "num_key_value_heads")?;
        if let Some(kv_heads) = kv_heads.filter(|&kv_heads| kv_heads != heads) {
            let expected = format!("llama.cpp computes with one for each of the {heads} heads");
            return Err(wrong("num_key_value_heads", kv_heads, expected));
        }
        let layers = super::layers(config, "num_hidden_layers")?;
        let context = super::context(config, 2048)?;
        let epsilon: f64 = optional(config, "layer_norm_eps")?.unwrap_or(1e-5);
        let share: Option<f64> = optional(&config["rope_parameters"], "partial_rotary_factor")?;
        let share = share
            .or(optional(config, "partial_rotary_factor")?)
            .unwrap_or(0.5);
        if !(share > 0.0 && share <= 1.0) {
            return Err(wrong("partial_rotary_factor", share, "0 to 1 are possible"));
        }
        let rope = Rope::read(config, 10_000.0, context)?;

        let number = |value: u64| Value::U32(value as u32);
        let mut keys = vec![
            ("context_length", number(context)),
            ("embedding_length", number(hidden)),
            ("feed_forward_length", number(ffn)),
            ("block_count", Value::U32(layers)),
            ("attention.head_count", number(heads)),
            ("attention.head_count_kv", number(heads)),
            ("attention.layer_norm_epsilon", Value::F32(epsilon as f32)),
            (
                "rope.dimension_count",
                number((share * hidden as f64) as u64 / heads),
            ),
            ("rope.freq_base", Value::F32(rope.theta as f32)),
        ];
        keys.extend(rope.keys.iter().cloned());
        let keys = keys.into_iter();
        let mut metadata: Vec<(String, Value)> = keys
            .map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value))
            .collect();
        metadata.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(false)));
        Ok(Description {
            architecture: ARCHITECTURE,
            metadata,
            weights: weights(layers, hidden, ffn, vocab),
            ignored: &[".rotary_emb.inv_freq"],
            layers,
            heads_per_kv_head: 1,
            vocab_size: vocab,
            ..Description::default()
        })
    }
}

/// Refuses what llama.cpp's graph does not compute.
fn refuse_variants(config: &Json) -> Result<(), Error> {
    for key in ["qk_layernorm", "tie_word_embeddings"] {
        if optional(config, key)? == Some(true) {
            return Err(wrong(key, true, "llama.cpp has no place for it"));
        }
    }
    let activation: Option<String> = optional(config, "hidden_act")?;
    match activation {
        Some(other) if !GELU.contains(&other.as_str()) => {
            let expected = "llama.cpp computes gelu_new for this architecture";
            Err(wrong("hidden_act", other, expected))
        }
        _ => Ok(()),
    }
}

fn weights(layers: u32, hidden: u64, ffn: u64, vocab: u64) -> Vec<Weight> {
    let weight = |name: String, shape: &[u64]| Weight::new(ARCHITECTURE, name, shape);
    let mut weights = vec![weight("token_embd.weight".into(), &[vocab, hidden])];
    let mut add = |name: String, shape: &[u64]| {
        weights.push(weight(format!("{name}.weight"), shape));
        weights.push(weight(format!("{name}.bias"), &shape[..1]));
    };
    add("output_norm".into(), &[hidden]);
    add("output".into(), &[vocab, hidden]);
    for layer in 0..layers {
        add(format!("blk.{layer}.attn_norm"), &[hidden]);
        for (name, rows, columns) in [
            ("attn_q", hidden, hidden),
            ("attn_k", hidden, hidden),
            ("attn_v", hidden, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_up", ffn, hidden),
            ("ffn_down", hidden, ffn),
        ] {
            add(format!("blk.{layer}.{name}"), &[rows, columns]);
        }
    }
    weights
}
