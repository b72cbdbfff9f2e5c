//! gpt-oss in 16 bits: `GptOssForCausalLM`.
//!
//! `GptOssModel` of llama.cpp's converter (conversion/gpt_oss.py). Every layer has experts whose
//! gate and up matrices are interleaved column by column in one tensor, and attention sinks, which
//! let a head attend to nothing.

use serde_json::Value as Json;

use super::names::{Module, Name, name};
use super::rope::Rope;
use super::{Architecture, Arrangement, Description, Error, MOST_ROWS, Weight};
use super::{optional, required, window, within, wrong};
use modelve_gguf::Value;

/// `GptOssForCausalLM`.
pub(super) struct GptOss;

/// GGUF's name for it.
const ARCHITECTURE: &str = "gpt-oss";

/// Its names in checkpoints.
#[rustfmt::skip]
static NAMES: &[Name] = &[
    name("ffn_gate_inp", "mlp.router", Module::Linear, "the router: which experts a token goes to"),
    name("ffn_gate_exps", "mlp.experts.gate_up_proj", Module::Linear, "the gates of all experts"),
    name("ffn_up_exps", "mlp.experts.gate_up_proj", Module::Linear, "the widening matrices of all experts"),
];

/// Every second layer attends to the whole text.
const EVERY: u32 = 2;

struct Sizes {
    hidden: u64,
    ffn: u64,
    query: u64,
    key: u64,
    heads: u64,
    vocab: u64,
    experts: u64,
}

impl Architecture for GptOss {
    fn hub_names(&self) -> &'static [&'static str] {
        &["GptOssForCausalLM"]
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
        let (heads, kv_heads) = (size("num_attention_heads")?, size("num_key_value_heads")?);
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("it must divide num_attention_heads {heads}");
            return Err(wrong("num_key_value_heads", kv_heads, expected));
        }
        let head: u64 = optional(config, "head_dim")?.unwrap_or(64);
        let head = within("head_dim", head, 1 << 12)?;
        let layers = super::layers(config, "num_hidden_layers")?;
        let context = super::context(config, 131_072)?;
        let sizes = Sizes {
            hidden: size("hidden_size")?,
            ffn: size("intermediate_size")?,
            query: within("num_attention_heads", heads * head, MOST_ROWS)?,
            key: kv_heads * head,
            heads,
            vocab: size("vocab_size")?,
            experts: within(
                "num_local_experts",
                required(config, "num_local_experts")?,
                1 << 12,
            )?,
        };
        let used = within(
            "num_experts_per_tok",
            required(config, "num_experts_per_tok")?,
            sizes.experts,
        )?;
        let epsilon: f64 = optional(config, "rms_norm_eps")?.unwrap_or(1e-5);
        let rope = Rope::read(config, 150_000.0, context)?;

        let number = |value: u64| Value::U32(value as u32);
        let mut keys = vec![
            ("block_count", Value::U32(layers)),
            ("context_length", number(context)),
            ("embedding_length", number(sizes.hidden)),
            ("feed_forward_length", number(sizes.ffn)),
            ("attention.head_count", number(heads)),
            ("attention.head_count_kv", number(kv_heads)),
            ("rope.freq_base", Value::F32(rope.theta as f32)),
            (
                "attention.layer_norm_rms_epsilon",
                Value::F32(epsilon as f32),
            ),
            ("expert_count", number(sizes.experts)),
            ("expert_used_count", number(used)),
            ("attention.key_length", number(head)),
            ("attention.value_length", number(head)),
            ("expert_feed_forward_length", number(sizes.ffn)),
        ];
        keys.extend(rope.keys.iter().cloned());
        keys.extend(window::keys(config, layers, EVERY)?);
        let metadata = keys.into_iter();
        let metadata = metadata.map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value));
        Ok(Description {
            architecture: ARCHITECTURE,
            metadata: metadata.collect(),
            weights: weights(layers, &sizes),
            ignored: &[".rotary_emb.inv_freq"],
            layers,
            heads_per_kv_head: (heads / kv_heads) as u32,
            experts: sizes.experts as u32,
            vocab_size: sizes.vocab,
            notes: rope.note.into_iter().collect(),
            ..Description::default()
        })
    }
}

/// Refuses what llama.cpp's graph does not compute.
fn refuse_variants(config: &Json) -> Result<(), Error> {
    for (key, known) in [("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)] {
        let stated: f64 = optional(config, key)?.unwrap_or(known);
        if stated != known {
            return Err(wrong(
                key,
                stated,
                format!("llama.cpp computes with {known}"),
            ));
        }
    }
    for (key, known) in [("attention_bias", true), ("tie_word_embeddings", false)] {
        let stated: bool = optional(config, key)?.unwrap_or(known);
        if stated != known {
            return Err(wrong(
                key,
                stated,
                format!("llama.cpp computes with {known}"),
            ));
        }
    }
    Ok(())
}

fn weights(layers: u32, sizes: &Sizes) -> Vec<Weight> {
    let weight = |name: String, shape: &[u64]| Weight::new(ARCHITECTURE, name, shape);
    let Sizes {
        hidden,
        ffn,
        query,
        key,
        heads,
        vocab,
        experts,
    } = *sizes;
    let mut weights = vec![
        weight("token_embd.weight".into(), &[vocab, hidden]),
        weight("output_norm.weight".into(), &[hidden]),
        weight("output.weight".into(), &[vocab, hidden]),
    ];
    for layer in 0..layers {
        let block = |name: &str| format!("blk.{layer}.{name}");
        for name in ["attn_norm", "post_attention_norm"] {
            weights.push(weight(block(&format!("{name}.weight")), &[hidden]));
        }
        for (name, rows, columns) in [
            ("attn_q", query, hidden),
            ("attn_k", key, hidden),
            ("attn_v", key, hidden),
            ("attn_output", hidden, query),
            ("ffn_gate_inp", experts, hidden),
        ] {
            weights.push(weight(block(&format!("{name}.weight")), &[rows, columns]));
            weights.push(weight(block(&format!("{name}.bias")), &[rows]));
        }
        let mut sinks = weight(block("attn_sinks.weight"), &[heads]);
        bare(&mut sinks, "");
        weights.push(sinks);
        // In a tensor of two interleaved matrices, each has every second column.
        for (name, rows, columns, first, step) in [
            ("ffn_gate_exps", ffn, hidden, 0, 2),
            ("ffn_up_exps", ffn, hidden, 1, 2),
            ("ffn_down_exps", hidden, ffn, 0, 1),
        ] {
            let mut matrix = weight(block(&format!("{name}.weight")), &[experts, rows, columns]);
            matrix.arrangement = Arrangement::Columns { first, step };
            bare(&mut matrix, "");
            let mut bias = weight(block(&format!("{name}.bias")), &[experts, rows]);
            bias.arrangement = Arrangement::Every { first, step };
            bare(&mut bias, "_bias");
            weights.extend([matrix, bias]);
        }
    }
    weights
}

/// Sets the end of a source's name, for parameters that are not in a module and therefore have no
/// `.weight`.
fn bare(weight: &mut Weight, end: &str) {
    for source in &mut weight.sources {
        let stem = source
            .strip_suffix(".weight")
            .or(source.strip_suffix(".bias"));
        *source = format!("{}{end}", stem.unwrap_or(source));
    }
}

#[cfg(test)]
mod tests {
    use crate::arch::describe;
    use serde_json::json;

    #[test]
    fn gate_and_up_are_columns_in_turn_of_one_matrix() {
        let config = json!({"architectures": ["GptOssForCausalLM"], "hidden_size": 8, "head_dim": 4,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 30, "num_local_experts": 3,
            "num_experts_per_tok": 2, "sliding_window": 16});
        let description = describe(&config).unwrap();
        let of = |name: &str| {
            let mut weights = description.weights.iter();
            weights.find(|weight| weight.name == name).unwrap()
        };
        let up = of("blk.1.ffn_up_exps.weight");
        assert_eq!(up.sources, ["model.layers.1.mlp.experts.gate_up_proj"]);
        assert_eq!(
            (up.shape.clone(), up.source_shape()),
            (vec![3, 6, 8], vec![3, 8, 12])
        );
        let bias = of("blk.1.ffn_up_exps.bias");
        assert_eq!(
            bias.sources,
            ["model.layers.1.mlp.experts.gate_up_proj_bias"]
        );
        assert_eq!(bias.source_shape(), [3, 12]);
        assert_eq!(
            of("blk.0.attn_sinks.weight").sources,
            ["model.layers.0.self_attn.sinks"]
        );
        assert_eq!(description.notes, [""; 0]);
        let mut published = config.clone();
        published["rope_parameters"] = json!({"rope_type": "yarn", "factor": 32.0,
            "original_max_position_embeddings": 4096, "truncate": false});
        let notes = describe(&published).unwrap().notes;
        assert!(notes[0].contains("truncate"), "{notes:?}");
        let mut limited = config.clone();
        limited["swiglu_limit"] = json!(10.0);
        assert!(
            describe(&limited)
                .unwrap_err()
                .to_string()
                .contains("swiglu_limit")
        );
    }
}
